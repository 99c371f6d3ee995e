"""Installing the CrewAI adapter, taking it back, governing one tool, and other frameworks beside it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from crewai.hooks.dispatch import InterceptionPoint, get_global_hook_list
from crewai.tools import BaseTool, tool
from crewai.tools.base_tool import Tool
from crewai.tools.structured_tool import CrewStructuredTool
from langchain_core.tools import tool as langchain_tool

from outrider import wire
from outrider.errors import Code, Misconfigured
from outrider_adapters import crewai, crewai_seam, crewai_turns, langgraph, process, versions
from tests.support.adapters import eventually, served
from tests.support.gateway_server import GatewayServer, ServedCall, once, refusing, with_timeout
from tests.support.scripted_crewai import agent, asks, crew, llm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SEAM = [(kind, name) for kind in (BaseTool, Tool) for name in ("run", "arun")]
SEAM += [(CrewStructuredTool, "invoke"), (CrewStructuredTool, "ainvoke")]
HOOKS = [InterceptionPoint.PRE_TOOL_CALL, InterceptionPoint.POST_TOOL_CALL]


def seam() -> list[Any]:
    """All that the adapter touches of CrewAI."""
    return [getattr(kind, name) for kind, name in SEAM] + [list(get_global_hook_list(point)) for point in HOOKS]


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        try:
            yield server
        finally:
            crewai_seam._seam.some_tools = False  # govern() is for the process's life; the tests after start afresh
            crewai.uninstall()
            crewai_seam.end()


@tool
def search(query: str) -> str:
    """Searches."""
    return f"found {query}"


def test_importing_the_adapter_imports_nothing_of_crewai() -> None:
    """CrewAI takes seconds; a process that never installs does not pay them. ``governed`` works without."""
    code = """
        import sys
        from outrider_adapters import crewai
        crewai.govern(lambda query: query, name="local.plain")
        assert not any(name.partition(".")[0] == "crewai" for name in sys.modules), "CrewAI was imported"
        assert issubclass(crewai.Killed, Exception) and "crewai" in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "OTEL_SDK_DISABLED": "true", "CREWAI_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_installing_twice_is_nothing_new_and_installing_otherwise_is_told(gateway: GatewayServer) -> None:
    """One call stays one call, and one pair of hooks; other settings need ``uninstall`` first."""
    crewai.install(agent="researcher")
    once_installed = seam()
    crewai.install(agent="researcher")
    assert seam() == once_installed
    crew(agent(llm(asks(("search", {"query": "a"})), "done"), search)).kickoff()
    assert len(gateway.calls) == 1
    for other in ({"agent": "another"}, {"agent": "researcher", "subagents": True}):
        with pytest.raises(Misconfigured, match=r"uninstall\(\) first"):
            crewai.install(**other)


def test_uninstall_puts_crewai_back(gateway: GatewayServer) -> None:
    """Ungoverned, unpatched, without hooks, and gone from the gateway with a goodbye; and again."""
    before = seam()
    for _ in range(2):
        crewai.install(agent="researcher")
        assert all(now is not then for now, then in zip(seam()[:6], before[:6], strict=True))
        search.run(query="a")
        crewai.uninstall()
        assert seam() == before
    search.run(query="b")
    assert len(gateway.calls) == 2
    eventually(lambda: any(isinstance(frame, wire.Bye) for frame in gateway.said))
    crewai.uninstall()


def test_who_patched_over_us_keeps_working_after_uninstall(gateway: GatewayServer, monkeypatch: Any) -> None:
    """Ours stays below and passes everything on."""
    crewai.install(agent="researcher")
    ours = Tool.run
    monkeypatch.setattr(Tool, "run", lambda self, *args, **kwargs: f"<{ours(self, *args, **kwargs)}>")
    assert search.run(query="a") == "<found a>"
    crewai.uninstall()
    assert search.run(query="b") == "<found b>" and len(gateway.calls) == 1
    monkeypatch.undo()
    crewai_seam.end()


@pytest.mark.parametrize("native", [True, False], ids=["native", "react"])
@pytest.mark.parametrize("killed", [False, True])
def test_uninstall_while_a_call_runs_lets_it_end_governed(gateway: GatewayServer, native: bool, killed: bool) -> None:
    """Its end is reported, a kill of it ends its crew; only new calls are ungoverned, and nothing stays behind."""
    before = seam()
    begun, free = threading.Event(), threading.Event()

    @tool
    def slow() -> str:
        """Waits."""
        begun.set()
        free.wait(10)
        return "late"

    async def ends_badly(call: ServedCall) -> None:
        await call.execute(timeout_ms=20_000)
        call.fail(Code.KILLED, "killed meanwhile", outcome="unknown")

    gateway.script = ends_badly if killed else with_timeout(20_000)
    crewai.install(agent="researcher")
    answers: list[Any] = []

    def work() -> None:
        try:
            answers.append(crew(agent(llm(asks(("slow", {})), "done", native=native), slow)).kickoff().raw)
        except crewai.Killed as error:
            answers.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    crewai.uninstall()
    search.run(query="ungoverned")
    free.set()
    thread.join(20)
    assert [type(answer) for answer in answers] == [crewai.Killed if killed else str]
    eventually(lambda: any(isinstance(frame, wire.Bye) for frame in gateway.said))
    assert [end.state for end in gateway.ends()] == ["returned"] and len(gateway.calls) == 1
    assert seam() == before and not crewai_turns._live


def test_a_single_tool_can_be_governed_without_install(gateway: GatewayServer) -> None:
    """``govern(tool)``: that one and no other, under its name, also its copies and its structured twin."""

    class Mine(BaseTool):
        name: str = "mine"
        description: str = "Mine."

        def _run(self, query: str) -> str:
            return query

    mine = Mine()
    assert crewai.govern(mine, name="things.mine") is mine
    dumped = mine.model_dump()
    assert not any("outrider" in name for name in dumped)
    for one in (mine, copy.copy(mine), mine.model_copy(), agent(llm("done"), mine).copy().tools[0]):
        assert one.run(query="a") == "a"
    assert mine.to_structured_tool().invoke({"query": "b"}) == "b"
    search.run(query="c")
    for native in (True, False):
        script = asks(("search", {"query": "d"})), asks(("mine", {"query": "e"})), "done"
        crew(agent(llm(*script, native=native), search, mine)).kickoff()
    assert [call.open.tool for call in gateway.calls] == ["things.mine"] * 7


def test_a_refused_tool_of_one_govern_fails_alone(gateway: GatewayServer) -> None:
    """The hooks are there for it too."""
    gateway.script = refusing()

    @tool
    def mine() -> str:
        """Mine."""
        return "mine"

    crewai.govern(mine)
    group = crew(agent(llm(asks(("mine", {})), asks(("search", {"query": "a"})), "done"), mine, search))
    group.kickoff()
    (record,) = group.tasks[0].output.tool_failures
    assert (record.tool_name, record.failure.code) == ("mine", "denied")


def test_with_install_a_name_is_merely_a_name(gateway: GatewayServer) -> None:
    """The tool of an HTTP upstream is called there."""

    @tool
    def get_balance(account: str) -> str:
        """Reads the balance of an account."""
        raise NotImplementedError

    async def answers(call: ServedCall) -> None:
        call.give({"balance": 7})

    gateway.scripts["ledger.get_balance"] = answers
    crewai.install(agent="researcher")
    crewai.govern(get_balance, name="ledger.get_balance")
    model = llm(asks(("get_balance", {"account": "a"})), asks(("search", {"query": "a"})), "done")
    crew(agent(model, get_balance, search)).kickoff()
    assert [call.open.tool for call in gateway.calls] == ["ledger.get_balance", "local.search"]
    assert "{'balance': 7}" in model.last_heard


def test_plain_functions_are_governed_by_the_same_name(gateway: GatewayServer) -> None:
    """``crewai.governed`` is the decorator for what is no tool."""

    @crewai.governed(name="mail.send")
    def send(to: str) -> str:
        return f"sent to {to}"

    assert send("you") == "sent to you" and gateway.calls[0].open.tool == "mail.send"


@pytest.mark.parametrize("version", ["1.15.29", "1.16.0", "1.6.1", "2.0.0"])
def test_a_version_that_was_not_tried_is_told_at_install(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """With what is installed, what is supported, and the command that mends it; nothing is patched."""
    before = seam()
    monkeypatch.setattr(versions.metadata, "version", lambda package: version)
    message = rf"{version} is not supported.*pip install 'crewai>=1\.15\.30,<1\.16'"
    with pytest.raises(Misconfigured, match=message):
        crewai.install(agent="a", token="t")
    with pytest.raises(Misconfigured, match=message):
        crewai.govern(search)
    assert seam() == before


def test_missing_settings_are_told_at_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first tool call."""
    before = seam()
    for name in ("OUTRIDER_TOKEN", "OUTRIDER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Misconfigured, match="OUTRIDER_TOKEN"):
        crewai.install(agent="a")
    assert process._channel is None and seam() == before


def test_langgraph_and_crewai_in_one_process_share_a_channel_and_a_run(gateway: GatewayServer) -> None:
    """A LangChain tool inside a CrewAI tool is its child; one adapter may go while the other stays."""
    crewai.install(agent="researcher")
    langgraph.install(agent="researcher")
    try:

        @langchain_tool
        def inner(query: str) -> str:
            """Inner."""
            return f"inner {query}"

        @tool
        def outer(query: str) -> str:
            """Outer."""
            return str(inner.invoke({"query": query}))

        model = llm(asks(("outer", {"query": "a"})), "done")
        crew(agent(model, outer)).kickoff()
        parent, child = gateway.calls
        assert (parent.open.tool, child.open.tool) == ("local.outer", "local.inner")
        assert child.open.parent == parent.id and child.open.run == parent.open.run
        assert "inner a" in model.last_heard and len(gateway.sessions) == 1
        crewai.uninstall()
        search.run(query="ungoverned")
        inner.invoke({"query": "governed"})
        assert len(gateway.calls) == 3
    finally:
        langgraph.uninstall()


def test_what_outrider_run_installed_the_program_may_refine(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's name for the process stays; ``subagents`` is the program's to say, once."""
    monkeypatch.setenv("OUTRIDER_RUN_AGENT", "operators-name")
    monkeypatch.setenv("OUTRIDER_AGENT", "operators-name")
    gateway.script = once
    crewai.install_provisionally()
    search.run(query="a")
    crewai.install(agent="programs-name", subagents=True)
    crew(agent(llm(asks(("search", {"query": "b"})), "done"), search, role="clerk")).kickoff()
    crewai.install_provisionally()
    with pytest.raises(Misconfigured, match=r"uninstall\(\) first"):
        crewai.install(agent="programs-name")
    assert [call.open.agent for call in gateway.calls] == ["operators-name", "clerk"]
    assert gateway.hellos[0].agent == "operators-name" and gateway.hellos[0].framework == "crewai"


def test_what_the_program_confirmed_is_settled(gateway: GatewayServer) -> None:
    """Also where it said the same as ``outrider run``."""
    crewai.install_provisionally()
    crewai.install()
    with pytest.raises(Misconfigured, match=r"uninstall\(\) first"):
        crewai.install(agent="another")

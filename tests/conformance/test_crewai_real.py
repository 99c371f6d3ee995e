"""CrewAI crews against a real sidecar: what the adapter and the gateway promise together."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crewai.tools import BaseTool, tool
from langchain_core.tools import tool as langchain_tool

from outrider.errors import Failed, Refused
from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import respond
from outrider.testing.upstream_process import UpstreamProcess
from outrider_adapters import crewai, crewai_seam, langgraph, process
from tests.support.adapters import eventually
from tests.support.real_gateway import lift_all
from tests.support.scripted_crewai import ScriptedLLM, agent, asks, crew, llm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
PATHS = pytest.mark.parametrize("native", [True, False], ids=["native", "react"])
POLICY: dict[str, Any] = {
    "defaults": {"retry": {"maxAttempts": 3, "backoff": {"initial": "10ms", "max": "50ms"}}},
    "tools": [
        {"match": "local.read_*", "effect": "read"},
        {"match": "local.slow_*", "timeouts": {"perTry": "300ms", "total": "5s"}},
        {"match": "local.read_slow*", "timeouts": {"perTry": "300ms", "total": "5s"}},
        {"match": "local.here_*", "effect": "read", "placement": "caller"},
        {"match": "local.delegate_work_to_coworker", "composite": True},
        {"match": "local.ask_question_to_coworker", "composite": True},
        {"match": "local.read_with_fallback", "fallback": [{"static": {"value": {"cached": True}}}]},
    ],
    "rules": [
        {"name": "no mail", "tools": ["local.send_mail"], "then": "deny", "reason": "no mail in this team"},
        {"name": "everything else", "tools": ["*"], "then": "allow"},
    ],
    "runs": {"runaway": {"sameCall": 6, "action": "refuse"}},
}


@pytest.fixture(scope="module")
def sidecar() -> Iterator[GatewayProcess]:
    with UpstreamProcess() as upstream:
        upstream.script("/accounts/a-1", respond(json={"balance": 7}))
        balance = {"method": "GET", "path": "/accounts/{args.account}"}
        policy = {
            **POLICY,
            "upstreams": {"ledger": {"http": {"url": upstream.url}}},
            "tools": [*POLICY["tools"], {"match": "ledger.get_balance", "effect": "read", "http": balance}],
        }
        with GatewayProcess(policy) as gateway:
            yield gateway


@pytest.fixture
def gateway(sidecar: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayProcess]:
    if not sidecar.running:
        sidecar.start()
    for name, value in sidecar.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "5")
    crewai.install(agent="researcher")
    try:
        yield sidecar
    finally:
        lift_all(sidecar)
        crewai_seam._seam.some_tools = False  # govern() is for the process's life; the tests after these start afresh
        crewai.uninstall()
        process.close(1.0)


def kill(gateway: GatewayProcess, scope: str) -> dict[str, Any]:
    status, receipt = gateway.control("POST", "/v1/kills", {"scope": scope, "reason": "a test"})
    assert status == 201
    return dict(receipt)


def ledger(gateway: GatewayProcess, kind: str = "", **query: str) -> list[dict[str, Any]]:
    words = "&".join(f"{name}={value}" for name, value in {"limit": "500", **query}.items())
    records = list(gateway.control("GET", f"/v1/ledger?{words}")[1]["records"])
    return [record for record in records if not kind or record["type"] == kind]


def ask(model: Any, *tools: Any, **more: Any) -> Any:
    """One crew of one agent; the finished crew."""
    group = crew(agent(model, *tools), **more)
    group.kickoff()
    return group


@PATHS
def test_a_call_of_a_crew_is_in_the_ledger_with_its_identity(gateway: GatewayProcess, native: bool) -> None:
    """Agent, framework, run, session, arguments and end."""
    name = f"read_page_{'native' if native else 'react'}"

    @tool(name)
    def read_page(url: str) -> str:
        """Reads."""
        return f"text of {url}"

    model = llm(asks((name, {"url": "x"})), "done", native=native)
    ask(model, read_page, name="night shift")
    assert "text of x" in model.last_heard
    eventually(lambda: ledger(gateway, "call.finished", tool=f"local.{name}"))
    records = ledger(gateway, tool=f"local.{name}")
    assert {"call.received", "attempt.started", "attempt.finished", "call.finished"} <= {one["type"] for one in records}
    received = next(one for one in records if one["type"] == "call.received")
    assert received["agent"]["name"] == "researcher" and received["agent"]["framework"] == "crewai"
    assert received["session_id"] == "night shift" and received["run_id"]


@PATHS
def test_a_failing_call_is_executed_as_often_as_the_policy_says(gateway: GatewayProcess, native: bool) -> None:
    """A read that cannot connect three times, a write that may have run once; ReAct alone makes it six."""
    ran: list[str] = []
    suffix = "native" if native else "react"

    @tool(f"read_flaky_{suffix}")
    def read_flaky() -> str:
        """Reads, never."""
        ran.append("read")
        raise ConnectionResetError("reset")

    @tool(f"write_flaky_{suffix}")
    def write_flaky() -> str:
        """May have written."""
        ran.append("write")
        raise ConnectionResetError("reset after sending")

    model = llm(asks((read_flaky.name, {})), asks((write_flaky.name, {})), "done", native=native)
    group = ask(model, read_flaky, write_flaky)
    assert ran == ["read"] * 3 + ["write"]
    failed = [record.failure for record in group.tasks[0].output.tool_failures]
    assert [one.details["attempts"] for one in failed] == [3, 1]
    assert failed[1].details["outcome"] == "unknown" and "do not repeat it" in model.last_heard
    for one, attempts in ((read_flaky, 3), (write_flaky, 1)):
        assert len(ledger(gateway, "attempt.started", tool=f"local.{one.name}")) == attempts
        assert len(ledger(gateway, "call.received", tool=f"local.{one.name}")) == 1


def test_a_model_that_repeats_itself_reads_what_to_do_instead(gateway: GatewayProcess) -> None:
    """The function runs as often as the policy lets it. CrewAI has guards of its own: its ReAct path answers a repeated
    call itself, the native one ends a task whose repeated call has the same result five times. This one's differs."""
    ran: list[int] = []

    @tool
    def read_page(page: int) -> str:
        """Reads."""
        ran.append(page)
        return f"page {page}, for the {len(ran)}th time"

    again = [asks(("read_page", {"page": 1})) for _ in range(7)]
    looping = ScriptedLLM(model="scripted", native=True, script=[*again, "done"], heard=[])
    ask(looping, read_page)
    assert "called local.read_page with the same arguments 6 times in a row" in looping.last_heard
    assert ran == [1] * 6


def test_a_task_that_is_retried_does_not_write_again(gateway: GatewayProcess) -> None:
    """CrewAI runs the whole task again when something else in it fails (``max_retry_limit``); the write that may have
    run is refused in the same run."""
    ran: list[int] = []

    @tool
    def write_once(amount: int) -> str:
        """Writes, perhaps."""
        ran.append(amount)
        raise ConnectionResetError("reset after sending")

    class Moody(ScriptedLLM):
        def call(self, messages: Any, *_: Any, **__: Any) -> Any:
            said = super().call(messages)
            if said == "fall over":
                raise ValueError("a fault of the model's client")
            return said

    pay = asks(("write_once", {"amount": 5}))
    moody = Moody(model="scripted", native=True, script=[pay, "fall over", pay, "done"], heard=[])
    group = ask(moody, write_once)
    assert ran == [5] and "prior_outcome_unknown" in moody.last_heard
    assert group.tasks[0].output.raw == "done"


@PATHS
def test_a_denied_tool_tells_the_model_the_rule(gateway: GatewayProcess, native: bool) -> None:
    """The reason of the policy reaches the model, and the function never runs."""
    ran: list[int] = []

    @tool
    def send_mail(to: str) -> str:
        """Sends."""
        ran.append(1)
        return "sent"

    model = llm(asks(("send_mail", {"to": "all"})), "done", native=native)
    ask(model, send_mail)
    assert "no mail in this team" in model.last_heard and ran == []
    with pytest.raises(Refused, match="no mail"):
        send_mail.run(to="all")


def test_arguments_that_do_not_fit_are_not_retried(gateway: GatewayProcess) -> None:
    """Not even of a read."""

    @tool
    def read_number(number: int) -> str:
        """Reads."""
        raise AssertionError("these arguments do not fit")

    model = llm(asks(("read_number", {"number": "many"})), "done")
    ask(model, read_number)
    assert "valid integer" in model.last_heard
    assert len(ledger(gateway, "attempt.started", tool="local.read_number")) == 1


@PATHS
def test_uses_are_counted_by_calls_and_not_by_attempts(gateway: GatewayProcess, native: bool) -> None:
    """The same count, whether the policy had to try three times or once."""

    def uses(failing: int) -> int:
        left = [failing]

        @tool("read_limited", max_usage_count=9)
        def read_limited() -> str:
            """Fails at first."""
            left[0] -= 1
            if left[0] >= 0:
                raise ConnectionRefusedError("not yet")
            return "fine"

        model = llm(asks(("read_limited", {})), "done", native=native)
        ask(model, read_limited)
        assert "fine" in model.last_heard
        return int(read_limited.current_usage_count)

    assert uses(failing=2) == uses(failing=0)


@PATHS
def test_a_timeout_frees_the_crew_and_the_late_end_is_recorded(gateway: GatewayProcess, native: bool) -> None:
    """The gateway's own timer aborts; the thread's real end is settled behind the recorded one."""
    free = threading.Event()
    name = f"slow_write_{'native' if native else 'react'}"

    @tool(name)
    def slow_write() -> str:
        """Takes its time."""
        free.wait(20)
        return "after all"

    model = llm(asks((name, {})), "done", native=native)
    began = time.monotonic()
    ask(model, slow_write)
    assert time.monotonic() - began < 10 and "do not repeat it" in model.last_heard
    free.set()
    (received,) = ledger(gateway, "call.received", tool=f"local.{name}")
    eventually(
        lambda: [
            one
            for one in ledger(gateway)
            if one.get("call_id") == received["call_id"] and one["type"] == "attempt.settled" and one["outcome"] == "ok"
        ]
    )


def test_an_async_tool_that_hangs_is_left_behind_and_a_read_is_tried_again(gateway: GatewayProcess) -> None:
    """CrewAI runs async tools to their end on a thread; the next attempt has another."""
    attempts: list[int] = []

    @tool
    async def read_slowly() -> str:
        """Slow, once."""
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.sleep(3)
        return "quick"

    model = llm(asks(("read_slowly", {})), "done")
    asyncio.run(crew(agent(model, read_slowly)).akickoff())
    assert "quick" in model.last_heard


async def test_an_async_tool_that_a_program_calls_is_cancelled_at_its_timeout(gateway: GatewayProcess) -> None:
    """``arun`` is on the program's own loop."""
    ends: list[str] = []

    class ReadSlow(BaseTool):
        name: str = "read_slow_async"
        description: str = "Reads."

        def _run(self) -> str:
            raise NotImplementedError

        async def _arun(self) -> str:
            try:
                await asyncio.sleep(30 if not ends else 0)
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise
            return "quick"

    assert await ReadSlow().arun() == "quick" and ends == ["cancelled"]


def test_placement_caller_keeps_a_function_on_crewais_thread(gateway: GatewayProcess) -> None:
    """And the retries too."""
    seen: list[tuple[str, str]] = []

    @tool
    def here_always() -> str:
        """Is bound to its thread."""
        seen.append((threading.current_thread().name, ""))
        if len(seen) < 2:
            raise ConnectionRefusedError("not yet")
        return "here"

    @tool
    def read_anywhere() -> str:
        """Is not."""
        return threading.current_thread().name

    model = llm(asks(("here_always", {})), asks(("read_anywhere", {})), "done")
    ask(model, here_always, read_anywhere)
    assert len(seen) == 2 and "outrider-worker" not in {name for name, _ in seen}
    assert here_always.run() == "here" and seen[-1][0] == threading.current_thread().name


@PATHS
def test_a_fallback_value_reaches_the_model(gateway: GatewayProcess, native: bool) -> None:
    """Made by the gateway, read by the model as if the tool had returned it."""

    @tool
    def read_with_fallback() -> str:
        """Never works."""
        raise ConnectionRefusedError("down")

    model = llm(asks(("read_with_fallback", {})), "done", native=native)
    group = ask(model, read_with_fallback)
    assert "{'cached': True}" in model.last_heard and group.tasks[0].output.tool_failures == []


@PATHS
def test_a_tool_with_the_name_of_an_http_upstreams_is_called_there(gateway: GatewayProcess, native: bool) -> None:
    """The function never runs; the answer is the upstream's."""

    @tool
    def get_balance(account: str) -> str:
        """Reads a balance."""
        raise AssertionError("this lives elsewhere")

    crewai.govern(get_balance, name="ledger.get_balance")
    model = llm(asks(("get_balance", {"account": "a-1"})), "done", native=native)
    ask(model, get_balance)
    assert "{'balance': 7}" in model.last_heard


@PATHS
def test_a_hit_of_crewais_cache_is_in_the_ledger(gateway: GatewayProcess, native: bool) -> None:
    """As a call with ``caller_ref`` cache; the function ran once."""
    ran: list[str] = []
    name = f"read_cached_{'native' if native else 'react'}"

    @tool(name)
    def read_cached(page: str) -> str:
        """Reads."""
        ran.append(page)
        return f"page {page}"

    same = asks((name, {"page": "a"}))
    model = llm(same, asks((name, {"page": "b"})), same, "done", native=native)
    ask(model, read_cached, cache=True)
    assert ran == ["a", "b"] and model.last_heard.count("page a") == 2
    received = ledger(gateway, "call.received", tool=f"local.{name}")
    assert sorted(one.get("caller_ref", "") for one in received) == ["", "", "cache"]


@PATHS
def test_a_delegation_and_what_the_coworker_does_are_one_run(gateway: GatewayProcess, native: bool) -> None:
    """The parent's id is in the child's records. Composite: the delegation may take longer than a call."""
    suffix = "native" if native else "react"

    @tool(f"read_leaf_{suffix}")
    def read_leaf() -> str:
        """A leaf."""
        return "leaf"

    task = {"task": f"t {suffix}", "context": "c", "coworker": "clerk"}
    boss = agent(llm(asks(("delegate_work_to_coworker", task)), "done", native=native), role="boss",
                 allow_delegation=True)  # fmt: skip
    clerk = agent(llm(asks((read_leaf.name, {})), "the clerk's answer", native=native), read_leaf, role="clerk")
    group = crew(boss, clerk)
    group.tasks = group.tasks[:1]
    group.kickoff()
    assert "the clerk's answer" in boss.llm.last_heard
    (child,) = ledger(gateway, "call.received", tool=f"local.read_leaf_{suffix}")
    (parent,) = [
        one
        for one in ledger(gateway, "call.received", tool="local.delegate_work_to_coworker")
        if one["call_id"] == child["parent_call_id"]
    ]
    assert child["run_id"] == parent["run_id"]
    finished = [one for one in ledger(gateway, "call.finished") if one["call_id"] == parent["call_id"]]
    assert [one["outcome"] for one in finished] == ["ok"]


# ── kills ────────────────────────────────────────────────────────────────────────────────────────────────────────


HOW = pytest.mark.parametrize("how", ["kickoff", "akickoff", "async_execution"])


def started(group: Any, how: str) -> Any:
    """The kickoff, on a thread of its own, so that a crew that hangs fails its test."""
    pool = ThreadPoolExecutor(1)
    running = pool.submit(lambda: asyncio.run(group.akickoff()) if how == "akickoff" else group.kickoff())
    pool.shutdown(wait=False)
    return running


class KillingLLM(ScriptedLLM):
    """While it thinks for the second time, a person kills."""

    between: Any = None

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        said = super().call(messages)
        if len(self.heard) == 2:
            self.between()
        return said


@PATHS
@HOW
@pytest.mark.parametrize("scope", ["agent:researcher", "tool:local.read_*", "global"])
def test_a_kill_while_the_model_speaks_stops_the_crew_at_its_next_call(
    gateway: GatewayProcess, scope: str, how: str, native: bool
) -> None:
    """Killed out of the kickoff; the tool does not run, the model is not asked again, and nothing hangs."""
    ran: list[int] = []

    @tool
    def read_step(number: int) -> str:
        """A step."""
        ran.append(number)
        return "stepped"

    script = [*(asks(("read_step", {"number": number})) for number in range(3)), "Thought: x\nFinal Answer: done"]
    model = KillingLLM(
        model="scripted", native=native, script=script, heard=[], between=lambda: kill(gateway, scope)
    )  # fmt: skip
    group = crew(agent(model, read_step), task={"async_execution": how == "async_execution"})
    with pytest.raises(crewai.Killed):
        started(group, how).result(30)
    assert ran == [0] and len(model.heard) == 2


@PATHS
@HOW
def test_a_kill_of_a_running_tool_frees_the_crew_and_says_unknown(
    gateway: GatewayProcess, how: str, native: bool
) -> None:
    """The receipt names the call; the kickoff ends with Killed while the thread still runs."""
    begun, free = threading.Event(), threading.Event()

    @tool
    def write_forever() -> str:
        """Waits."""
        begun.set()
        free.wait(30)
        return "late"

    model = llm(asks(("write_forever", {})), "done", native=native)
    group = crew(agent(model, write_forever), task={"async_execution": how == "async_execution"})
    running = started(group, how)
    try:
        assert begun.wait(20)
        receipt = kill(gateway, "agent:researcher")
        with pytest.raises(crewai.Killed):
            running.result(20)
    finally:
        free.set()
    assert receipt["counts"]["unknown"] == 1 and len(model.heard) == 1
    assert [call["tool"] for call in receipt["calls"]] == ["local.write_forever"]


@PATHS
def test_a_kill_of_a_coworkers_tool_stops_the_boss(gateway: GatewayProcess, native: bool) -> None:
    """CrewAI would tell the boss a text, and the boss would go on."""
    name = f"write_dangerously_{'native' if native else 'react'}"

    @tool(name)
    def write_dangerously() -> str:
        """Must not be."""
        raise AssertionError("killed before")

    kill(gateway, f"tool:local.{name}")
    task = {"task": f"danger {native}", "context": "c", "coworker": "clerk"}
    boss = agent(llm(asks(("delegate_work_to_coworker", task)), "done", native=native), role="boss",
                 allow_delegation=True)  # fmt: skip
    group = crew(boss, agent(llm(asks((name, {})), "done", native=native), write_dangerously, role="clerk"))
    group.tasks = group.tasks[:1]
    with pytest.raises(crewai.Killed):
        group.kickoff()
    assert len(boss.llm.heard) == 1


def test_a_kill_of_one_role_leaves_the_others(gateway: GatewayProcess) -> None:
    """``subagents=True``: two agents in one process are two."""
    crewai.uninstall()
    crewai.install(agent="researcher", subagents=True)

    @tool
    def read_role() -> str:
        """Reads."""
        return "read"

    kill(gateway, "agent:the clerk")
    good = llm(asks(("read_role", {})), "done")
    crew(agent(good, read_role, role="the boss")).kickoff()
    assert '"read"' in good.last_heard
    with pytest.raises(crewai.Killed):
        crew(agent(llm(asks(("read_role", {})), "done"), read_role, role="the clerk")).kickoff()
    received = ledger(gateway, "call.received", tool="local.read_role")
    assert sorted(one["agent"]["name"] for one in received) == ["the boss", "the clerk"]


# ── the sidecar goes, two frameworks, `outrider run` ─────────────────────────────────────────────────────────────


@PATHS
def test_a_sidecar_killed_while_a_function_runs_costs_no_second_execution(
    gateway: GatewayProcess, native: bool
) -> None:
    """SIGKILL: the crew goes on with the real result; the next call is refused while nobody is there."""
    ran: list[str] = []

    @tool
    def write_through() -> str:
        """Outlives the sidecar."""
        ran.append("through")
        gateway.kill9()
        return "the real result"

    @tool
    def write_after() -> str:
        """Must not run ungoverned."""
        ran.append("after")
        return "after"

    model = llm(asks(("write_through", {})), asks(("write_after", {})), "done", native=native)
    group = ask(model, write_through, write_after)
    assert "the real result" in model.last_heard and ran == ["through"]
    assert [record.failure.code for record in group.tasks[0].output.tool_failures] == ["sidecar_unreachable"]
    gateway.start()
    eventually(lambda: process.current().up, 20)


def test_langgraph_and_crewai_in_one_process_are_in_one_ledger(gateway: GatewayProcess) -> None:
    """One channel; a LangChain tool called inside a crew's tool is its child."""
    langgraph.install(agent="researcher")
    try:

        @langchain_tool
        def read_inner(query: str) -> str:
            """Inner."""
            return f"inner {query}"

        @tool
        def read_outer(query: str) -> str:
            """Outer."""
            return str(read_inner.invoke({"query": query}))

        ask(llm(asks(("read_outer", {"query": "a"})), "done"), read_outer)
    finally:
        langgraph.uninstall()
    (parent,) = ledger(gateway, "call.received", tool="local.read_outer")
    (child,) = ledger(gateway, "call.received", tool="local.read_inner")
    assert child["parent_call_id"] == parent["call_id"] and child["run_id"] == parent["run_id"]


RUN = """
    import sys
    sys.path.insert(0, {root!r})
    {first}
    from tests.support.scripted_crewai import agent, asks, crew, llm
    from crewai.tools import tool

    @tool
    def {name}(what: str) -> str:
        "Fails."
        print("ran")
        raise LookupError(what)

    crew(agent(llm(asks(("{name}", {{"what": "this"}})), "done", native=False), {name})).kickoff()
"""


@pytest.mark.parametrize(
    ("name", "first"),
    [("read_plain", ""), ("read_installed", "from outrider_adapters import crewai; crewai.install(agent='own')")],
)
def test_outrider_run_starts_a_program_governed(gateway: GatewayProcess, name: str, first: str) -> None:
    """No line of code in the program, or its own line; the first call of all is governed and executed as the policy
    says, on the path on which CrewAI executes six times."""
    root = str(Path(__file__).parents[2])
    code = textwrap.dedent(RUN).format(root=root, name=name, first=first)
    done = subprocess.run(
        [sys.executable, "-m", "outrider", "run", "--agent", "stranger", "--", sys.executable, "-c", code],
        env={**os.environ, **gateway.env}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    started = ledger(gateway, "attempt.started", tool=f"local.{name}")
    assert done.stdout.splitlines().count("ran") == len(started) >= 1
    (received,) = ledger(gateway, "call.received", tool=f"local.{name}")
    assert received["agent"]["name"] == "stranger"


def test_a_programs_own_call_raises_what_the_gateway_says(gateway: GatewayProcess) -> None:
    """Failed, with the tool's own exception as its cause."""

    @tool
    def write_badly() -> str:
        """Fails."""
        raise KeyError("nowhere")

    with pytest.raises(Failed, match="KeyError") as failed:
        write_badly.run()
    assert isinstance(failed.value.__cause__, KeyError) and failed.value.outcome == "definite"

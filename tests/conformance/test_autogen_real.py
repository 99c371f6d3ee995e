"""AutoGen agents and teams against a real sidecar: what the adapter and the gateway promise together."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.base import TaskResult
from autogen_agentchat.conditions import TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import CancellationToken
from autogen_core.tools import FunctionTool, StaticWorkbench
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams, mcp_server_tools

from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import respond
from outrider.testing.upstream_process import UpstreamProcess
from outrider_adapters import autogen, autogen_calls, process
from tests.support.adapters import eventually
from tests.support.real_gateway import lift_all
from tests.support.scripted_autogen import agent, asks, model, said, told

MCP_SERVER = Path(__file__).parents[1] / "support" / "mcp_server.py"
PATIENCE_S = 30.0
POLICY: dict[str, Any] = {
    "defaults": {"retry": {"maxAttempts": 3, "backoff": {"initial": "10ms", "max": "50ms"}}},
    "tools": [
        {"match": "local.read_*", "effect": "read"},
        {"match": "local.slow_*", "timeouts": {"perTry": "300ms", "total": "5s"}},
        {"match": "local.read_slow", "timeouts": {"perTry": "300ms", "total": "5s"}},
        {"match": "local.read_here", "placement": "caller"},
        {"match": "local.crew_*", "composite": True},
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
        policy = dict(POLICY)
        policy["upstreams"] = {"ledger": {"http": {"url": upstream.url}}}
        where = {"method": "GET", "path": "/accounts/{args.account}"}
        policy["tools"] = [*POLICY["tools"], {"match": "ledger.get_balance", "effect": "read", "http": where}]
        with GatewayProcess(policy) as gateway:
            yield gateway


@pytest.fixture
def gateway(sidecar: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayProcess]:
    if not sidecar.running:
        sidecar.start()
    for name, value in sidecar.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "5")
    autogen.install(agent="researcher")
    try:
        yield sidecar
    finally:
        lift_all(sidecar)
        autogen_calls.settings.some_tools = False  # govern() is for the process's life; the tests after start afresh
        autogen.uninstall()
        process.close(1.0)


def engage(gateway: GatewayProcess, scope: str) -> dict[str, Any]:
    status, receipt = gateway.control("POST", "/v1/kills", {"scope": scope, "reason": "a test"})
    assert status == 201, receipt
    return dict(receipt)


def ledger(gateway: GatewayProcess, kind: str = "", **query: str) -> list[dict[str, Any]]:
    words = "&".join(f"{name}={value}" for name, value in {"limit": "500", **query}.items())
    records = gateway.control("GET", f"/v1/ledger?{words}")[1]["records"]
    return [one for one in records if not kind or one["type"] == kind]


def ended(gateway: GatewayProcess, tool: str) -> list[dict[str, Any]]:
    """How the calls of a tool ended, oldest first."""
    eventually(
        lambda: len(ledger(gateway, "call.finished", tool=tool)) == len(ledger(gateway, "call.received", tool=tool))
    )
    return sorted(ledger(gateway, "call.finished", tool=tool), key=lambda one: int(one["seq"]))


async def ask(runner: Any, **more: Any) -> TaskResult:
    result: TaskResult = await asyncio.wait_for(runner.run(task="go", **more), PATIENCE_S)
    return result


def once(name: str, *tools: Any, **args: Any) -> Any:
    return agent("assistant", asks((name, args)), "done", tools=tools)


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_of_a_team_is_in_the_ledger_with_its_identity(gateway: GatewayProcess) -> None:
    """Agent, framework, run, session, the framework's call id; parallel calls of one turn are of one run."""

    def read_page(url: str) -> str:
        return f"text of {url}"

    one = agent("one", asks(("read_page", {"url": "x"}), ("read_page", {"url": "y"})), "stop", tools=[read_page])
    team = RoundRobinGroupChat([one], termination_condition=TextMentionTermination("stop"))
    assert [result.content for result in told(await ask(team))] == ["text of x", "text of y"]
    assert [one["outcome"] for one in ended(gateway, "local.read_page")] == ["ok", "ok"]
    received = ledger(gateway, "call.received", tool="local.read_page")
    assert {one["agent"]["name"] for one in received} == {"researcher"}
    assert {one["agent"]["framework"] for one in received} == {"autogen"}
    assert {one["caller_ref"] for one in received} == {"c1", "c2"}
    assert len({one["run_id"] for one in received}) == len({one["session_id"] for one in received}) == 1
    assert received[0]["run_id"] and received[0]["session_id"]


async def test_a_denied_tool_tells_the_model_the_rule(gateway: GatewayProcess) -> None:
    """The reason of the policy reaches the model, and the function never runs."""
    ran: list[int] = []

    def send_mail(to: str) -> str:
        ran.append(1)
        return "sent"

    (one,) = told(await ask(once("send_mail", send_mail, to="all")))
    assert one.is_error and "no mail in this team" in one.content and ran == []


@pytest.mark.parametrize("path", ["tools", "workbench"])
async def test_a_tool_is_executed_exactly_as_often_as_the_policy_says(gateway: GatewayProcess, path: str) -> None:
    """By the exception's names and the tool's effect, through each way that an agent has to a tool."""
    attempts = {"read_flaky": 0, "read_dead": 0, "write_flaky": 0, "read_wrong": 0}

    def read_flaky() -> str:
        attempts["read_flaky"] += 1
        if attempts["read_flaky"] < 3:
            raise ConnectionResetError("reset")
        return "read"

    async def read_dead() -> str:
        attempts["read_dead"] += 1
        raise ConnectionResetError("reset")

    def write_flaky() -> str:
        attempts["write_flaky"] += 1
        raise ConnectionResetError("reset after sending")

    def read_wrong() -> str:
        attempts["read_wrong"] += 1
        raise KeyError("wrong")

    functions = [read_flaky, read_dead, write_flaky, read_wrong]  # other names for each path: breakers remember
    tools = [FunctionTool(one, "A tool.", name=f"{one.__name__}_{path}") for one in functions]
    given: dict[str, Any] = {"tools": tools} if path == "tools" else {"workbench": StaticWorkbench(list(tools))}
    results = told(await ask(agent("a", asks(*[(tool.name, {}) for tool in tools]), "done", **given)))
    assert [one.is_error for one in results] == [False, True, True, True]
    assert attempts == {"read_flaky": 3, "read_dead": 3, "write_flaky": 1, "read_wrong": 1}
    assert "do not repeat it" in results[2].content


async def test_a_model_that_repeats_itself_reads_what_to_do_instead(gateway: GatewayProcess) -> None:
    """And so does the next agent of the team: the row is the run's."""
    ran: list[int] = []

    def read_page(page: int) -> str:
        ran.append(page)
        return f"page {page}"

    def asking() -> Any:
        return asks(("read_page", {"page": 1}))

    one = agent("one", *[asking()] * 4, "you try", tools=[read_page])
    two = agent("two", *[asking()] * 3, "stop", tools=[read_page])
    group = RoundRobinGroupChat([one, two], termination_condition=TextMentionTermination("stop"))
    texts = [one.content for one in told(await ask(group))]
    assert ran == [1] * len(texts[:-1]) and len(ran) == 6
    assert "called local.read_page with the same arguments 6 times in a row" in texts[-1]


async def test_the_same_call_after_an_unknown_outcome_is_refused_in_the_same_run(gateway: GatewayProcess) -> None:
    """The model is a retry layer too, and so is a team: another agent of it is told the same."""
    ran: list[int] = []

    def write_once(amount: int) -> str:
        ran.append(1)
        raise ConnectionResetError("reset after sending")

    def asking() -> Any:
        return asks(("write_once", {"amount": 5}))

    one = agent("one", asking(), asking(), "you try", tools=[write_once])
    two = agent("two", asking(), "stop", tools=[write_once])
    result = await ask(RoundRobinGroupChat([one, two], termination_condition=TextMentionTermination("stop")))
    texts = [one.content for one in told(result)]
    assert "prior_outcome_unknown" in texts[1] and "prior_outcome_unknown" in texts[2] and ran == [1]


async def test_a_timeout_frees_the_agent_and_the_late_end_is_recorded(gateway: GatewayProcess) -> None:
    """The gateway's own timer aborts; the thread's real end is settled behind the recorded one."""
    free = threading.Event()

    def slow_write() -> str:
        free.wait(PATIENCE_S)
        return "after all"

    began = time.monotonic()
    (one,) = told(await ask(once("slow_write", slow_write)))
    assert time.monotonic() - began < PATIENCE_S / 2 and one.is_error
    free.set()
    eventually(lambda: [one for one in ledger(gateway) if one["type"] in ("attempt.settled", "call.settled")])


async def test_a_timeout_cancels_an_async_tool_and_a_read_is_tried_again(gateway: GatewayProcess) -> None:
    """Cancelled on the agent's own loop, which stays free."""
    attempts: list[int] = []

    async def read_slow() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.sleep(PATIENCE_S)
        return "quick"

    assert told(await ask(once("read_slow", read_slow)))[0].content == "quick" and len(attempts) == 2


async def test_placement_caller_keeps_a_function_on_the_agents_thread(gateway: GatewayProcess) -> None:
    """The policy's word."""
    seen: list[threading.Thread] = []

    def read_here() -> str:
        seen.append(threading.current_thread())
        return "here"

    def read_there() -> str:
        seen.append(threading.current_thread())
        return "there"

    await ask(agent("a", asks(("read_here", {})), asks(("read_there", {})), "done", tools=[read_here, read_there]))
    assert seen[0] is threading.current_thread() and seen[1] is not threading.current_thread()


async def test_a_fallback_value_reaches_the_model(gateway: GatewayProcess) -> None:
    """Made by the gateway, as JSON."""

    def read_with_fallback() -> str:
        raise ConnectionRefusedError("down")

    (one,) = told(await ask(once("read_with_fallback", read_with_fallback)))
    assert (one.is_error, one.content) == (False, '{"cached":true}')


async def test_a_tool_named_after_an_http_upstream_is_called_there(gateway: GatewayProcess) -> None:
    """The function never runs; the answer is the upstream's."""

    def get_balance(account: str) -> str:
        raise AssertionError("this lives elsewhere")

    tool = autogen.govern(FunctionTool(get_balance, "Reads a balance."), name="ledger.get_balance")
    (one,) = told(await ask(once("get_balance", tool, account="a-1")))
    assert (one.is_error, one.content) == (False, '{"balance":7}')


# ── nesting ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["crew_inner", "undeclared"])
async def test_agents_and_teams_as_tools_are_parents_of_one_run(gateway: GatewayProcess, name: str) -> None:
    """The parents' ids are in the children's records, declared composite or not."""

    def read_leaf() -> str:
        return "leaf"

    leaf = agent("leafy", asks(("read_leaf", {})), "leafed", tools=[read_leaf])
    team = TeamTool(RoundRobinGroupChat([leaf], max_turns=1), f"{name}_team", "A team.")
    inner = agent(name, asks((f"{name}_team", {"task": "t"})), "inner done", tools=[team])
    assert said(await ask(once(name, AgentTool(inner), task="t"))) == "done"
    outer, middle, child = (
        ledger(gateway, "call.received", tool=f"local.{tool}")[0] for tool in (name, f"{name}_team", "read_leaf")
    )
    assert (middle["parent_call_id"], child["parent_call_id"]) == (outer["call_id"], middle["call_id"])
    assert outer["run_id"] == middle["run_id"] == child["run_id"]


async def test_ten_teams_at_once_do_not_starve_their_calls(gateway: GatewayProcess) -> None:
    """Parents hold no slot while their children run."""

    async def read_child(number: int) -> int:
        await asyncio.sleep(0.02)
        return number

    async def one(number: int) -> str:
        inner = agent(f"crew_{number}", asks(("read_child", {"number": number})), "inner done", tools=[read_child])
        return said(await ask(once(f"crew_{number}", AgentTool(inner), task="t")))

    assert await asyncio.gather(*[one(number) for number in range(10)]) == ["done"] * 10


# ── kill and cancel ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scope", ["agent:researcher", "tool:local.read_*", "global"])
async def test_a_kill_really_stops_a_team(gateway: GatewayProcess, scope: str) -> None:
    """Nothing of it starts afterwards: no tool, and no model of any of its agents."""
    ran: list[int] = []

    def read_step() -> str:
        ran.append(1)
        engage(gateway, scope)
        return "stepped"

    one = agent("one", asks(("read_step", {})), asks(("read_step", {})), "again", tools=[read_step])
    two = agent("two", asks(("read_step", {})), "again", tools=[read_step])
    team = RoundRobinGroupChat([one, two], max_turns=10)
    with pytest.raises(autogen.Killed, match="a test"):
        await ask(team)
    assert ran == [1]
    assert len(one._model_client.create_calls) <= 2 and two._model_client.create_calls == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["sync", "async", "agent tool", "team"])
async def test_a_kill_of_a_running_tool_frees_its_agents_and_says_unknown(gateway: GatewayProcess, kind: str) -> None:
    """The receipt names the call; an async function is cancelled, a thread is left to end."""
    begun, free = threading.Event(), threading.Event()
    cancelled: list[int] = []

    def write_sync() -> str:
        begun.set()
        free.wait(PATIENCE_S)
        return "late"

    async def write_async() -> str:
        begun.set()
        try:
            await asyncio.sleep(PATIENCE_S)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise
        return "late"

    name = "write_sync" if kind == "sync" else "write_async"
    one: Any = agent("crew_one", asks((name, {})), "asked again", tools=[write_sync, write_async])
    runner = one
    if kind == "agent tool":
        runner = agent("outer", asks(("crew_one", {"task": "t"})), "asked again", tools=[AgentTool(one)])
    elif kind == "team":
        runner = RoundRobinGroupChat([one], max_turns=10)
    running = asyncio.create_task(ask(runner))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    receipt = await asyncio.to_thread(engage, gateway, f"tool:local.{name}")
    with pytest.raises(autogen.Killed):
        await running
    free.set()
    assert receipt["counts"]["unknown"] == 1 and [call["tool"] for call in receipt["calls"]] == [f"local.{name}"]
    assert cancelled == ([] if kind == "sync" else [1])
    assert len(one._model_client.create_calls) == 1


async def test_a_kill_of_one_agent_of_the_process_leaves_the_other(gateway: GatewayProcess) -> None:
    """Two agents in one process, each under its own name."""
    autogen.uninstall()
    autogen.install(agent="researcher", subagents=True)

    async def read_it() -> str:
        return "read"

    engage(gateway, "agent:alice")
    results = await asyncio.gather(
        ask(agent("alice", asks(("read_it", {})), "done", tools=[read_it])),
        ask(agent("bob", asks(("read_it", {})), "done", tools=[read_it])),
        return_exceptions=True,
    )
    assert isinstance(results[0], autogen.Killed) and isinstance(results[1], TaskResult)
    assert said(results[1]) == "done"


async def test_a_kill_while_the_agents_loop_is_blocked_lets_nothing_start(gateway: GatewayProcess) -> None:
    """The abort is answered by the channel's own thread, with a proof; the receipt says not_executed."""
    ran: list[int] = []

    async def write_later() -> str:
        ran.append(1)
        return "written"

    await asyncio.to_thread(eventually, lambda: process.current().up)
    tool = FunctionTool(write_later, "Writes.")
    task = asyncio.create_task(tool.run_json({}, CancellationToken()))
    for _ in range(3):
        await asyncio.sleep(0)  # the call is on its way, and from here on the agent's loop is blocked
    eventually(lambda: process.current()._attempts)
    receipt = engage(gateway, "tool:local.write_later")
    assert receipt["counts"]["not_executed"] == 1, receipt
    with pytest.raises(autogen.Killed):
        await task
    assert ran == []


@pytest.mark.parametrize("runner", ["agent", "team"])
async def test_a_cancelled_run_ends_and_a_write_in_flight_is_unknown(gateway: GatewayProcess, runner: str) -> None:
    """``CancellationToken.cancel()``, which alone leaves AutoGen hanging; nobody knows how far the function came."""
    begun = asyncio.Event()

    async def write_long() -> str:
        begun.set()
        await asyncio.sleep(PATIENCE_S)
        return "never"

    one: Any = once("write_long", write_long)
    team: Any = RoundRobinGroupChat([one], max_turns=3) if runner == "team" else one
    token = CancellationToken()
    running = asyncio.create_task(ask(team, cancellation_token=token))
    await asyncio.wait_for(begun.wait(), PATIENCE_S)
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, PATIENCE_S)
    ends = await asyncio.to_thread(ended, gateway, "local.write_long")
    assert ends[-1]["outcome"] == "unknown"


# ── MCP ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def shelf(gateway: GatewayProcess, tmp_path: Path) -> AsyncIterator[McpWorkbench]:
    """A real MCP server in a process of its own; ``args[1]`` is its journal."""
    params = StdioServerParams(command=sys.executable, args=[str(MCP_SERVER), str(tmp_path / "journal")])
    async with McpWorkbench(params) as bench:
        yield bench


def journal(bench: McpWorkbench) -> list[str]:
    path = Path(bench.server_params.args[1])  # type: ignore[union-attr]
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


async def test_the_tools_of_an_mcp_server_are_governed(gateway: GatewayProcess, shelf: McpWorkbench) -> None:
    """As a workbench, called directly, and as single tools; a server's error is the model's to read, in its words."""
    tools = await mcp_server_tools(shelf.server_params)  # type: ignore[arg-type]
    asked = asks(("read_note", {"name": "a"}), ("write_note", {"name": "b"}))
    first = told(await ask(agent("a", asked, "done", workbench=shelf)))
    second = told(await ask(agent("a", asked, "done", tools=tools)))
    for results in (first, second):
        assert [one.is_error for one in results] == [False, True]
        assert "the note a" in results[0].content and "no room for b" in results[1].content
    assert (await shelf.call_tool("read_note", {"name": "c"})).to_text() == "the note c"
    assert sorted(journal(shelf)) == ["read a", "read a", "read c", "write b", "write b"]
    assert [one["outcome"] for one in ended(gateway, "local.read_note")] == ["ok"] * 3
    assert [one["outcome"] for one in ended(gateway, "local.write_note")] == ["definite"] * 2


async def test_a_kill_keeps_an_mcp_server_from_being_asked(gateway: GatewayProcess, shelf: McpWorkbench) -> None:
    """And a plain cancellation frees the agent, where AutoGen's own would raise AttributeError at the program."""
    token = CancellationToken()
    waiting = asyncio.create_task(
        ask(agent("a", asks(("write_slowly", {"name": "x"})), "done", workbench=shelf), cancellation_token=token)
    )
    await asyncio.to_thread(eventually, lambda: "begun x" in journal(shelf))
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, PATIENCE_S)
    engage(gateway, "tool:local.read_note")
    with pytest.raises(autogen.Killed):
        await ask(agent("a", asks(("read_note", {"name": "y"})), "asked again", workbench=shelf))
    assert journal(shelf) == ["begun x"]


async def test_an_mcp_server_that_dies_in_a_write_leaves_an_unknown_outcome(
    gateway: GatewayProcess, shelf: McpWorkbench
) -> None:
    """AutoGen makes an error text of it, like of a server's own "no"; the ledger must not."""
    result = await shelf.call_tool("write_and_die", {"name": "z"}, call_id="c9")
    assert result.is_error and "do not repeat it" in result.to_text()
    assert [one["outcome"] for one in ended(gateway, "local.write_and_die")] == ["unknown"]
    assert journal(shelf) == ["died z"]


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_sidecar_killed_while_a_function_runs_records_its_result_when_it_is_back(
    gateway: GatewayProcess,
) -> None:
    """SIGKILL, restart: the team goes on with the real result, which is recorded and not repeated."""
    ran: list[int] = []

    def write_through() -> str:
        ran.append(1)
        gateway.kill9()
        return "the real result"

    one = once("write_through", write_through)
    result = await ask(RoundRobinGroupChat([one], max_turns=1))
    assert told(result)[0].content == "the real result" and ran == [1]
    gateway.start()
    calls = {one["call_id"] for one in ledger(gateway, tool="local.write_through")}
    kinds = ("attempt.finished", "attempt.settled", "call.settled")
    await asyncio.to_thread(
        eventually,
        lambda: [
            one
            for one in ledger(gateway)
            if one["type"] in kinds and one["outcome"] == "ok" and one["call_id"] in calls
        ],
        20,
    )
    assert len(ledger(gateway, "attempt.started", tool="local.write_through")) == 1 and ran == [1]


def program(gateway: GatewayProcess, code: str, *before: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **gateway.env, **env}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


RUN = (sys.executable, "-m", "outrider", "run", "--agent", "stranger", "--")


def test_a_hanging_synchronous_tool_does_not_keep_the_process_alive(gateway: GatewayProcess) -> None:
    """AutoGen's own executor would: its threads are joined when the interpreter ends, and by ``asyncio.run``."""
    code = """
        import asyncio, threading, time
        from autogen_core import CancellationToken
        from outrider_adapters import autogen
        from tests.support.scripted_autogen import agent, asks

        autogen.install(agent="patient")
        begun = threading.Event()

        def write_hanging() -> str:
            begun.set()
            time.sleep(600)
            return "never"

        async def main():
            token = CancellationToken()
            one = agent("one", asks(("write_hanging", {})), "done", tools=[write_hanging])
            running = asyncio.create_task(one.run(task="go", cancellation_token=token))
            while not begun.is_set():
                await asyncio.sleep(0.01)
            token.cancel()
            try:
                await running
            except asyncio.CancelledError:
                print("cancelled", flush=True)

        asyncio.run(main())
    """
    done = program(gateway, code)
    assert (done.returncode, done.stdout) == (0, "cancelled\n"), done.stderr


@pytest.mark.parametrize("imports", ["core first", "teams first", "with an install of its own"])
def test_outrider_run_starts_a_program_governed(gateway: GatewayProcess, imports: str) -> None:
    """Without a line of code in the program, in whatever order it imports AutoGen; also its workbenches, its kills and
    its cancellations."""
    first = {
        "core first": "import autogen_core.tools",
        "teams first": "from autogen_agentchat.teams import RoundRobinGroupChat",
        "with an install of its own": (
            "from outrider_adapters import autogen; autogen.install(agent='mine', subagents=True)"
        ),
    }[imports]
    code = f"""
        {first}
        import asyncio
        from tests.support.scripted_autogen import agent, asks
        from autogen_agentchat.messages import ToolCallExecutionEvent
        from autogen_agentchat.teams import RoundRobinGroupChat
        from autogen_core import CancellationToken

        async def read_run(what: str) -> str:
            return "read " + what

        async def hangs() -> str:
            token.cancel()
            await asyncio.sleep(60)
            return "never"

        async def main():
            global token
            token = CancellationToken()
            turns = [asks(("read_run", {{"what": "this"}})), asks(("hangs", {{}}))]
            team = RoundRobinGroupChat([agent("one", *turns, "done", tools=[read_run, hangs])], max_turns=2)
            try:
                async for item in team.run_stream(task="go", cancellation_token=token):
                    if isinstance(item, ToolCallExecutionEvent):
                        print(item.content[0].content, flush=True)
            except asyncio.CancelledError:
                print("cancelled", flush=True)

        asyncio.run(asyncio.wait_for(main(), 60))
    """
    before = len(ledger(gateway, "call.received", tool="local.read_run"))
    done = program(gateway, code, *RUN)
    assert (done.returncode, done.stdout) == (0, "read this\ncancelled\n"), done.stderr
    received = ledger(gateway, "call.received", tool="local.read_run")
    assert len(received) == before + 1
    newest = max(received, key=lambda one: int(one["seq"]))
    assert newest["agent"]["name"] == ("one" if "own" in imports else "stranger")
    assert newest["agent"]["framework"] == "autogen"


def test_outrider_run_does_not_let_an_ungovernable_program_import_autogen(gateway: GatewayProcess) -> None:
    """Of a version that the adapter was not made for."""
    code = """
        from outrider_adapters import versions
        versions.AUTOGEN = {"autogen-core": ("9", "10")}
        import autogen_core.tools
        print("imported")
    """
    done = program(gateway, code, *RUN)
    assert done.returncode != 0 and "imported" not in done.stdout
    assert "autogen-core>=9,<10" in done.stderr


def test_langgraph_and_autogen_live_in_one_process(gateway: GatewayProcess) -> None:
    """One channel, both governed, each inside the other: a tool of AutoGen runs a graph whose tool runs an agent."""
    code = """
        import asyncio
        from langchain.agents import create_agent
        from langchain_core.messages import HumanMessage
        from langchain_core.tools import tool
        from outrider_adapters import autogen, langgraph
        from tests.support import scripted_autogen as ag, scripted_model as lg

        autogen.install(agent="both")
        langgraph.install(agent="both")

        async def read_leaf() -> str:
            return "leaf"

        @tool
        async def read_middle() -> str:
            "Asks an agent of AutoGen."
            inner = ag.agent("inner", ag.asks(("read_leaf", {})), "leafed", tools=[read_leaf])
            return ag.said(await inner.run(task="go"))

        async def read_outer() -> str:
            graph = create_agent(lg.model(lg.asks(("read_middle", {})), "middled"), [read_middle])
            state = await graph.ainvoke({"messages": [HumanMessage("go")]})
            return state["messages"][-1].content

        async def main():
            outer = ag.agent("outer", ag.asks(("read_outer", {})), "done", tools=[read_outer])
            result = await outer.run(task="go")
            print(ag.told(result)[0].content, ag.said(result))
            langgraph.uninstall()
            outer = ag.agent("outer", ag.asks(("read_leaf", {})), "done", tools=[read_leaf])
            print(ag.said(await outer.run(task="go")))

        asyncio.run(main())
    """
    done = program(gateway, code)
    assert (done.returncode, done.stdout) == (0, "middled done\ndone\n"), done.stderr
    calls = {one["tool"]: one for one in sorted(ledger(gateway, "call.received"), key=lambda one: -int(one["seq"]))}
    outer, middle = calls["local.read_outer"], calls["local.read_middle"]
    leaves = [one for one in ledger(gateway, "call.received", tool="local.read_leaf") if one["agent"]["name"] == "both"]
    nested = next(one for one in leaves if one.get("parent_call_id") == middle["call_id"])
    assert middle["parent_call_id"] == outer["call_id"]
    assert nested["run_id"] == middle["run_id"] == outer["run_id"] and len(leaves) == 2


async def test_a_selector_team_is_governed_like_any_other(gateway: GatewayProcess) -> None:
    """Teams differ in who speaks next, not in how tools are called."""

    def read_selected() -> str:
        return "selected"

    one = agent("one", asks(("read_selected", {})), "stop", tools=[read_selected])
    two = agent("two", "never asked")
    team = SelectorGroupChat(
        [one, two], model_client=model("one"), termination_condition=TextMentionTermination("stop")
    )
    assert told(await ask(team))[0].content == "selected"
    assert [end["outcome"] for end in ended(gateway, "local.read_selected")] == ["ok"]

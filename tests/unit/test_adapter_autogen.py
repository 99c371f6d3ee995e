"""The AutoGen adapter on real agents: every path to a tool is governed, and errors, kills and results look as AutoGen's
users know them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent, SocietyOfMindAgent
from autogen_agentchat.base import Handoff, TaskResult
from autogen_agentchat.conditions import TextMentionTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import AgentId, CancellationToken, FunctionCall, SingleThreadedAgentRuntime
from autogen_core.models import UserMessage
from autogen_core.tool_agent import ToolAgent, tool_agent_caller_loop
from autogen_core.tools import (
    BaseStreamTool,
    BaseTool,
    FunctionTool,
    StaticStreamWorkbench,
    StaticWorkbench,
    TextResultContent,
    ToolOverride,
    ToolResult,
    ToolSchema,
    Workbench,
)
from pydantic import BaseModel, ValidationError

from outrider import wire
from outrider.errors import Code, Misconfigured, Refused
from outrider_adapters import autogen, autogen_calls, process, versions
from tests.support.adapters import eventually, served
from tests.support.gateway_server import GatewayServer, ServedCall, giving, refusing, retrying, with_timeout
from tests.support.scripted_autogen import agent, asks, model, said, told

PATIENCE_S = 20.0


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        autogen.install(agent="researcher")
        try:
            yield server
        finally:
            autogen.uninstall()


ran: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


def search(query: str) -> str:
    """Searches."""
    ran.append(query)
    return f"found {query}"


async def search_async(query: str) -> str:
    """Searches, awaiting."""
    ran.append(query)
    await asyncio.sleep(0)
    return f"found {query}"


def fails(query: str) -> str:
    """Fails."""
    ran.append(query)
    raise LookupError(f"nothing about {query}")


class Shelf(Workbench):
    """A workbench of a program's own, with tools that are no objects."""

    component_config_schema = BaseModel
    component_provider_override = "tests.Shelf"

    async def list_tools(self) -> list[ToolSchema]:
        return [ToolSchema(name="fetch", description="Fetches.")]

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        ran.append(str((arguments or {}).get("title")))
        if (arguments or {}).get("title") == "lost":
            return ToolResult(name=name, result=[TextResultContent(content="no such book")], is_error=True)
        if (arguments or {}).get("title") == "burnt":
            raise LookupError("the shelf is empty")
        return ToolResult(name=name, result=[TextResultContent(content=f"the book {(arguments or {}).get('title')}")])

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def reset(self) -> None:
        return None

    async def save_state(self) -> Mapping[str, Any]:
        return {}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        return None


class Task(BaseModel):
    task: str


class Report(BaseModel):
    text: str


class Counting(BaseStreamTool[Task, TextMessage, Report]):
    """A streaming tool: two events, then its result."""

    component_config_schema = BaseModel
    component_provider_override = "tests.Counting"

    def __init__(self) -> None:
        super().__init__(Task, Report, "count", "Counts.")

    async def run(self, args: Task, cancellation_token: CancellationToken) -> Report:
        ran.append(args.task)
        return Report(text="counted")

    async def run_stream(
        self, args: Task, cancellation_token: CancellationToken
    ) -> AsyncGenerator[TextMessage | Report, None]:
        ran.append(args.task)
        yield TextMessage(content="one", source="count")
        yield TextMessage(content="two", source="count")
        if args.task == "fail":
            raise LookupError("lost count")
        yield Report(text="counted")


def once(name: str, tools: list[Any], **args: Any) -> AssistantAgent:
    return agent("assistant", asks((name, args)), "done", tools=tools)


async def ask(runner: Any, **more: Any) -> TaskResult:
    """With patience: what this file is about is that nothing waits for ever."""
    result: TaskResult = await asyncio.wait_for(runner.run(task="go", **more), PATIENCE_S)
    return result


BUILT_BEFORE = once("search", [search], query="a")


# ── every path to a tool ─────────────────────────────────────────────────────────────────────────────────────────


def test_importing_the_adapter_imports_nothing_of_autogen() -> None:
    """A program that only might use it pays nothing."""
    code = (
        "import sys; from outrider_adapters import autogen; print([m for m in sys.modules if m.startswith('autogen')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


async def test_an_agent_built_before_install_is_governed(gateway: GatewayServer) -> None:
    """The seam is the class, not the instance."""
    result = await ask(BUILT_BEFORE)
    assert [one.content for one in told(result)] == ["found a"] and said(result) == "done"
    (call,) = gateway.calls
    assert (call.open.tool, call.open.args, call.open.caller_ref) == ("local.search", {"query": "a"}, "c1")
    assert (call.open.framework_tool, call.open.agent) == ("search", "researcher")


async def test_parallel_calls_of_synchronous_and_async_tools_are_governed_once_each(gateway: GatewayServer) -> None:
    """They run beside each other: each waits for all."""
    together = threading.Barrier(2, timeout=PATIENCE_S)
    both = asyncio.Event()

    def wait_here(number: int) -> int:
        together.wait()
        return number

    async def wait_there(number: int) -> int:
        if number:
            both.set()
        await asyncio.wait_for(both.wait(), PATIENCE_S)
        return number

    asked = asks(*[(name, {"number": n}) for name in ("wait_here", "wait_there") for n in (0, 1)])
    result = await ask(agent("a", asked, "done", tools=[wait_here, wait_there]))
    assert [one.content for one in told(result)] == ["0", "1", "0", "1"]
    assert len(gateway.calls) == 4 and len({call.open.run for call in gateway.calls}) == 1


async def test_a_synchronous_function_runs_on_a_daemon_thread_with_its_callers_context(gateway: GatewayServer) -> None:
    """AutoGen's executor would keep the process alive when the tool hangs."""

    def where() -> str:
        """Tells."""
        return f"{threading.current_thread().name} {threading.current_thread().daemon}"

    assert told(await ask(once("where", [where])))[0].content == "outrider-worker True"


async def test_with_placement_caller_a_synchronous_function_runs_on_the_thread_that_called(
    gateway: GatewayServer,
) -> None:
    """For a function that is bound to its thread."""
    gateway.script = with_timeout(5000, placement="caller")
    seen: list[threading.Thread] = []
    await ask(once("where", [FunctionTool(lambda: seen.append(threading.current_thread()), "Tells.", name="where")]))
    assert seen == [threading.current_thread()]


async def test_a_synchronous_function_gets_its_token_its_defaults_and_its_own_types(gateway: GatewayServer) -> None:
    """As AutoGen's own execution gives them."""
    seen: list[Any] = []

    def inspect(report: Report, cancellation_token: CancellationToken, limit: int = 3) -> Report:
        seen.extend([report, cancellation_token, limit])
        return Report(text="fine")

    result = await ask(once("inspect", [inspect], report={"text": "x"}))
    assert told(result)[0].content == '{"text": "fine"}'
    assert seen[0] == Report(text="x") and isinstance(seen[1], CancellationToken) and seen[2] == 3
    assert gateway.calls[0].open.args == {"report": {"text": "x"}}


async def test_subclasses_of_base_tool_are_governed_early_and_late_ones(gateway: GatewayServer) -> None:
    """Also one with a ``run_json`` of its own, which calls that of its base class: one call, not two."""

    class Weather(BaseTool[Task, str]):
        component_config_schema = BaseModel
        component_provider_override = "tests.Weather"

        def __init__(self) -> None:
            super().__init__(Task, str, "weather", "Tells.")

        async def run(self, args: Task, cancellation_token: CancellationToken) -> str:
            ran.append(args.task)
            return f"rain in {args.task}"

    class Careful(Weather):
        async def run_json(self, args: Any, cancellation_token: CancellationToken, call_id: str | None = None) -> Any:
            return "perhaps " + await super().run_json(args, cancellation_token, call_id)

    class Stubborn(Weather):
        async def run_json(self, args: Any, cancellation_token: CancellationToken, call_id: str | None = None) -> Any:
            await super().run_json(args, cancellation_token, call_id)
            return await super().run_json(args, cancellation_token, call_id)

    token = CancellationToken()
    assert await Weather().run_json({"task": "here"}, token) == "rain in here"
    assert await Careful().run_json({"task": "there"}, token) == "perhaps rain in there"
    assert len(gateway.calls) == 2
    await Stubborn().run_json({"task": "twice"}, token)
    assert len(gateway.calls) == 4, "what executes again is another call"
    assert gateway.calls[3].open.parent == gateway.calls[2].id


async def test_a_static_workbench_is_governed_by_its_tools_under_their_own_names(gateway: GatewayServer) -> None:
    """Whatever name the model sees; in an agent and called directly."""
    tools = [FunctionTool(search, "Searches."), FunctionTool(search_async, "Searches.")]
    bench = StaticWorkbench(tools, tool_overrides={"search": ToolOverride(name="find")})
    result = await ask(
        agent("a", asks(("find", {"query": "a"}), ("search_async", {"query": "b"})), "done", workbench=bench)
    )
    assert [one.content for one in told(result)] == ["found a", "found b"]
    direct = await bench.call_tool("find", {"query": "c"})
    assert direct.to_text() == "found c" and direct.name == "find"
    opened = [call.open.tool for call in gateway.calls]
    assert sorted(opened[:2]) == ["local.search", "local.search_async"] and opened[2:] == ["local.search"]
    assert (await bench.call_tool("nothing", {})).to_text() == "Tool nothing not found."


async def test_a_thing_that_only_looks_like_a_tool_is_governed_in_its_workbench(gateway: GatewayServer) -> None:
    """It has no class that could be patched."""

    class Duck:
        name = "quack"

        async def run_json(self, args: Any, cancellation_token: CancellationToken, call_id: str | None = None) -> str:
            ran.append("quack")
            return "quack"

        def return_value_as_string(self, value: Any) -> str:
            return str(value)

    for bench in (StaticWorkbench([Duck()]), StaticStreamWorkbench([Duck()])):  # type: ignore[list-item]
        assert (await bench.call_tool("quack", {})).to_text() == "quack"
    streamed = [item async for item in StaticStreamWorkbench([Duck()]).call_tool_stream("quack", {})]  # type: ignore[list-item]
    assert [item.to_text() for item in streamed] == ["quack"]
    assert [call.open.tool for call in gateway.calls] == ["local.quack"] * 3


async def test_workbenches_of_ones_own_are_governed_early_and_late_ones(gateway: GatewayServer) -> None:
    """In an agent and called directly; one that calls its base class makes one call of it."""

    class Late(Shelf):
        async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> ToolResult:
            return await super().call_tool(name, *args, **kwargs)

    for bench in (Shelf(), Late()):
        result = await ask(agent("a", asks(("fetch", {"title": "x"})), "done", workbench=bench))
        assert told(result)[0].content == "the book x" and not told(result)[0].is_error
        assert (await bench.call_tool("fetch", {"title": "y"})).to_text() == "the book y"
    assert [call.open.tool for call in gateway.calls] == ["local.fetch"] * 4
    assert [call.open.caller_ref for call in gateway.calls] == ["c1", "", "c1", ""]
    assert ran == ["x", "y"] * 2


async def test_a_static_workbench_with_a_call_tool_of_its_own_cannot_bypass(gateway: GatewayServer) -> None:
    """What it does itself is governed, and what it hands to its tool is the same call."""

    class Caching(StaticWorkbench):
        async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> ToolResult:
            if name == "cached":
                ran.append("cached")
                return ToolResult(name=name, result=[TextResultContent(content="from the cache")])
            return await super().call_tool(name, *args, **kwargs)

        async def list_tools(self) -> list[ToolSchema]:
            return [*await super().list_tools(), ToolSchema(name="cached", description="Cached.")]

    bench = Caching([FunctionTool(search, "Searches.")])
    asked = asks(("search", {"query": "a"}), ("cached", {}))
    result = await ask(agent("a", asked, "done", workbench=bench))
    assert [one.content for one in told(result)] == ["found a", "from the cache"]
    assert sorted(call.open.tool for call in gateway.calls) == ["local.cached", "local.search"]


async def test_a_workbench_of_a_workbenchs_repeats_are_calls_of_their_own(gateway: GatewayServer) -> None:
    """A retry layer inside a workbench is seen: its first execution is the call, each further one a child."""

    class Stubborn(StaticWorkbench):
        async def call_tool(self, *args: Any, **kwargs: Any) -> ToolResult:
            result = await super().call_tool(*args, **kwargs)
            return await super().call_tool(*args, **kwargs) if result.is_error else result

    bench = Stubborn([FunctionTool(fails, "Fails.")])
    await ask(agent("a", asks(("fails", {"query": "x"})), "done", workbench=bench))
    assert [call.open.tool for call in gateway.calls] == ["local.fails"] * 2
    assert gateway.calls[1].open.parent == gateway.calls[0].id and ran == ["x", "x"]


async def test_a_tool_that_calls_itself_makes_a_child_call_each_time(gateway: GatewayServer) -> None:
    """Recursion is no part of the same execution."""

    async def descend(depth: int, cancellation_token: CancellationToken) -> str:
        ran.append(str(depth))
        return await tool.run_json({"depth": depth - 1}, cancellation_token) if depth else "bottom"

    tool = FunctionTool(descend, "Descends.")
    assert await tool.run_json({"depth": 2}, CancellationToken()) == "bottom"
    assert [call.open.args for call in gateway.calls] == [{"depth": 2}, {"depth": 1}, {"depth": 0}]
    assert [call.open.parent for call in gateway.calls] == ["", gateway.calls[0].id, gateway.calls[1].id]


async def test_a_tool_agent_of_the_core_is_governed(gateway: GatewayServer) -> None:
    """With the runtime's identity: the agent's type, and its key as the session."""
    autogen.uninstall()
    autogen.install(subagents=True)
    runtime = SingleThreadedAgentRuntime()
    tools = [FunctionTool(search, "Searches.")]
    await ToolAgent.register(runtime, "librarian", lambda: ToolAgent("Runs tools.", list(tools)))
    runtime.start()
    call = FunctionCall(id="c7", name="search", arguments=json.dumps({"query": "a"}))
    result = await runtime.send_message(call, AgentId("librarian", "reader-1"))
    assert result.content == "found a" and not result.is_error
    opened = gateway.calls[0].open
    assert (opened.caller_ref, opened.agent, opened.session) == ("c7", "librarian", "reader-1")
    await runtime.stop()


# ── streaming tools ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_streaming_tools_events_come_through_and_its_result_counts(gateway: GatewayServer) -> None:
    """One call; the events are the agent's, the last item is the result."""
    result = await ask(once("count", [Counting()], task="x"))
    assert [message.to_text() for message in result.messages if message.source == "count"] == ["one", "two"]
    assert told(result)[0].content == '{"text": "counted"}'
    assert [call.open.tool for call in gateway.calls] == ["local.count"] and ran == ["x"]
    eventually(gateway.ends)
    assert gateway.ends()[0].state == "returned"


async def test_a_streaming_tools_failed_attempts_are_repeated_and_end_in_an_error_result(
    gateway: GatewayServer,
) -> None:
    """As often as the gateway says; the events of each attempt are shown as they come."""
    gateway.script = retrying(3)
    result = await ask(once("count", [Counting()], task="fail"))
    assert [message.to_text() for message in result.messages if message.source == "count"] == ["one", "two"] * 3
    assert told(result)[0].is_error and "failed after 3 attempts" in told(result)[0].content
    assert ran == ["fail"] * 3


async def test_a_streams_result_waits_for_the_gateways_word(gateway: GatewayServer) -> None:
    """``on_ok: await``: events may be seen, the result not before the end is recorded."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def script(call: ServedCall) -> None:
        end = await call.execute(on_ok="await")
        await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result(PATIENCE_S))
        call.close(end)

    gateway.script = script
    items: list[Any] = []

    async def consume() -> None:
        async for item in Counting().run_json_stream({"task": "x"}, CancellationToken()):
            items.append(item)

    consuming = asyncio.create_task(consume())
    await asyncio.to_thread(eventually, gateway.ends)
    assert [item.content for item in items] == ["one", "two"]
    release.set()
    await asyncio.wait_for(consuming, PATIENCE_S)
    assert items[-1] == Report(text="counted")


async def test_a_stream_that_nobody_reads_on_ends_its_tool(gateway: GatewayServer) -> None:
    """``break`` out of the loop: the generator is closed, the attempt cancelled, and the gateway is told."""
    closed: list[int] = []

    class Endless(Counting):
        async def run_stream(self, args: Task, cancellation_token: CancellationToken) -> Any:
            try:
                while True:
                    yield TextMessage(content="tick", source="count")
                    await asyncio.sleep(0.01)
            finally:
                closed.append(1)

    stream = Endless().run_json_stream({"task": "x"}, CancellationToken())
    async for _ in stream:
        break
    await stream.aclose()
    assert closed == [1]
    await asyncio.to_thread(eventually, gateway.ends)
    assert gateway.ends()[0].state == "cancelled"


async def test_agents_and_teams_as_tools_are_parents_of_the_calls_inside(gateway: GatewayServer) -> None:
    """Both kinds, one in the other: parent links over all levels, and one run."""
    inner = agent("inner", asks(("search", {"query": "deep"})), "inner done", tools=[search])
    holder = agent("holder", asks(("inner", {"task": "t"})), "held", tools=[AgentTool(inner)])
    team = RoundRobinGroupChat([holder], termination_condition=TextMentionTermination("held"))
    outer = once("crowd", [TeamTool(team, "crowd", "A team.", return_value_as_last_message=True)], task="t")
    result = await ask(outer)
    assert told(result)[-1].content == "held"
    opened = {call.open.tool: call for call in gateway.calls}
    assert list(opened) == ["local.crowd", "local.inner", "local.search"]
    assert opened["local.inner"].open.parent == opened["local.crowd"].id
    assert opened["local.search"].open.parent == opened["local.inner"].id
    assert len({call.open.run for call in gateway.calls}) == 1
    eventually(lambda: len(gateway.ends()) == 3)
    views = {end.call: end.view for end in gateway.ends()}
    assert views[opened["local.crowd"].id] == "held", "the view of a team's result is what the model reads"


async def test_an_agent_tool_can_be_answered_by_the_gateway(gateway: GatewayServer) -> None:
    """A fallback: its kind of value is a TaskResult, and a text does as well."""
    gateway.scripts["local.inner"] = giving({"cached": True})
    inner = agent("inner", "never asked")
    result = await ask(once("inner", [AgentTool(inner)], task="t"))
    assert (told(result)[0].content, told(result)[0].is_error) == ('{"cached":true}', False)


# ── who calls ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_calls_of_one_root_invocation_are_one_run_and_the_next_is_another(gateway: GatewayServer) -> None:
    """Of a team too, whichever of its agents calls; a token that serves two runs does not make them one."""
    token = CancellationToken()
    for _ in range(2):
        one = agent("one", asks(("search", {"query": "a"})), "hm", tools=[search])
        two = agent("two", asks(("search", {"query": "b"})), "stop", tools=[search])
        await ask(
            RoundRobinGroupChat([one, two], termination_condition=TextMentionTermination("stop")),
            cancellation_token=token,
        )
    runs = [call.open.run for call in gateway.calls]
    assert runs[0] == runs[1] != runs[2] == runs[3]
    assert gateway.calls[0].open.session == gateway.calls[1].open.session != gateway.calls[2].open.session


async def test_two_runs_at_once_with_one_token_are_two_runs(gateway: GatewayServer) -> None:
    """A program may want to cancel them together."""
    token = CancellationToken()
    agents = [agent(f"a{n}", asks(("search_async", {"query": f"{n}"})), "done", tools=[search_async]) for n in range(2)]
    await asyncio.gather(*[ask(one, cancellation_token=token) for one in agents])
    assert len({call.open.run for call in gateway.calls}) == 2


async def test_a_team_on_a_runtime_of_the_programs_own_is_one_run(gateway: GatewayServer) -> None:
    """Its messages are handled in tasks that were begun long before; the run is found by the token, and a kill too."""
    runtime = SingleThreadedAgentRuntime()
    runtime.start()
    one = agent("one", asks(("search", {"query": "a"}), ("search", {"query": "b"})), "stop", tools=[search])
    team = RoundRobinGroupChat([one], termination_condition=TextMentionTermination("stop"), runtime=runtime)
    await ask(team)
    assert len({call.open.run for call in gateway.calls}) == 1 and len(gateway.calls) == 2
    gateway.script = refusing(Code.KILLED, "killed")
    two = agent("two", asks(("search", {"query": "a"})), "stop", tools=[search])
    with pytest.raises(autogen.Killed):
        await ask(RoundRobinGroupChat([two], max_turns=3, runtime=runtime))


async def test_a_run_can_be_named_by_hand(gateway: GatewayServer) -> None:
    """``with autogen.run(...)``; with the session."""
    with autogen.run("order-7", session="customer-3"):
        await ask(once("search", [search], query="a"))
    opened = gateway.calls[0].open
    assert (opened.run, opened.session) == ("order-7", "customer-3")


async def test_names_of_agents_are_the_processes_unless_asked(gateway: GatewayServer) -> None:
    """The name given to install is what a kill must match; ``subagents=True`` lets agents carry their own."""
    autogen.uninstall()
    autogen.install(agent="researcher", subagents=True)
    inner = agent("inner", asks(("search", {"query": "deep"})), "inner done", tools=[search])
    outer = agent("outer", asks(("inner", {"task": "t"})), "done", tools=[AgentTool(inner)])
    await ask(outer)
    await ask(RoundRobinGroupChat([once("search", [search], query="a")], max_turns=1))
    assert [(call.open.tool, call.open.agent) for call in gateway.calls] == [
        ("local.inner", "outer"),
        ("local.search", "inner"),
        ("local.search", "assistant"),
    ]


async def test_handoffs_and_a_society_of_mind_are_governed(gateway: GatewayServer) -> None:
    """A handoff is a tool call; the inner team of a society is of the outer run."""
    alice = agent("alice", asks(("transfer_to_bob", {})), handoffs=[Handoff(target="bob")])
    bob = agent("bob", asks(("search", {"query": "b"})), "stop", tools=[search])
    team = Swarm([alice, bob], termination_condition=TextMentionTermination("stop"))
    society = SocietyOfMindAgent("society", team=team, model_client=model("all of us"))
    assert said(await ask(society)) == "all of us"
    assert [call.open.tool for call in gateway.calls] == ["local.transfer_to_bob", "local.search"]
    assert len({call.open.run for call in gateway.calls}) == 1


async def test_a_refused_handoff_does_not_take_place(gateway: GatewayServer) -> None:
    """AutoGen hands over whatever the tool answered; so the run ends with the refusal."""
    gateway.script = refusing(Code.DENIED, "no bob today")
    alice = agent("alice", asks(("transfer_to_bob", {})), "stop", handoffs=[Handoff(target="bob")])
    with pytest.raises(autogen.ToolFailed, match="no bob today"):
        await ask(alice)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_final_failure_is_an_error_result_that_the_model_reads(gateway: GatewayServer) -> None:
    """After exactly as many executions as the gateway ordered."""
    gateway.script = retrying(3)
    result = await ask(once("fails", [fails], query="x"))
    (one,) = told(result)
    assert (one.is_error, one.call_id, one.name) == (True, "c1", "fails")
    assert "failed after 3 attempts" in one.content and "nothing about x" in one.content
    assert ran == ["x"] * 3 and said(result) == "done"


@pytest.mark.parametrize("tool", [search, search_async])
async def test_a_refusal_is_an_error_result_too(gateway: GatewayServer, tool: Any) -> None:
    """The model learns why, and whether trying again makes sense."""
    gateway.script = refusing(Code.DENIED, "no searching on sundays")
    (one,) = told(await ask(once(tool.__name__, [tool], query="x")))
    assert one.is_error and one.content == "no searching on sundays [denied: trying again will not help]" and ran == []


async def test_a_direct_caller_gets_the_failure_as_an_exception(gateway: GatewayServer) -> None:
    """With the problem, and the tool's own exception as its cause."""
    gateway.script = retrying(2)
    with pytest.raises(autogen.ToolFailed, match="nothing about y") as caught:
        await FunctionTool(fails, "Fails.").run_json({"query": "y"}, CancellationToken())
    assert caught.value.code == "upstream_failed" and isinstance(caught.value.__cause__, LookupError)
    assert ran == ["y", "y"]


async def test_arguments_that_do_not_validate_are_told_in_autogens_words_and_not_retried(
    gateway: GatewayServer,
) -> None:
    """A validation error of the function's own is a failure like any other."""
    gateway.script = retrying(3)

    async def parse(text: str) -> str:
        ran.append(text)
        return str(Task.model_validate_json(text))

    for tool in (search, search_async):
        (one,) = told(await ask(once(tool.__name__, [tool], wrong=1)))
        assert one.is_error and "Field required" in one.content and "Outrider" not in one.content
    await asyncio.to_thread(eventually, lambda: len(gateway.ends()) == 4)
    states = sorted(end.state for end in gateway.ends())
    assert ran == [] and states == ["not_started"] * 2 + ["raised"] * 2, "what the gateway ordered again was not begun"
    (one,) = told(await ask(once("parse", [parse], text="{}")))
    assert one.is_error and "failed after 3 attempts" in one.content and ran == ["{}"] * 3


async def test_a_workbenchs_error_result_is_a_failed_attempt_in_its_own_words(gateway: GatewayServer) -> None:
    """Retried like any failure; an exception that it raises, which alone would hang the agent, is an error result."""
    gateway.script = retrying(3)
    for title, words in (("lost", "no such book"), ("burnt", "the shelf is empty")):
        ran.clear()
        (one,) = told(await ask(agent("a", asks(("fetch", {"title": title})), "done", workbench=Shelf())))
        assert one.is_error and words in one.content and ran == [title] * 3
        assert (one.content == words) is (title == "lost"), "its own words stay as they are"
    assert {end.state for end in gateway.ends()} == {"raised"}


async def test_a_value_of_the_gateways_own_is_shown_as_json_and_given_raw_to_a_direct_caller(
    gateway: GatewayServer,
) -> None:
    """A tool that lives elsewhere, a workbench's too: the function never runs."""
    tool = autogen.govern(FunctionTool(search, "Searches.", name="get_balance"), name="ledger.get_balance")
    gateway.script = giving({"balance": 7, "currency": "€"})
    (one,) = told(await ask(once("get_balance", [tool], query="a")))
    assert (one.content, one.is_error) == ('{"balance":7,"currency":"€"}', False)
    assert await tool.run_json({"query": "a"}, CancellationToken()) == {"balance": 7, "currency": "€"}
    assert (await Shelf().call_tool("fetch", {})).to_text() == '{"balance":7,"currency":"€"}'
    assert [call.open.tool for call in gateway.calls] == ["ledger.get_balance"] * 2 + ["local.fetch"]
    assert ran == []
    autogen_calls.settings.some_tools = False


async def test_results_of_any_size_and_kind_pass(gateway: GatewayServer) -> None:
    """20 MB, unicode, and an object without a JSON form; the wire carries a bounded view."""
    things = {"big": "x" * 20_000_000, "unicode": "naïve 😀 \u0000 end", "object": {1, 2, 3}, "none": None}

    def fetch(what: str) -> Any:
        return things[what]

    tool = FunctionTool(fetch, "Fetches.")
    gateway.script = with_timeout(30_000)
    for what, thing in things.items():
        assert await tool.run_json({"what": what}, CancellationToken()) is thing
    for end in gateway.ends():
        assert len(wire.encode_frame(end)) < 70_000 and len(end.digest) == 64
    assert gateway.ends()[0].size == 20_000_002


# ── kill and cancel ──────────────────────────────────────────────────────────────────────────────────────────────

KILLING = refusing(Code.KILLED, "killed by a person")


@pytest.mark.parametrize("kind", ["agent", "team", "streamed team", "workbench", "handoff", "team of teams"])
async def test_a_kill_ends_the_run_of_whoever_was_asked_to_run(gateway: GatewayServer, kind: str) -> None:
    """The model is not asked again, nothing else runs, and the caller gets Killed, from a team as well."""
    gateway.script = KILLING
    more: dict[str, Any] = {"tools": [search], "handoffs": [Handoff(target="bob")]}
    name = "search"
    if kind == "workbench":
        name, more = "fetch", {"workbench": Shelf()}
    elif kind == "handoff":
        name = "transfer_to_bob"
    one = agent("one", asks((name, {"query": "x"})), "the model was asked again", **more)
    runner: Any = one
    if "team" in kind:
        runner = RoundRobinGroupChat([one], max_turns=5)
    if kind == "team of teams":
        runner = RoundRobinGroupChat([runner], max_turns=5)
    with pytest.raises(autogen.Killed, match="killed by a person") as caught:
        if kind == "streamed team":
            async for item in runner.run_stream(task="go"):
                assert not isinstance(item, TaskResult)
        else:
            await ask(runner)
    assert isinstance(caught.value, Refused) and caught.value.code == "killed"
    assert len(gateway.calls) == 1 and ran == []
    assert len(one._model_client.create_calls) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("holder", ["agent tool", "team tool", "function"])
async def test_a_kill_inside_a_nested_agent_ends_the_outer_run(gateway: GatewayServer, holder: str) -> None:
    """Through tools that hold agents, and through a function that runs one."""
    gateway.scripts["local.search"] = KILLING
    inner = agent("inner", asks(("search", {"query": "deep"})), "inner done", tools=[search])

    async def delegate(task: str) -> str:
        return said(await inner.run(task=task))

    tools = {
        "agent tool": AgentTool(inner),
        "team tool": TeamTool(RoundRobinGroupChat([inner], max_turns=1), "inner", "A team."),
        "function": FunctionTool(delegate, "Delegates.", name="inner"),
    }
    outer = agent("outer", asks(("inner", {"task": "t"})), "the model was asked again", tools=[tools[holder]])
    with pytest.raises(autogen.Killed):
        await ask(outer)
    assert len(outer._model_client.create_calls) == 1  # type: ignore[attr-defined]


async def test_a_kill_that_an_agent_swallows_still_ends_the_run(gateway: GatewayServer) -> None:
    """Agents of one's own may turn every exception into a text; then the run ends with Killed where it would end."""
    gateway.script = KILLING

    class Optimist(AssistantAgent):
        async def on_messages_stream(self, messages: Any, cancellation_token: CancellationToken) -> Any:
            tool = FunctionTool(search, "Searches.")
            try:
                await tool.run_json({"query": "x"}, cancellation_token)
            except Exception as error:
                yield _response(f"it went well, but for: {error}")

    for runner in (Optimist("o", model()), RoundRobinGroupChat([Optimist("o", model())], max_turns=1)):
        with pytest.raises(autogen.Killed):
            await ask(runner)


def _response(text: str) -> Any:
    from autogen_agentchat.base import Response

    return Response(chat_message=TextMessage(content=text, source="o"))


async def test_a_kill_ends_a_tool_agents_caller_loop(gateway: GatewayServer) -> None:
    """It would make an error result of every ToolException; it gets Killed instead."""
    gateway.script = KILLING
    runtime = SingleThreadedAgentRuntime()
    tools = [FunctionTool(search, "Searches.")]
    await ToolAgent.register(runtime, "librarian", lambda: ToolAgent("Runs tools.", list(tools)))
    runtime.start()
    scripted = model(asks(("search", {"query": "x"})), "the model was asked again")
    with pytest.raises(autogen.Killed):
        await tool_agent_caller_loop(
            runtime, AgentId("librarian", "default"), scripted, [UserMessage(content="go", source="user")], list(tools)
        )
    assert len(scripted.create_calls) == 1
    await runtime.stop()


HANGS = """
import asyncio, sys
from autogen_core import CancellationToken
from tests.support.scripted_autogen import agent, asks

async def slow() -> str:
    "Takes its time."
    started.set()
    await asyncio.sleep(60)

async def main(governed):
    global started
    started = asyncio.Event()
    token = CancellationToken()
    one = agent("one", asks(("slow", {})), "done", tools=[slow])
    running = asyncio.create_task(one.run(task="go", cancellation_token=token))
    await asyncio.wait_for(started.wait(), 20)
    token.cancel()
    done, _ = await asyncio.wait([running], timeout=2 if not governed else 20)
    print("ended" if done else "hangs", flush=True)
    import os
    os._exit(0)

if "governed" in sys.argv:
    from outrider_adapters import autogen
    autogen.install(agent="a")
asyncio.run(main("governed" in sys.argv))
"""


@pytest.mark.parametrize(("how", "what"), [("alone", "hangs"), ("governed", "ended")])
def test_a_cancelled_run_hangs_without_the_adapter_and_ends_with_it(
    gateway: GatewayServer, how: str, what: str
) -> None:
    """Upstream #7956: the agent waits for an end mark that is never put. If this fails for "alone", AutoGen has cured
    it, and ours can go."""
    out = subprocess.run([sys.executable, "-c", HANGS, how], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == what, out.stderr


@pytest.mark.parametrize("kind", ["sync", "async", "team", "agent tool", "workbench"])
async def test_cancelling_the_token_ends_the_run_and_the_call(gateway: GatewayServer, kind: str) -> None:
    """As CancelledError, soon; an async tool is cancelled, a synchronous one is left to its thread."""
    begun, free = threading.Event(), threading.Event()
    cleaned: list[int] = []

    async def slow() -> str:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            cleaned.append(1)
        return "never"

    def slow_sync() -> str:
        begun.set()
        free.wait(PATIENCE_S)
        return "late"

    class Slow(Shelf):
        async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> ToolResult:
            waiting = asyncio.ensure_future(slow())
            kwargs["cancellation_token"].link_future(waiting)
            return ToolResult(name=name, result=[TextResultContent(content=await waiting)])

    token = CancellationToken()
    one: Any = once("slow", [slow])
    if kind == "sync":
        one = once("slow", [FunctionTool(slow_sync, "Waits.", name="slow")])
    elif kind == "team":
        one = RoundRobinGroupChat([one], max_turns=3)
    elif kind == "agent tool":
        one = once("assistant", [AgentTool(one)], task="t")
    elif kind == "workbench":
        one = agent("a", asks(("fetch", {})), "done", workbench=Slow())
    running = asyncio.create_task(one.run(task="go", cancellation_token=token))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, PATIENCE_S)
    assert cleaned == ([] if kind == "sync" else [1])
    await asyncio.to_thread(eventually, lambda: gateway.ends() or gateway.calls[0].cancelled.is_set())
    free.set()
    await asyncio.to_thread(eventually, gateway.ends)
    end = gateway.ends()[0]
    assert end.state == ("returned" if kind == "sync" else "cancelled")
    assert end.raised is None, "cancelled is not failed: nobody knows how far it came"


async def test_a_synchronous_tool_may_cancel_the_run_it_is_of(gateway: GatewayServer) -> None:
    """From its own thread; nothing else wakes the agent's loop."""

    def enough(cancellation_token: CancellationToken) -> str:
        cancellation_token.cancel()
        return "enough"

    def enough_too() -> str:
        token.cancel()
        return "enough"

    token = CancellationToken()
    with pytest.raises(asyncio.CancelledError):
        await FunctionTool(enough_too, "Cancels.").run_json({}, token)
    assert await FunctionTool(enough, "Cancels.").run_json({}, CancellationToken()) == "enough"


async def test_cancelling_the_task_of_a_run_cancels_its_tools(gateway: GatewayServer) -> None:
    """AutoGen alone would leave them running, with nobody to answer."""
    begun = asyncio.Event()
    cleaned: list[int] = []

    async def slow() -> str:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            cleaned.append(1)
        return "never"

    running = asyncio.create_task(once("slow", [slow]).run(task="go"))
    await asyncio.wait_for(begun.wait(), PATIENCE_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, PATIENCE_S)
    await asyncio.to_thread(eventually, lambda: gateway.ends() and cleaned)
    assert gateway.ends()[0].state == "cancelled"


async def test_a_kill_of_one_of_several_calls_leaves_none_of_them_running(gateway: GatewayServer) -> None:
    """The run is over; what its other calls still do has no one to answer."""
    begun = asyncio.Event()
    cleaned: list[int] = []

    async def slow() -> str:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            cleaned.append(1)
        return "never"

    loop = asyncio.get_running_loop()

    async def killed_once_the_other_runs(call: ServedCall) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(begun.wait(), loop))
        call.fail(Code.KILLED, "killed")

    gateway.scripts["local.search"] = killed_once_the_other_runs
    with pytest.raises(autogen.Killed):
        await ask(agent("a", asks(("slow", {}), ("search", {"query": "x"})), "again", tools=[slow, search]))
    await asyncio.to_thread(eventually, lambda: cleaned)


# ── install, uninstall, govern ───────────────────────────────────────────────────────────────────────────────────


async def test_installing_twice_is_nothing_new_and_installing_otherwise_is_told(gateway: GatewayServer) -> None:
    """One call stays one call; other settings need ``uninstall`` first."""
    autogen.install(agent="researcher")
    await ask(once("search", [search], query="a"))
    assert len(gateway.calls) == 1
    with pytest.raises(Misconfigured, match=r"uninstall\(\) first"):
        autogen.install(agent="another")


async def test_uninstall_puts_the_framework_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ungoverned, unpatched in every class, early and late ones, and gone from the gateway with a goodbye."""
    kinds = [BaseTool, BaseStreamTool, Workbench, StaticWorkbench, StaticStreamWorkbench, AssistantAgent, ToolAgent]
    kinds += [Shelf, RoundRobinGroupChat, AgentTool, *AssistantAgent.__mro__[1:2], *RoundRobinGroupChat.__mro__[1:2]]
    before = [dict(kind.__dict__) for kind in kinds]
    with served(monkeypatch) as gateway:
        autogen.install(agent="researcher")
        assert [dict(kind.__dict__) for kind in kinds] != before

        class Late(Shelf):
            async def call_tool(self, name: str, *args: Any, **kwargs: Any) -> ToolResult:
                return await super().call_tool(name, *args, **kwargs)

        await ask(agent("a", asks(("fetch", {"title": "x"})), "done", workbench=Late()))
        autogen.uninstall()
        after = [dict(kind.__dict__) for kind in kinds]
        for kind, was, now in zip(kinds, before, after, strict=True):
            changed = {name for name in was.keys() | now.keys() if was.get(name) is not now.get(name)}
            assert changed <= {"_abc_impl", "__abstractmethods__"}, (kind, changed)
        await ask(agent("a", asks(("fetch", {"title": "x"})), "done", workbench=Late()))
        assert len(gateway.calls) == 1 and len(ran) == 2
        await asyncio.to_thread(eventually, lambda: any(isinstance(frame, wire.Bye) for frame in gateway.said))
    autogen.uninstall()


async def test_uninstall_while_a_call_runs_lets_it_end_governed(gateway: GatewayServer) -> None:
    """Its end is reported, and its agent goes on; only new calls are ungoverned."""
    gateway.script = with_timeout(20_000)
    begun, free = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        free.wait(PATIENCE_S)
        return "late"

    asked = [asks(("slow", {})), asks(("search", {"query": "a"}), first=2)]
    running = asyncio.create_task(agent("a", *asked, "done", tools=[slow, search]).run(task="go"))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    autogen.uninstall()
    free.set()
    result = await asyncio.wait_for(running, PATIENCE_S)
    assert [one.content for one in told(result)] == ["late", "found a"]
    await asyncio.to_thread(eventually, lambda: any(isinstance(frame, wire.Bye) for frame in gateway.said))
    assert [end.state for end in gateway.ends()] == ["returned"] and len(gateway.calls) == 1


async def test_a_single_tool_or_workbench_can_be_governed_without_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """``govern(...)``: that one and no other; a tool under the name that was given."""
    mine, other = FunctionTool(search, "Mine.", name="mine"), FunctionTool(search, "Not.", name="other")
    shelf = Shelf()
    try:
        with served(monkeypatch) as gateway:
            assert autogen.govern(mine, name="books.find") is mine and autogen.govern(shelf) is shelf
            token = CancellationToken()
            for tool in (mine, other):
                await tool.run_json({"query": "a"}, token)
            await shelf.call_tool("fetch", {})
            await Shelf().call_tool("fetch", {})
            assert [call.open.tool for call in gateway.calls] == ["books.find", "local.fetch"]
            autogen.install()
            autogen.uninstall()
            await other.run_json({"query": "a"}, token)
            await mine.run_json({"query": "a"}, token)
            assert len(gateway.calls) == 3
            with pytest.raises(Misconfigured, match="many tools"):
                autogen.govern(shelf, name="books.all")
            static = autogen.govern(StaticWorkbench([other]))
            await static.call_tool("other", {"query": "b"})
            assert gateway.calls[-1].open.tool == "local.other"
    finally:
        autogen_calls.settings.some_tools = False
        autogen._seams.undo()


async def test_plain_functions_are_governed_by_the_same_name(gateway: GatewayServer) -> None:
    """``autogen.governed`` is the decorator for what is no tool."""

    @autogen.governed(name="mail.send")
    async def send(to: str) -> str:
        return f"sent to {to}"

    assert await send("you") == "sent to you"
    assert gateway.calls[0].open.tool == "mail.send"


def test_a_version_that_was_not_tried_is_told_at_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is installed, what is supported, and the command that mends it; nothing is patched."""
    before = BaseTool.run_json
    monkeypatch.setattr(versions.metadata, "version", lambda package: "0.4.9")
    with pytest.raises(Misconfigured, match=r"0\.4\.9 is not supported.*pip install 'autogen-core>=0\.7\.5,<0\.8'"):
        autogen.install(agent="a", token="t")
    assert BaseTool.run_json is before


def test_missing_settings_are_told_at_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first tool call."""
    for name in ("OUTRIDER_TOKEN", "OUTRIDER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Misconfigured, match="OUTRIDER_TOKEN"):
        autogen.install(agent="a")
    assert process._channel is None


async def test_with_no_sidecar_the_model_is_told_and_nothing_runs(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fail-open."""
    autogen.uninstall()
    monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "0.1")
    gateway.stop()
    autogen.install(agent="researcher")
    (one,) = told(await ask(once("search", [search], query="a")))
    assert one.is_error and "sidecar_unreachable" in one.content and ran == []
    gateway.start()


async def test_in_transparent_mode_a_tools_own_failure_stays_as_it_is(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception that the tool raised, the result that the workbench gave, and the events of a stream."""
    autogen.uninstall()
    monkeypatch.setenv("OUTRIDER_TRANSPARENT", "1")
    autogen.install(agent="researcher")
    with pytest.raises(LookupError, match="nothing about y"):
        await FunctionTool(fails, "Fails.").run_json({"query": "y"}, CancellationToken())
    with pytest.raises(LookupError, match="the shelf is empty"):
        await Shelf().call_tool("fetch", {"title": "burnt"})
    assert (await Shelf().call_tool("fetch", {"title": "lost"})).is_error
    with pytest.raises(LookupError, match="lost count"):
        _ = [item async for item in Counting().run_json_stream({"task": "fail"}, CancellationToken())]
    with pytest.raises(ValidationError):
        await FunctionTool(search, "Searches.").run_json({}, CancellationToken())

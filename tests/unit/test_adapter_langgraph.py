"""The LangGraph adapter on real agents: every path to a tool is governed, and errors, kills, interrupts and results
look as LangGraph's users know them."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain.tools import InjectedState, ToolRuntime
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, Tool, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, create_react_agent
from langgraph.types import Command, RetryPolicy, interrupt

from outrider import wire
from outrider.errors import Code, Misconfigured, Refused
from outrider_adapters import langgraph, langgraph_runs, process, versions
from tests.support.adapters import eventually, served
from tests.support.gateway_server import (
    GatewayServer,
    ServedCall,
    giving,
    refusing,
    retrying,
    with_timeout,
)
from tests.support.scripted_model import asks, model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        langgraph.install(agent="researcher")
        try:
            yield server
        finally:
            langgraph.uninstall()


ran: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


@tool
def search(query: str) -> str:
    """Searches."""
    ran.append(query)
    return f"found {query}"


@tool
async def search_async(query: str) -> str:
    """Searches, awaiting."""
    ran.append(query)
    await asyncio.sleep(0)
    return f"found {query}"


@tool
def fails(query: str) -> str:
    """Fails."""
    ran.append(query)
    raise LookupError(f"nothing about {query}")


BUILT_BEFORE = create_agent(model(asks(("search", {"query": "a"})), "done"), [search], name="librarian")


def last_tool_message(state: dict[str, Any]) -> ToolMessage:
    return next(message for message in reversed(state["messages"]) if isinstance(message, ToolMessage))


def ask(agent: Any, **config: Any) -> dict[str, Any]:
    return agent.invoke({"messages": [HumanMessage("go")]}, config or None)


async def ask_async(agent: Any, **config: Any) -> dict[str, Any]:
    return await agent.ainvoke({"messages": [HumanMessage("go")]}, config or None)


# ── every path to a tool ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_built_before_install_is_governed(gateway: GatewayServer) -> None:
    """The seam is the class, not the instance."""
    assert last_tool_message(ask(BUILT_BEFORE)).content == "found a"
    (call,) = gateway.calls
    assert (call.open.tool, call.open.args, call.open.caller_ref) == ("local.search", {"query": "a"}, "c1")
    assert call.open.framework_tool == "search" and call.open.agent == "researcher"


@pytest.mark.parametrize(
    ("annotations", "declares"),
    [
        ({"readOnlyHint": True}, "read"), ({"readOnlyHint": False, "idempotentHint": True}, "idempotent"),
        ({"readOnlyHint": False}, "write"), ({"readOnlyHint": None}, ""), ({"readOnlyHint": "yes"}, ""), (None, ""),
    ],
)  # fmt: skip
def test_what_a_tools_annotations_claim_is_told(
    gateway: GatewayServer, annotations: dict[str, Any] | None, declares: str
) -> None:
    """As tools of MCP servers carry them."""
    StructuredTool.from_function(lambda: "x", name="f", description="f", metadata=annotations).invoke({})
    (call,) = gateway.calls
    assert call.open.declares == declares


async def test_synchronous_and_async_tools_are_governed_under_ainvoke(gateway: GatewayServer) -> None:
    """Both seams, once each."""
    gateway.script = with_timeout(5000)
    agent = create_agent(
        model(asks(("search", {"query": "a"}), ("search_async", {"query": "b"})), "done"), [search, search_async]
    )
    state = await ask_async(agent)
    assert {message.content for message in state["messages"] if isinstance(message, ToolMessage)} == {
        "found a",
        "found b",
    }
    assert sorted(call.open.tool for call in gateway.calls) == ["local.search", "local.search_async"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_create_react_agent_is_governed(gateway: GatewayServer, version: Any) -> None:
    """Both of its versions."""
    agent = create_react_agent(model(asks(("search", {"query": "a"})), "done"), [search], version=version)
    assert last_tool_message(ask(agent)).content == "found a"
    assert len(gateway.calls) == 1


def test_a_tool_node_in_a_graph_of_ones_own_is_governed(gateway: GatewayServer) -> None:
    """``ToolNode`` alone."""
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([search]))
    graph.add_edge(START, "tools")
    state = graph.compile().invoke({"messages": [asks(("search", {"query": "a"}), ("search", {"query": "b"}))]})
    assert [message.content for message in state["messages"][1:]] == ["found a", "found b"]
    assert len(gateway.calls) == 2


def test_direct_calls_in_custom_nodes_tasks_batches_and_outside_of_everything_are_governed(
    gateway: GatewayServer,
) -> None:
    """``invoke``, ``run``, ``batch``, ``as_tool``, the functional API, and no graph at all."""

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(search.invoke({"query": "n1"}) + search.run({"query": "n2"}))]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.compile().invoke({"messages": []})

    @task
    def step(query: str) -> str:
        return str(search.invoke({"query": query}))

    @entrypoint()
    def workflow(query: str) -> str:
        return step(query).result()

    assert workflow.invoke("f") == "found f"
    assert search.batch([{"query": "b1"}, {"query": "b2"}]) == ["found b1", "found b2"]
    upper = RunnableLambda(lambda given: given["text"].upper()).as_tool(
        name="upper", description="Shouts.", arg_types={"text": str}
    )
    assert upper.invoke({"text": "x"}) == "X"
    single = Tool("single", lambda text: text * 2, "Doubles.")
    assert single.invoke("ab") == "abab"
    assert len(gateway.calls) == 7
    assert gateway.calls[-1].open.args == {"tool_input": "ab"}


def test_subclasses_of_base_tool_are_governed(gateway: GatewayServer) -> None:
    """However a tool is made."""

    class Weather(BaseTool):
        name: str = "weather"
        description: str = "Tells."

        def _run(self, city: str) -> str:
            return f"rain in {city}"

    assert Weather().invoke({"city": "here"}) == "rain in here"
    assert asyncio.run(Weather().ainvoke({"city": "there"})) == "rain in there"
    assert [call.open.args for call in gateway.calls] == [{"city": "here"}, {"city": "there"}]


def test_a_synchronous_tool_under_async_runs_on_a_daemon_thread(gateway: GatewayServer) -> None:
    """LangChain's executor would keep the process alive when the tool hangs."""
    gateway.script = with_timeout(5000)

    class Where(BaseTool):
        name: str = "where"
        description: str = "Tells."

        def _run(self) -> str:
            return f"{threading.current_thread().name} {threading.current_thread().daemon}"

    assert asyncio.run(Where().ainvoke({})) == "outrider-worker True"
    as_function = StructuredTool.from_function(
        lambda: f"{threading.current_thread().name} {threading.current_thread().daemon}", name="where", description="w"
    )
    assert asyncio.run(as_function.ainvoke({})) == "outrider-worker True"


def test_a_nested_agent_is_governed_as_children_of_the_tool_that_holds_it(gateway: GatewayServer) -> None:
    """Agent-as-tool: the inner agent's calls have the outer call as parent and the same run."""
    inner = create_agent(model(asks(("search", {"query": "deep"})), "inner done"), [search], name="inner")

    @tool
    def delegate(question: str) -> str:
        """Delegates."""
        return str(ask(inner)["messages"][-1].content)

    outer = create_agent(model(asks(("delegate", {"question": "q"})), "done"), [delegate], name="outer")
    assert last_tool_message(ask(outer)).content == "inner done"
    parent, child = gateway.calls
    assert (child.open.parent, parent.open.parent) == (parent.id, "")
    assert child.open.run == parent.open.run != ""


async def test_a_nested_async_agent_with_a_thread_of_its_own_is_of_the_same_run(gateway: GatewayServer) -> None:
    """An own thread_id is another session, not another run."""
    inner = create_agent(model(asks(("search_async", {"query": "deep"})), "inner done"), [search_async])

    @tool
    async def delegate(question: str) -> str:
        """Delegates."""
        return str((await ask_async(inner, configurable={"thread_id": "of the inner"}))["messages"][-1].content)

    outer = create_agent(model(asks(("delegate", {"question": "q"})), "done"), [delegate])
    await ask_async(outer, configurable={"thread_id": "of the outer"})
    parent, child = gateway.calls
    assert (parent.open.session, child.open.session) == ("of the outer", "of the inner")
    assert (child.open.parent, child.open.run) == (parent.id, parent.open.run)


# ── who calls ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_calls_of_one_root_invocation_are_one_run_and_the_next_is_another(gateway: GatewayServer) -> None:
    """Minted once for each root invocation, whatever happens inside; the table empties behind it."""
    agent = create_agent(
        model(asks(("search", {"query": "a"}), ("search", {"query": "b"})), asks(("search", {"query": "c"})), "done"),
        [search],
    )
    ask(agent)
    ask(agent)
    runs = [call.open.run for call in gateway.calls]
    assert len(runs) == 6 and len(set(runs[:3])) == 1 and len(set(runs[3:])) == 1 and runs[0] != runs[3]
    assert langgraph_runs.ROOTS.live == 0


def test_a_run_id_that_the_caller_gave_is_the_runs_name(gateway: GatewayServer) -> None:
    """``config["run_id"]`` is what tracers know too; ``configurable.run_id`` is a server's."""
    given = uuid.uuid4()
    ask(BUILT_BEFORE, run_id=given)
    ask(BUILT_BEFORE, configurable={"run_id": "of a server"})
    assert [call.open.run for call in gateway.calls] == [str(given), "of a server"]


def test_subgraphs_and_custom_nodes_find_the_root(gateway: GatewayServer) -> None:
    """A subgraph as a node, a subgraph called in a node, and a bare ``tool.run`` there: one run."""

    def node(state: MessagesState) -> dict[str, Any]:
        search.run({"query": "bare"})
        ask(BUILT_BEFORE)
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_node("sub", BUILT_BEFORE)
    graph.add_edge(START, "node")
    graph.add_edge("node", "sub")
    given = uuid.uuid4()
    graph.compile().invoke({"messages": [HumanMessage("go")]}, {"run_id": given})
    assert {call.open.run for call in gateway.calls} == {str(given)}
    assert len(gateway.calls) == 3


def test_the_thread_is_the_session_and_names_of_agents_are_the_processes_unless_asked(gateway: GatewayServer) -> None:
    """The name given to install is what a kill must match; ``subagents=True`` lets named agents carry their own."""
    agent = create_agent(
        model(asks(("search", {"query": "a"})), "done"), [search], name="inner", checkpointer=InMemorySaver()
    )
    ask(agent, configurable={"thread_id": "t-1"})
    langgraph.uninstall()
    langgraph.install(agent="researcher", subagents=True)
    ask(BUILT_BEFORE, configurable={"thread_id": "t-2"})
    first, second = (call.open for call in gateway.calls)
    assert (first.session, first.agent) == ("t-1", "researcher")
    assert (second.session, second.agent) == ("t-2", "librarian")


def test_a_tools_metadata_names_what_it_is_governed_as(gateway: GatewayServer) -> None:
    """A tool that lives behind an HTTP upstream: the gateway answers, the function never runs."""

    @tool
    def get_balance(account: str) -> str:
        """Reads a balance."""
        raise AssertionError("this lives elsewhere")

    get_balance.metadata = {"outrider_tool": "ledger.get_balance"}
    gateway.scripts["ledger.get_balance"] = giving({"balance": 7, "currency": "€"})
    agent = create_agent(model(asks(("get_balance", {"account": "a"})), "done"), [get_balance])
    message = last_tool_message(ask(agent))
    assert (message.content, message.status, message.name) == ('{"balance":7,"currency":"€"}', "success", "get_balance")
    assert get_balance.invoke({"account": "b"}) == {"balance": 7, "currency": "€"}


# ── arguments and results ────────────────────────────────────────────────────────────────────────────────────────


def test_injected_arguments_stay_in_the_process(gateway: GatewayServer) -> None:
    """State, store, runtime and the call's id reach the tool and never the gateway."""
    seen: list[Any] = []

    @tool
    def inspect(
        query: str,
        state: Annotated[dict[str, Any], InjectedState],
        call_id: Annotated[str, InjectedToolCallId],
        runtime: ToolRuntime,
    ) -> str:
        """Inspects."""
        seen.extend([len(state["messages"]), call_id, runtime.tool_call_id])
        return "ok"

    ask(create_agent(model(asks(("inspect", {"query": "a"})), "done"), [inspect]))
    assert seen == [2, "c1", "c1"]
    assert gateway.calls[0].open.args == {"query": "a"}


def test_a_command_comes_back_untouched(gateway: GatewayServer) -> None:
    """State updates of a tool work; the gateway sees what they are."""

    @tool
    def note(text: str, call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Notes."""
        return Command(update={"messages": [ToolMessage(f"noted {text}", tool_call_id=call_id)]})

    state = ask(create_agent(model(asks(("note", {"text": "x"})), "done"), [note]))
    assert last_tool_message(state).content == "noted x"
    eventually(gateway.ends)
    assert "noted x" in str(gateway.ends()[0].view)


def test_an_artifact_comes_back_untouched_and_is_not_shown(gateway: GatewayServer) -> None:
    """The artifact is for the program; the view is what the model reads."""
    artifact = object()

    @tool(response_format="content_and_artifact")
    def chart(title: str) -> tuple[str, object]:
        """Draws."""
        return f"a chart of {title}", artifact

    gateway.script = with_timeout(5000)
    message = last_tool_message(ask(create_agent(model(asks(("chart", {"title": "x"})), "done"), [chart])))
    assert message.artifact is artifact
    assert gateway.ends()[0].view == "a chart of x"


def test_results_of_any_size_and_kind_pass(gateway: GatewayServer) -> None:
    """20 MB, unicode, and an object without a JSON form; the wire carries a bounded view."""
    things = {"big": "x" * 20_000_000, "unicode": "naïve 😀 \u0000 end", "object": {1, 2, 3}}

    @tool
    def fetch(what: str) -> Any:
        """Fetches."""
        return things[what]

    gateway.script = with_timeout(30_000)
    for what, thing in things.items():
        assert fetch.invoke({"what": what}) is thing
    for end in gateway.ends():
        assert len(wire.encode_frame(end)) < 70_000
        assert len(end.digest) == 64
    assert gateway.ends()[0].size == 20_000_002


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_final_failure_is_an_error_message_that_the_model_reads(gateway: GatewayServer) -> None:
    """LangGraph itself would let the exception end the run."""
    gateway.script = retrying(3)
    message = last_tool_message(ask(create_agent(model(asks(("fails", {"query": "x"})), "done"), [fails])))
    assert (message.status, message.tool_call_id, message.name) == ("error", "c1", "fails")
    assert "failed after 3 attempts" in str(message.content) and "nothing about x" in str(message.content)
    assert ran == ["x"] * 3


def test_a_refusal_is_an_error_message_too(gateway: GatewayServer) -> None:
    """The model learns why, and whether trying again makes sense."""
    gateway.script = refusing(Code.DENIED, "no searching on sundays")
    message = last_tool_message(ask(create_agent(model(asks(("search", {"query": "x"})), "done"), [search])))
    assert message.status == "error"
    assert message.content == "no searching on sundays [denied: trying again will not help]"
    assert ran == []


def test_an_unknown_outcome_tells_the_model_not_to_repeat_it(gateway: GatewayServer) -> None:
    """An agent is a retry layer too."""

    async def script(call: ServedCall) -> None:
        call.fail(Code.OUTCOME_UNKNOWN, "the mail server went silent", outcome="unknown")

    gateway.script = script
    message = last_tool_message(ask(create_agent(model(asks(("search", {"query": "x"})), "done"), [search])))
    assert "do not repeat it" in str(message.content)


def test_without_a_tool_call_a_failure_is_an_exception_that_langgraph_does_not_retry(gateway: GatewayServer) -> None:
    """A direct ``invoke`` in a node with a retry policy: the gateway has retried what may be retried."""
    gateway.script = retrying(2)
    with pytest.raises(ToolException, match="nothing about y") as caught:
        fails.invoke({"query": "y"})
    assert isinstance(caught.value, langgraph.ToolFailed) and caught.value.code == "upstream_failed"
    assert isinstance(caught.value.__cause__, LookupError)
    ran.clear()

    def node(state: MessagesState) -> dict[str, Any]:
        fails.invoke({"query": "z"})
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node, retry_policy=RetryPolicy(max_attempts=5, initial_interval=0.01, jitter=False))
    graph.add_edge(START, "node")
    with pytest.raises(langgraph.ToolFailed):
        graph.compile().invoke({"messages": []})
    assert ran == ["z", "z"], "two attempts of the gateway's, and none of LangGraph's"


def test_arguments_that_do_not_validate_are_the_frameworks_business_and_not_retried(gateway: GatewayServer) -> None:
    """The model is told by LangGraph, in its own words; one attempt, whatever the gateway would retry."""
    gateway.script = retrying(3)
    agent = create_agent(model(asks(("search", {"wrong": 1})), "done"), [search])
    message = last_tool_message(ask(agent))
    assert message.status == "error" and "query" in str(message.content) and "Outrider" not in str(message.content)
    eventually(lambda: len(gateway.ends()) >= 1)
    assert ran == []
    assert gateway.ends()[0].raised is not None
    assert "pydantic_core._pydantic_core.ValidationError" in gateway.ends()[0].raised.mro


def test_a_tool_that_handles_its_own_errors_is_still_a_failed_attempt(gateway: GatewayServer) -> None:
    """``handle_tool_error``: retried like any failure, and told in the tool's own words at the end."""
    gateway.script = retrying(3)
    attempts: list[int] = []

    def flaky(query: str) -> str:
        attempts.append(1)
        if query == "never" or len(attempts) < 2:
            raise ToolException(f"attempt {len(attempts)}")
        return "worked"

    handled = StructuredTool.from_function(
        flaky, name="flaky", description="f", handle_tool_error=lambda error: f"sorry: {error}"
    )
    agent = create_agent(model(asks(("flaky", {"query": "soon"})), "done"), [handled])
    assert last_tool_message(ask(agent)).content == "worked"
    attempts.clear()
    agent = create_agent(model(asks(("flaky", {"query": "never"})), "done"), [handled])
    message = last_tool_message(ask(agent))
    assert (message.content, message.status) == ("sorry: attempt 3", "error")
    assert gateway.ends()[0].state == "raised"


def test_a_retry_is_a_new_execution_to_tracers(gateway: GatewayServer) -> None:
    """A tracer's run id names one execution: only the first attempt may carry it."""
    gateway.script = retrying(2)
    given = uuid.uuid4()
    seen: list[Any] = []

    class Watch(langgraph_runs.BaseCallbackHandler):
        def on_tool_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
            seen.append(run_id)

    with pytest.raises(ToolException):
        fails.invoke({"query": "x"}, {"run_id": given, "callbacks": [Watch()]})
    assert len(seen) == 2 and seen[0] == given != seen[1]


# ── kill, interrupt, cancel ──────────────────────────────────────────────────────────────────────────────────────


def killing(detail: str = "killed by a person") -> Any:
    return refusing(Code.KILLED, detail)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_kill_stops_the_run_through_every_handler(gateway: GatewayServer, asynchronous: bool) -> None:
    """Retry middleware, error handlers, a retry policy, a subgraph: none of them swallows it."""
    gateway.script = killing()
    inner = create_agent(
        model(asks(("search", {"query": "x"})), "the model was asked again"),
        [search],
        middleware=[ToolRetryMiddleware(max_retries=3, initial_delay=0.01, on_failure="continue")],
    )
    graph = StateGraph(MessagesState)
    graph.add_node("agent", inner, retry_policy=RetryPolicy(retry_on=Exception, initial_interval=0.01))
    graph.add_edge(START, "agent")
    graph.add_edge("agent", END)
    whole = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    with pytest.raises(langgraph.Killed, match="killed by a person") as caught:
        if asynchronous:
            asyncio.run(ask_async(whole, **config))
        else:
            ask(whole, **config)
    assert isinstance(caught.value, Refused) and caught.value.code == "killed"
    assert len(gateway.calls) == 1 and ran == []


def test_a_kill_stops_a_tool_node_that_handles_all_errors(gateway: GatewayServer) -> None:
    """``handle_tool_errors=True``."""
    gateway.script = killing()
    agent = create_react_agent(
        model(asks(("search", {"query": "x"})), "again"), ToolNode([search], handle_tool_errors=True)
    )
    with pytest.raises(langgraph.Killed):
        ask(agent)


def test_a_kill_in_a_nested_agent_stops_the_outer_one(gateway: GatewayServer) -> None:
    """The child is killed; the exception passes through the parent's tool untouched."""
    inner = create_agent(model(asks(("search", {"query": "deep"})), "inner done"), [search])

    @tool
    def delegate(question: str) -> str:
        """Delegates."""
        return str(ask(inner)["messages"][-1].content)

    gateway.scripts["local.search"] = killing()
    outer = create_agent(model(asks(("delegate", {"question": "q"})), "done"), [delegate])
    with pytest.raises(langgraph.Killed):
        ask(outer)
    eventually(gateway.ends)
    assert gateway.ends()[0].state == "raised"


@pytest.mark.parametrize("checkpointed_agent", ["create_agent", "react_v1", "react_v2"])
def test_a_killed_thread_can_be_repaired_and_used_again(gateway: GatewayServer, checkpointed_agent: str) -> None:
    """``repair_thread`` answers what nobody answered; a new message then reaches the model with a whole history."""
    scripted = model(asks(("search", {"query": "a"}), ("search", {"query": "b"})), "all right")
    if checkpointed_agent == "create_agent":
        agent: Any = create_agent(scripted, [search], checkpointer=InMemorySaver())
    else:
        version: Any = checkpointed_agent.removeprefix("react_")
        agent = create_react_agent(scripted, [search], checkpointer=InMemorySaver(), version=version)
    config: Any = {"configurable": {"thread_id": "t"}}
    gateway.script = killing()
    with pytest.raises(langgraph.Killed):
        ask(agent, **config)
    assert langgraph.repair_thread(agent, config) == 2
    assert langgraph.repair_thread(agent, config) == 0
    state = agent.invoke({"messages": [HumanMessage("go on")]}, config)
    assert state["messages"][-1].content == "all right"
    history = scripted.seen[-1]
    answered = {message.tool_call_id for message in history if isinstance(message, ToolMessage)}
    assert answered == {"c1", "c2"} and ran == []


async def test_a_killed_thread_can_be_repaired_asynchronously(gateway: GatewayServer) -> None:
    """``arepair_thread``."""
    agent = create_agent(model(asks(("search", {"query": "a"})), "fine"), [search], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    gateway.script = killing()
    with pytest.raises(langgraph.Killed):
        await ask_async(agent, **config)
    assert await langgraph.arepair_thread(agent, config) == 1
    assert (await agent.ainvoke({"messages": [HumanMessage("on")]}, config))["messages"][-1].content == "fine"


def test_after_a_kill_was_lifted_the_thread_may_also_just_go_on(gateway: GatewayServer) -> None:
    """``invoke(None)`` tries the tool again, and the gateway decides again."""
    agent = create_agent(model(asks(("search", {"query": "a"})), "fine"), [search], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    before, gateway.script = gateway.script, killing()
    with pytest.raises(langgraph.Killed):
        ask(agent, **config)
    gateway.script = before
    assert agent.invoke(None, config)["messages"][-1].content == "fine"
    assert ran == ["a"]


@pytest.mark.parametrize("threaded", [False, True])
def test_an_interrupt_inside_a_tool_suspends_and_resumes(gateway: GatewayServer, threaded: bool) -> None:
    """A person is asked: no failure, no retry; on resume the graph runs the tool again."""
    if threaded:
        gateway.script = with_timeout(5000)

    @tool
    def confirm(what: str) -> str:
        """Asks."""
        return f"{what}: {interrupt({'sure?': what})}"

    agent = create_agent(model(asks(("confirm", {"what": "delete"})), "done"), [confirm], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    assert ask(agent, **config)["__interrupt__"][0].value == {"sure?": "delete"}
    eventually(gateway.ends)
    assert gateway.ends()[0].state == "suspended"
    state = agent.invoke(Command(resume="yes"), config)
    assert last_tool_message(state).content == "delete: yes"


async def test_cancelling_a_run_cancels_its_tool(gateway: GatewayServer) -> None:
    """``task.cancel()`` of ``ainvoke`` reaches the function, and the gateway."""
    running = asyncio.Event()
    cleaned: list[int] = []

    @tool
    async def slow() -> str:
        """Takes its time."""
        try:
            running.set()
            await asyncio.sleep(30)
        finally:
            cleaned.append(1)
        return "never"

    agent = create_agent(model(asks(("slow", {})), "done"), [slow])
    going = asyncio.create_task(ask_async(agent))
    await asyncio.wait_for(running.wait(), 10)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert cleaned == [1]
    await asyncio.to_thread(eventually, lambda: gateway.ends())
    assert gateway.ends()[0].state == "cancelled"


# ── the sidecar is lost ──────────────────────────────────────────────────────────────────────────────────────────


def test_with_no_sidecar_the_model_is_told_and_nothing_runs(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fail-open."""
    langgraph.uninstall()
    monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "0.1")
    gateway.stop()
    langgraph.install(agent="researcher")
    message = last_tool_message(ask(BUILT_BEFORE))
    assert message.status == "error" and "sidecar_unreachable" in str(message.content) and ran == []
    gateway.start()


def test_lost_while_a_tool_runs_the_agent_goes_on_with_the_real_result(gateway: GatewayServer) -> None:
    """The run is not the sidecar's hostage; what happened is reported when one is back."""
    gateway.script = with_timeout(20_000)

    @tool
    def fateful() -> str:
        """Stops the sidecar."""
        gateway.stop()
        return "the real result"

    state = ask(create_agent(model(asks(("fateful", {})), "done"), [fateful]))
    assert last_tool_message(state).content == "the real result" and state["messages"][-1].content == "done"
    gateway.start()
    eventually(gateway.ends)
    assert gateway.ends()[0].view == "the real result"


# ── install, uninstall, govern ───────────────────────────────────────────────────────────────────────────────────


def test_installing_twice_is_nothing_new_and_installing_otherwise_is_told(gateway: GatewayServer) -> None:
    """One call stays one call; other settings need ``uninstall`` first."""
    langgraph.install(agent="researcher")
    search.invoke({"query": "a"})
    assert len(gateway.calls) == 1
    with pytest.raises(Misconfigured, match=r"uninstall\(\) first"):
        langgraph.install(agent="another")


def test_uninstall_puts_the_framework_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ungoverned, unpatched, and gone from the gateway with a goodbye."""
    before = BaseTool.run, BaseTool.arun
    with served(monkeypatch) as gateway:
        langgraph.install(agent="researcher")
        assert BaseTool.run is not before[0]
        search.invoke({"query": "a"})
        langgraph.uninstall()
        assert (BaseTool.run, BaseTool.arun) == before
        search.invoke({"query": "b"})
        assert len(gateway.calls) == 1
        eventually(lambda: any(isinstance(frame, wire.Bye) for frame in gateway.said))
    langgraph.uninstall()


def test_uninstall_while_a_call_runs_lets_it_end_governed(gateway: GatewayServer) -> None:
    """Its end is reported; only new calls are ungoverned."""
    gateway.script = with_timeout(20_000)
    begun, free = threading.Event(), threading.Event()

    @tool
    def slow() -> str:
        """Waits."""
        begun.set()
        free.wait(10)
        return "late"

    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(slow.invoke({})))
    thread.start()
    assert begun.wait(10)
    langgraph.uninstall()
    free.set()
    thread.join(10)
    assert results == ["late"]
    eventually(lambda: any(isinstance(frame, wire.Bye) for frame in gateway.said))
    assert [end.state for end in gateway.ends()] == ["returned"]


def test_a_single_tool_can_be_governed_without_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """``govern(tool)``: that one and no other, under the name that was given."""

    @tool
    def mine(query: str) -> str:
        """Mine."""
        return query

    with served(monkeypatch) as gateway:
        assert langgraph.govern(mine, name="books.find") is mine
        assert mine.invoke({"query": "a"}) == "a" and search.invoke({"query": "b"}) == "found b"
        assert [call.open.tool for call in gateway.calls] == ["books.find"]
        langgraph.install()
        langgraph.uninstall()
        mine.invoke({"query": "c"})
        search.invoke({"query": "d"})
        assert [call.open.tool for call in gateway.calls] == ["books.find", "books.find"]


def test_a_version_that_was_not_tried_is_told_at_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is installed, what is supported, and the command that mends it; nothing is patched."""
    before = BaseTool.run
    monkeypatch.setattr(versions.metadata, "version", lambda package: {"langgraph": "0.6.11"}.get(package, "1.7.2"))
    with pytest.raises(Misconfigured, match=r"0\.6\.11 is not supported.*pip install 'langgraph>=1\.2,<2'"):
        langgraph.install(agent="a", token="t")
    assert BaseTool.run is before


def test_missing_settings_are_told_at_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first tool call."""
    for name in ("OUTRIDER_TOKEN", "OUTRIDER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Misconfigured, match="OUTRIDER_TOKEN"):
        langgraph.install(agent="a")
    assert process._channel is None


def test_plain_functions_are_governed_by_the_same_name(gateway: GatewayServer) -> None:
    """``langgraph.governed`` is the decorator for what is no tool."""

    @langgraph.governed(name="mail.send")
    def send(to: str) -> str:
        return f"sent to {to}"

    assert send("you") == "sent to you"
    assert gateway.calls[0].open.tool == "mail.send"


def test_handlers_of_the_users_own_see_nothing_new(gateway: GatewayServer) -> None:
    """The watcher of runs never fails a run, and is deaf after uninstall."""
    langgraph.uninstall()
    ask(BUILT_BEFORE)
    assert langgraph_runs.ROOTS.live == 0 and gateway.calls == []

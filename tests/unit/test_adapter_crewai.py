"""The CrewAI adapter in CrewAI's own agent loop: every path to a tool is governed, a failing call is executed as often
as the gateway says, and results and failures look as CrewAI's users know them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from crewai.flow.flow import Flow, start
from crewai.hooks import clear_all_tool_call_hooks
from crewai.hooks.dispatch import InterceptionPoint, get_global_hook_list
from crewai.tools import BaseTool, tool
from crewai.tools.structured_tool import CrewStructuredTool
from crewai.tools.tool_failure import ToolExecutionFailedError, ToolFailure, ToolFailureReason

from outrider.errors import Code, Failed, Refused
from outrider_adapters import crewai, crewai_seam
from tests.support.adapters import eventually, served
from tests.support.gateway_server import GatewayServer, ServedCall, giving, once, refusing, retrying, with_timeout
from tests.support.scripted_crewai import agent, asks, crew, llm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
PATHS = pytest.mark.parametrize("native", [True, False], ids=["native", "react"])


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        crewai.install(agent="researcher")
        try:
            yield server
        finally:
            crewai_seam._seam.some_tools = False  # govern() is for the process's life; the tests after start afresh
            crewai.uninstall()


ran: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


@tool("Search Library")
def search(query: str) -> str:
    """Searches."""
    ran.append(query)
    return f"found {query}"


@tool
def fails(query: str) -> str:
    """Fails."""
    ran.append(query)
    raise LookupError(f"nothing about {query}")


def failures_of(group: Any) -> list[ToolFailure]:
    return [record.failure for task in group.tasks for record in task.output.tool_failures]


# ── every path to a tool ─────────────────────────────────────────────────────────────────────────────────────────


@PATHS
def test_a_models_call_is_governed_under_the_name_that_the_model_sees(gateway: GatewayServer, native: bool) -> None:
    """Function calling ends in ``run``, ReAct in ``invoke``; the result is what the model reads."""
    model = llm(asks(("search_library", {"query": "a"})), "done", native=native)
    assert crew(agent(model, search)).kickoff().raw == "done"
    (call,) = gateway.calls
    assert (call.open.tool, call.open.args) == ("local.search_library", {"query": "a"})
    assert call.open.framework_tool == "Search Library" and call.open.agent == "researcher"
    assert "found a" in model.last_heard and ran == ["a"]


@PATHS
def test_a_crew_that_worked_before_install_is_governed_afterwards(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """Its executor, with the tools' methods bound in it, existed already."""
    group = crew(agent(llm(asks(("search_library", {"query": "a"})), "done",
                           asks(("search_library", {"query": "b"})), "done", native=native), search))  # fmt: skip
    group.kickoff()
    with served(monkeypatch) as gateway:
        crewai.install(agent="researcher")
        try:
            group.kickoff()
        finally:
            crewai.uninstall()
    assert ran == ["a", "b"] and [call.open.args for call in gateway.calls] == [{"query": "b"}]


def test_direct_calls_flows_and_agents_without_a_crew_are_governed(gateway: GatewayServer) -> None:
    """``run``, ``invoke``, ``ainvoke``, a flow's method, ``Agent.kickoff``."""

    class Work(Flow[Any]):
        @start()
        def begin(self) -> str:
            return str(search.run(query="flow"))

    structured = search.to_structured_tool()
    assert search.run("positional") == "found positional"
    assert structured.invoke({"query": "dict"}) == structured.invoke('{"query": "dict"}') == "found dict"
    assert asyncio.run(structured.ainvoke({"query": "async"})) == "found async"
    assert Work().kickoff() == "found flow"
    assert agent(llm(asks(("search_library", {"query": "alone"})), "done"), search).kickoff("go").raw == "done"
    asked = [call.open.args["query"] for call in gateway.calls]
    assert asked == ran == ["positional", "dict", "dict", "async", "flow", "alone"]


async def test_async_tools_are_governed_on_every_path(gateway: GatewayServer) -> None:
    """``arun`` on the caller's loop; under a crew CrewAI runs them by ``run``, also under ``akickoff``."""

    @tool
    async def look(query: str) -> str:
        """Looks, awaiting."""
        await asyncio.sleep(0)
        ran.append(threading.current_thread().name)
        return f"saw {query}"

    assert await look.arun(query="a") == "saw a"
    assert ran == [threading.current_thread().name]
    assert (await look.to_structured_tool().ainvoke({"query": "b"})) == "saw b"
    for native in (True, False):
        model = llm(asks(("look", {"query": "c"})), "done", native=native)
        await crew(agent(model, look)).akickoff()
        assert "saw c" in model.last_heard
    assert [call.open.args["query"] for call in gateway.calls] == ["a", "b", "c", "c"]


@PATHS
def test_subclasses_and_structured_tools_are_governed(gateway: GatewayServer, native: bool) -> None:
    """However a tool is made."""

    class Weather(BaseTool):
        name: str = "WeatherToday"
        description: str = "Tells."

        def _run(self, city: str) -> str:
            return f"rain in {city}"

    model = llm(asks(("weather_today", {"city": "here"})), "done", native=native)
    crew(agent(model, Weather())).kickoff()
    assert "rain in here" in model.last_heard
    made = CrewStructuredTool.from_function(lambda city: f"sun in {city}", name="sunny", description="Tells.",
                                            args_schema=Weather().args_schema)  # fmt: skip
    assert made.invoke({"city": "there"}) == "sun in there"
    assert [call.open.tool for call in gateway.calls] == ["local.weather_today", "local.sunny"]


def test_parallel_calls_are_each_governed(gateway: GatewayServer) -> None:
    """Several in one reply run on a pool of CrewAI's threads."""
    model = llm(asks(("search_library", {"query": "a"}), ("search_library", {"query": "b"})), "done")
    crew(agent(model, search)).kickoff()
    assert sorted(call.open.args["query"] for call in gateway.calls) == sorted(ran) == ["a", "b"]
    assert len({call.open.run for call in gateway.calls}) == 1


@PATHS
def test_a_tool_found_by_a_similar_name_is_governed_by_its_own(gateway: GatewayServer, native: bool) -> None:
    """ReAct takes the model's slip for the tool that is nearest; native calling knows no such tool."""
    model = llm(asks(("search_librari", {"query": "a"})), "done", native=native)
    crew(agent(model, search)).kickoff()
    assert [call.open.tool for call in gateway.calls] == ([] if native else ["local.search_library"])


def test_the_hooks_fail_open_and_the_gate_does_not(gateway: GatewayServer) -> None:
    """A hook that raises, or hooks that somebody cleared, let nothing through."""
    gateway.script = refusing()

    def broken(_: Any) -> None:
        raise RuntimeError("a hook of the user's")

    get_global_hook_list(InterceptionPoint.PRE_TOOL_CALL).insert(0, broken)
    try:
        crew(agent(llm(asks(("search_library", {"query": "a"})), "done"), search)).kickoff()
    finally:
        clear_all_tool_call_hooks()
    crew(agent(llm(asks(("search_library", {"query": "b"})), "done"), search)).kickoff()
    assert ran == [] and len(gateway.calls) == 2
    group = crew(agent(llm(asks(("search_library", {"query": "c"})), "done"), search))
    group.kickoff()
    assert [one.code for one in failures_of(group)] == ["denied"]  # the adapter's hooks are back


# ── how often ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("native", "unaided"), [(True, 1), (False, 6)], ids=["native", "react"])
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_failing_call_is_executed_as_often_as_the_gateway_says(
    monkeypatch: pytest.MonkeyPatch, native: bool, unaided: int, attempts: int
) -> None:
    """And is one call. CrewAI by itself executes it once by function calling and six times by ReAct."""

    def group() -> Any:
        return crew(agent(llm(asks(("fails", {"query": "x"})), "done", native=native), fails))

    group().kickoff()
    assert len(ran) == unaided
    ran.clear()
    with served(monkeypatch) as gateway:
        gateway.script = retrying(attempts)
        crewai.install(agent="researcher")
        try:
            group().kickoff()
        finally:
            crewai.uninstall()
    assert len(ran) == attempts and len(gateway.calls) == 1


@PATHS
def test_what_fails_behind_a_call_does_not_execute_it_again(gateway: GatewayServer, native: bool) -> None:
    """A ``cache_function`` that raises makes ReAct call the tool three times; the turn keeps its answer."""

    class Pays(BaseTool):
        name: str = "pays"
        description: str = "Pays."

        def _run(self, amount: int) -> str:
            ran.append("paid")
            return "paid"

    def careless(_: Any, result: Any) -> bool:
        raise TypeError("not what this function expected")

    crew(agent(llm(asks(("pays", {"amount": 1})), "done", native=native), Pays(cache_function=careless))).kickoff()
    assert ran == ["paid"] and len(gateway.calls) == 1


@PATHS
def test_a_retried_call_uses_one_of_the_tools_uses(gateway: GatewayServer, native: bool) -> None:
    """Each execution takes one by itself; the count after three attempts is that of a call that succeeded at once."""

    def uses(failing: int) -> int:
        left = [failing]

        @tool("limited", max_usage_count=9)
        def limited() -> str:
            """Fails at first."""
            if left[0]:
                left[0] -= 1
                raise LookupError("not yet")
            return "fine"

        model = llm(asks(("limited", {})), "done", native=native)
        crew(agent(model, limited)).kickoff()
        assert "fine" in model.last_heard
        return int(limited.current_usage_count)

    gateway.script = retrying(3)
    assert uses(failing=2) == uses(failing=0)


def test_a_tool_at_its_last_use_can_still_be_retried_and_not_be_used_again(gateway: GatewayServer) -> None:
    """``max_usage_count=1``: three attempts are one use, and the second call is CrewAI's own no, at once."""

    @tool("precious", max_usage_count=1)
    def precious() -> str:
        """Fails twice."""
        ran.append("x")
        if len(ran) < 3:
            raise LookupError("not yet")
        return "fine"

    gateway.script = retrying(3)
    assert precious.run() == "fine" and len(ran) == 3
    spent = precious.run()
    assert isinstance(spent, ToolFailure) and spent.reason is ToolFailureReason.USAGE_LIMIT
    assert len(ran) == 3
    eventually(lambda: gateway.calls[1].finished)
    assert gateway.calls[1].finished[0].state == "raised"


@PATHS
def test_arguments_that_do_not_fit_are_told_in_crewais_words_and_run_nothing(
    gateway: GatewayServer, native: bool
) -> None:
    """ReAct tries the unfiltered arguments too: two calls at most, where it would have made six."""

    @tool
    def counts(number: int) -> str:
        """Counts."""
        ran.append(str(number))
        return "counted"

    model = llm(asks(("counts", {"number": "many"})), "done", native=native)
    crew(agent(model, counts)).kickoff()
    assert ran == [] and "validation failed" in model.last_heard and "valid integer" in model.last_heard
    assert len(gateway.calls) == (1 if native else 2)
    eventually(lambda: [end.state for end in gateway.ends()] == ["raised"] * len(gateway.calls))


def test_react_still_tries_arguments_that_its_own_filter_cut(gateway: GatewayServer) -> None:
    """A schema with aliases: the filter drops the field's own name, and the second try has it."""
    from pydantic import BaseModel, ConfigDict, Field

    class Aliased(BaseModel):
        model_config = ConfigDict(populate_by_name=True)
        number: int = Field(alias="theNumber")

    class Counts(BaseTool):
        name: str = "counts"
        description: str = "Counts."
        args_schema: type[BaseModel] = Aliased

        def _run(self, number: int) -> str:
            ran.append(str(number))
            return f"counted {number}"

    model = llm(asks(("counts", {"number": 7})), "done", native=False)
    crew(agent(model, Counts())).kickoff()
    assert ran == ["7"] and "counted 7" in model.last_heard


# ── results and failures ─────────────────────────────────────────────────────────────────────────────────────────


@PATHS
def test_a_final_failure_is_a_tool_failure(gateway: GatewayServer, native: bool) -> None:
    """The model reads what happened; the task's output has code, reason and the problem."""
    model = llm(asks(("fails", {"query": "x"})), "done", native=native)
    group = crew(agent(model, fails))
    assert group.kickoff().raw == "done"
    (failed,) = failures_of(group)
    assert (failed.reason, failed.code, failed.retryable) == (ToolFailureReason.EXCEPTION, "upstream_failed", False)
    assert failed.details["attempts"] == 1
    assert "LookupError: nothing about x [upstream_failed: trying again will not help]" in model.last_heard


@PATHS
def test_a_refusal_reads_as_its_reason_and_runs_nothing(gateway: GatewayServer, native: bool) -> None:
    """``denied``, with the rule's words."""
    gateway.script = refusing(Code.DENIED, "no searching in this team")
    model = llm(asks(("search_library", {"query": "a"})), "done", native=native)
    group = crew(agent(model, search))
    group.kickoff()
    (refused,) = failures_of(group)
    assert (refused.reason, refused.code) == (ToolFailureReason.TOOL_REPORTED, "denied") and ran == []
    assert "no searching in this team [denied: trying again will not help]" in model.last_heard


@PATHS
def test_the_crews_own_policy_of_failures_holds(gateway: GatewayServer, native: bool) -> None:
    """``tool_failure_policy="raise"`` ends the crew, as for every other failure."""
    model = llm(asks(("fails", {"query": "x"})), "done", native=native)
    with pytest.raises(ToolExecutionFailedError, match="nothing about x"):
        crew(agent(model, fails), tool_failure_policy="raise").kickoff()
    assert ran == ["x"]


@PATHS
def test_a_failure_that_the_tool_returned_is_a_failed_attempt_and_comes_back_itself(
    gateway: GatewayServer, native: bool
) -> None:
    """A ``ToolFailure`` is not raised; it is retried like an exception, and keeps its own words."""

    @tool
    def reports() -> ToolFailure:
        """Reports."""
        ran.append("x")
        return ToolFailure(message="the channel is unknown", code="channel_not_found")

    gateway.script = retrying(2)
    group = crew(agent(llm(asks(("reports", {})), "done", native=native), reports))
    group.kickoff()
    assert [(one.message, one.code) for one in failures_of(group)] == [("the channel is unknown", "channel_not_found")]
    assert len(ran) == 2


@PATHS
def test_a_value_that_the_gateway_made_is_the_result(gateway: GatewayServer, native: bool) -> None:
    """A fallback, or an upstream's answer: the function never ran."""
    gateway.script = giving("a made answer")
    model = llm(asks(("search_library", {"query": "a"})), "done", native=native)
    crew(agent(model, search)).kickoff()
    assert "a made answer" in model.last_heard and ran == []


async def test_a_programs_own_call_raises(gateway: GatewayServer) -> None:
    """There is no model to tell: Failed with the tool's own exception as its cause, Refused with the rule."""
    with pytest.raises(Failed, match="nothing about x") as failed:
        fails.run(query="x")
    assert isinstance(failed.value.__cause__, LookupError)
    gateway.script = refusing()
    for call in (lambda: search.run(query="a"), lambda: search.to_structured_tool().invoke({"query": "a"})):
        with pytest.raises(Refused, match="a rule says no"):
            call()
    with pytest.raises(Refused):
        await search.to_structured_tool().ainvoke({"query": "a"})


def test_objects_come_back_untouched(gateway: GatewayServer) -> None:
    """Results stay in the process."""
    thing = object()

    @tool
    def fetch() -> object:
        """Fetches."""
        return thing

    assert fetch.run() is thing and fetch.to_structured_tool().invoke({}) is thing


@pytest.mark.parametrize("placement", ["thread", "caller"])
def test_where_a_function_runs_is_the_policys_choice(gateway: GatewayServer, placement: str) -> None:
    """On a daemon thread, or where CrewAI called it."""

    @tool
    def where() -> str:
        """Tells."""
        return threading.current_thread().name

    gateway.script = with_timeout(5000, placement=placement)
    model = llm(asks(("where", {})), "done")
    crew(agent(model, where)).kickoff()
    assert ("outrider-worker" in model.last_heard) == (placement == "thread")


@pytest.mark.parametrize(("native", "unaided"), [(True, 1), (False, 6)], ids=["native", "react"])
def test_in_transparent_mode_crewai_fails_as_it_does_alone(
    monkeypatch: pytest.MonkeyPatch, native: bool, unaided: int
) -> None:
    """The original exception, and so ReAct's own repetitions; each of them a call."""
    monkeypatch.setenv("OUTRIDER_TRANSPARENT", "1")
    with served(monkeypatch) as gateway:
        crewai.install(agent="researcher")
        try:
            group = crew(agent(llm(asks(("fails", {"query": "x"})), "done", native=native), fails))
            group.kickoff()
        finally:
            crewai.uninstall()
    assert len(ran) == len(gateway.calls) == unaided
    assert [(one.message, one.code) for one in failures_of(group)] == [("nothing about x", "LookupError")]


# ── the cache, children ──────────────────────────────────────────────────────────────────────────────────────────


def twice_from_the_cache(native: bool) -> tuple[Any, Any]:
    """Two tasks that ask the same; between them something else, because ReAct refuses the same call in a row."""
    same = asks(("search_library", {"query": "a"}))
    model = llm(same, asks(("search_library", {"query": "b"})), same, "done", native=native)
    return model, crew(agent(model, search), cache=True)


@PATHS
def test_a_hit_of_crewais_cache_is_a_call_that_executes_nothing(gateway: GatewayServer, native: bool) -> None:
    """Recorded with ``caller_ref`` cache and the value that was handed out."""
    model, group = twice_from_the_cache(native)
    group.kickoff()
    assert ran == ["a", "b"]
    assert [(call.open.args["query"], call.open.caller_ref) for call in gateway.calls] == [
        ("a", ""),
        ("b", ""),
        ("a", "cache"),
    ]
    assert gateway.calls[2].finished[0].view == "found a" and model.last_heard.count("found a") == 2


@PATHS
def test_a_hit_of_the_cache_is_refused_where_the_call_would_be(gateway: GatewayServer, native: bool) -> None:
    """What was read before a rule changed is not handed out after."""

    async def only_new(call: ServedCall) -> None:
        await (refusing(Code.DENIED, "not any more") if call.open.caller_ref else once)(call)

    gateway.script = only_new
    model, group = twice_from_the_cache(native)
    group.kickoff()
    assert "not any more" in model.last_heard and model.last_heard.count("found a") == 1


@PATHS
def test_delegated_work_is_a_call_and_what_the_coworker_does_are_its_children(
    gateway: GatewayServer, native: bool
) -> None:
    """One run; ``parent`` says inside which delegation."""
    boss = agent(
        llm(asks(("delegate_work_to_coworker", {"task": "t", "context": "c", "coworker": "clerk"})), "done",
            native=native),
        role="boss", allow_delegation=True,
    )  # fmt: skip
    clerk = agent(llm(asks(("search_library", {"query": "a"})), "the clerk's answer", native=native), search,
                  role="clerk")  # fmt: skip
    group = crew(boss, clerk)
    group.tasks = group.tasks[:1]
    assert group.kickoff().raw == "done"
    parent, child = gateway.calls
    assert (parent.open.tool, child.open.tool) == ("local.delegate_work_to_coworker", "local.search_library")
    assert child.open.parent == parent.id and parent.open.parent == "" and child.open.run == parent.open.run
    assert "the clerk's answer" in boss.llm.last_heard


@PATHS
def test_a_question_to_a_coworker_is_a_call_too(gateway: GatewayServer, native: bool) -> None:
    """The other delegation tool."""
    asked = asks(("ask_question_to_coworker", {"question": "q", "context": "c", "coworker": "clerk"}))
    boss = agent(llm(asked, "done", native=native), role="boss", allow_delegation=True)
    clerk = agent(llm(asks(("search_library", {"query": "a"})), "an answer", native=native), search, role="clerk")
    group = crew(boss, clerk)
    group.tasks = group.tasks[:1]
    group.kickoff()
    parent, child = gateway.calls
    assert parent.open.tool == "local.ask_question_to_coworker" and child.open.parent == parent.id


@PATHS
def test_a_tools_own_calls_and_a_hooks_are_not_taken_for_the_models(gateway: GatewayServer, native: bool) -> None:
    """They raise, as a program's calls do, and the model's call keeps its own answer."""
    caught: list[BaseException] = []

    def try_it(*_: Any) -> None:
        try:
            fails.run(query="inner")
        except Failed as error:
            caught.append(error)

    @tool
    def outer() -> str:
        """Calls another tool."""
        try_it()
        return "outer is fine"

    hooks = get_global_hook_list(InterceptionPoint.PRE_TOOL_CALL)
    hooks.append(try_it)
    try:
        model = llm(asks(("outer", {})), "done", native=native)
        crew(agent(model, outer)).kickoff()
    finally:
        hooks.remove(try_it)
    assert len(caught) == 2 and "outer is fine" in model.last_heard
    assert [bool(call.open.parent) for call in gateway.calls] == [False, False, True]


@PATHS
def test_a_tool_that_calls_itself_is_a_call_each_time(gateway: GatewayServer, native: bool) -> None:
    """Only the outermost is the model's; the turn's answer is not the inner calls'."""

    @tool
    def fibonacci(number: int) -> int:
        """Counts rabbits."""
        ran.append(str(number))
        return number if number < 2 else fibonacci.run(number=number - 1) + fibonacci.run(number=number - 2)

    model = llm(asks(("fibonacci", {"number": 4})), "done", native=native)
    group = crew(agent(model, fibonacci))
    group.kickoff()
    assert len(ran) == len(gateway.calls) == 9 and sum(call.open.parent == "" for call in gateway.calls) == 1
    assert "Observation: 3" in model.last_heard if not native else '"content": "3"' in model.last_heard


def test_a_hit_of_the_cache_of_a_tool_that_lives_elsewhere_is_not_sent_again(gateway: GatewayServer) -> None:
    """Asking the gateway would call the upstream; nothing is sent twice that was asked for once."""

    @tool
    def pay(amount: int) -> str:
        """Pays."""
        raise NotImplementedError

    gateway.scripts["ledger.pay"] = giving("paid")
    crewai.govern(pay, name="ledger.pay")
    same = asks(("pay", {"amount": 1}))
    model = llm(same, same, "done")
    crew(agent(model, pay), cache=True).kickoff()
    assert [call.open.tool for call in gateway.calls] == ["ledger.pay"] and model.last_heard.count('"paid"') == 2

"""A kill ends a crew, however it was started and wherever in it the killed call was made; and who is it that calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crewai.flow.flow import Flow, start
from crewai.hooks import HookAborted
from crewai.hooks.dispatch import InterceptionPoint, get_global_hook_list
from crewai.tools import tool
from crewai.tools.tool_failure import ToolFailure

from outrider.errors import Code, Refused
from outrider_adapters import crewai
from tests.support.adapters import served
from tests.support.gateway_server import GatewayServer, ServedCall, once, refusing
from tests.support.scripted_crewai import agent, asks, crew, llm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PATHS = pytest.mark.parametrize("native", [True, False], ids=["native", "react"])
ran: list[str] = []


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    ran.clear()
    with served(monkeypatch) as server:
        crewai.install(agent="researcher")
        try:
            yield server
        finally:
            crewai.uninstall()


@tool
def step(number: int) -> str:
    """A step."""
    ran.append(f"step {number}")
    return f"stepped {number}"


@tool
def forbidden() -> str:
    """Is killed."""
    ran.append("forbidden")
    return "never"


async def killer(call: ServedCall) -> None:
    """Kills ``forbidden``, executes everything else."""
    killed = call.open.tool == "local.forbidden"
    await (refusing(Code.KILLED, "killed by a test") if killed else once)(call)


def worker(native: bool, **more: Any) -> Any:
    """Steps, is killed, and would go on."""
    script = asks(("step", {"number": 1})), asks(("forbidden", {})), asks(("step", {"number": 2})), "done"
    return agent(llm(*script, native=native), step, forbidden, **more)


HOW: dict[str, Callable[[Any], Any]] = {
    "kickoff": lambda group: group.kickoff(),
    "kickoff_async": lambda group: asyncio.run(group.kickoff_async()),
    "akickoff": lambda group: asyncio.run(group.akickoff()),
    "kickoff_for_each": lambda group: group.kickoff_for_each([{}, {}]),
    "akickoff_for_each": lambda group: asyncio.run(group.akickoff_for_each([{}])),
}


@PATHS
@pytest.mark.parametrize("async_execution", [False, True], ids=["", "async_execution"])
@pytest.mark.parametrize("how", HOW)
def test_a_kill_ends_the_crew(gateway: GatewayServer, how: str, async_execution: bool, native: bool) -> None:
    """``Killed`` out of the kickoff, no retry of the task, no next step, no next task; and nothing hangs."""
    gateway.script = killer
    group = crew(worker(native), tasks=1, task={"async_execution": async_execution})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(HOW[how], group)
        with pytest.raises(crewai.Killed, match="killed by a test") as killed:
            running.result(30)
    assert ran == ["step 1"] and [call.open.tool for call in gateway.calls] == ["local.step", "local.forbidden"]
    assert isinstance(killed.value, HookAborted) and isinstance(killed.value, Refused)
    assert killed.value.code == "killed"


@PATHS
def test_a_kill_ends_the_crew_before_its_next_task(gateway: GatewayServer, native: bool) -> None:
    """The second agent does not begin."""
    gateway.script = killer
    second = agent(llm(asks(("step", {"number": 9})), "done", native=native), step, role="second")
    with pytest.raises(crewai.Killed):
        crew(worker(native), second).kickoff()
    assert second.llm.heard == [] and ran == ["step 1"]


@PATHS
@pytest.mark.parametrize("is_async", [False, True], ids=["kickoff", "kickoff_async"])
def test_a_kill_ends_an_agent_without_a_crew(gateway: GatewayServer, native: bool, is_async: bool) -> None:
    """``Agent.kickoff`` has neither task nor crew."""
    gateway.script = killer
    alone = worker(native)
    with pytest.raises(crewai.Killed):
        if is_async:
            asyncio.run(alone.kickoff_async("go"))
        else:
            alone.kickoff("go")
    assert ran == ["step 1"]


def test_one_killed_call_of_several_in_parallel_ends_the_crew(gateway: GatewayServer) -> None:
    """CrewAI runs them on a pool; those that ran are ran, and nothing follows."""
    gateway.script = killer
    model = llm(asks(("step", {"number": 1}), ("forbidden", {})), asks(("step", {"number": 2})), "done")
    with pytest.raises(crewai.Killed):
        crew(agent(model, step, forbidden)).kickoff()
    assert ran in ([], ["step 1"]) and len(model.heard) == 1


@PATHS
def test_a_killed_coworker_ends_the_whole_crew(gateway: GatewayServer, native: bool) -> None:
    """CrewAI tells a delegation's exception to the boss as a text; the boss is not asked again."""
    gateway.script = killer
    boss = agent(
        llm(asks(("delegate_work_to_coworker", {"task": "t", "context": "c", "coworker": "clerk"})), "done",
            native=native),
        role="boss", allow_delegation=True,
    )  # fmt: skip
    group = crew(boss, worker(native, role="clerk"))
    group.tasks = group.tasks[:1]
    with pytest.raises(crewai.Killed):
        group.kickoff()
    assert len(boss.llm.heard) == 1 and ran == ["step 1"]


@PATHS
def test_a_killed_crew_inside_a_tool_ends_the_crew_around_it(gateway: GatewayServer, native: bool) -> None:
    """Also where the tool swallows it; and ReAct does not try the tool again."""
    gateway.script = killer

    @tool
    def research() -> str:
        """A crew as a tool."""
        ran.append("research")
        try:
            return str(crew(worker(native)).kickoff())
        except Exception as error:
            return f"it did not work: {error}"

    @tool
    def careless_research() -> str:
        """The same, and does not look."""
        ran.append("research")
        return str(crew(worker(native)).kickoff())

    for one in (research, careless_research):
        ran.clear()
        model = llm(asks((one.name, {})), "done", native=native)
        with pytest.raises(crewai.Killed):
            crew(agent(model, one)).kickoff()
        assert ran == ["research", "step 1"] and len(model.heard) == 1


@PATHS
def test_a_killed_crew_on_a_thread_of_a_tools_own_ends_the_crew_around_it(gateway: GatewayServer, native: bool) -> None:
    """The thread carries no context, so only the exception tells; ReAct does not try the tool again."""
    gateway.script = killer

    @tool
    def research() -> str:
        """A crew on another thread."""
        ran.append("research")
        with ThreadPoolExecutor(1) as pool:
            return str(pool.submit(lambda: crew(worker(native)).kickoff()).result(30))

    model = llm(asks(("research", {})), "done", native=native)
    with pytest.raises(crewai.Killed):
        crew(agent(model, research)).kickoff()
    assert ran == ["research", "step 1"] and len(model.heard) == 1


def test_a_killed_call_of_a_flow_raises_at_once(gateway: GatewayServer) -> None:
    """No executor is there to be stopped by a hook."""
    gateway.script = killer

    class Work(Flow[Any]):
        @start()
        def begin(self) -> str:
            return str(forbidden.run())

    with pytest.raises(crewai.Killed):
        Work().kickoff()
    with pytest.raises(crewai.Killed):
        forbidden.run()
    assert ran == []


def test_a_hook_that_rewrites_results_does_not_hide_a_kill(gateway: GatewayServer) -> None:
    """Nor one that raises."""
    gateway.script = killer

    def rewrites(_: Any) -> str:
        return "all is well"

    def raises(_: Any) -> None:
        raise RuntimeError("a hook of the user's")

    hooks = get_global_hook_list(InterceptionPoint.POST_TOOL_CALL)
    hooks[:0] = [rewrites, raises]
    try:
        with pytest.raises(crewai.Killed):
            crew(worker(native=True)).kickoff()
    finally:
        for hook in (rewrites, raises):
            hooks.remove(hook)


@PATHS
def test_after_a_kill_was_lifted_the_same_crew_works(gateway: GatewayServer, native: bool) -> None:
    """Nothing of it stays behind in the process."""
    gateway.script = killer
    group = crew(worker(native))
    with pytest.raises(crewai.Killed):
        group.kickoff()
    gateway.script = once
    assert group.kickoff().raw == "done" and ran == ["step 1", "step 2"]


@PATHS
def test_a_killed_hit_of_the_cache_ends_the_crew(gateway: GatewayServer, native: bool) -> None:
    """A killed agent is not handed what it read before."""

    async def not_twice(call: ServedCall) -> None:
        await (refusing(Code.KILLED, "killed") if call.open.caller_ref == "cache" else once)(call)

    gateway.script = not_twice
    same = asks(("step", {"number": 1}))
    model = llm(same, asks(("step", {"number": 2})), same, "done", native=native)
    with pytest.raises(crewai.Killed):
        crew(agent(model, step), cache=True).kickoff()
    assert ran == ["step 1", "step 2"]


def test_a_cached_result_is_withheld_when_the_gateway_cannot_be_asked(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CrewAI ignores a hook that raises; the guard that errs refuses."""
    from outrider_adapters import crewai_calls

    def broken(*_: Any) -> Any:
        raise OSError("a fault of the adapter's own")

    monkeypatch.setattr(crewai_calls, "_cached_work", broken)
    same = asks(("step", {"number": 1}))
    model = llm(same, asks(("step", {"number": 2})), same, "done")
    crew(agent(model, step), cache=True).kickoff()
    assert "The cached result was withheld" in model.last_heard and model.last_heard.count("stepped 1") == 1


# ── who calls ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_kickoff_is_one_run_and_the_next_is_another(gateway: GatewayServer) -> None:
    """CrewAI's own id of the outermost execution, which its traces show, over all agents and tasks of it."""
    from crewai.execution import clear_execution_uuid, set_execution_uuid

    def group() -> Any:
        return crew(*(agent(llm(asks(("step", {"number": 1})), "done"), step, role=role) for role in ("a", "b")))

    group().kickoff()
    asyncio.run(group().akickoff())
    runs = [call.open.run for call in gateway.calls]
    assert runs[0] == runs[1] != runs[2] == runs[3] and all(runs)
    token = set_execution_uuid("a-run-of-the-hosts")
    try:
        group().kickoff()
    finally:
        clear_execution_uuid(token)
    assert {call.open.run for call in gateway.calls[4:]} == {"a-run-of-the-hosts"}


def test_a_crew_in_a_flow_is_of_the_flows_run_and_session(gateway: GatewayServer) -> None:
    """The flow's id is what persists; and the flow's own calls belong to the same."""

    class Work(Flow[Any]):
        @start()
        def begin(self) -> str:
            step.run(number=0)
            return str(crew(agent(llm(asks(("step", {"number": 1})), "done"), step)).kickoff())

    flow = Work()
    flow.kickoff()
    own, crews = gateway.calls
    assert own.open.run == crews.open.run and own.open.session == crews.open.session == flow.flow_id


def test_an_agent_of_two_crews_is_each_time_in_the_right_one(gateway: GatewayServer) -> None:
    """Its executor outlives the first, and goes on naming it."""
    member = agent(llm(*[asks(("step", {"number": 1})), "done"] * 3), step)
    for name in ("early shift", "late shift", "early shift"):
        crew(member, name=name).kickoff()
    assert [call.open.session for call in gateway.calls] == ["early shift", "late shift", "early shift"]


def test_a_session_is_the_crews_name_else_its_id(gateway: GatewayServer) -> None:
    """A name outlives the process; the id outlives the run."""

    def group(**more: Any) -> Any:
        return crew(agent(llm(asks(("step", {"number": 1})), "done"), step), **more)

    group(name="night shift").kickoff()
    unnamed = group()
    unnamed.kickoff()
    assert [call.open.session for call in gateway.calls] == ["night shift", str(unnamed.id)]


@pytest.mark.parametrize("named", [True, False])
def test_agents_call_by_their_roles_where_asked_or_where_there_is_no_name(
    monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Two agents in one process are two; also inside a delegation, and with a role from YAML."""
    with served(monkeypatch) as gateway:
        crewai.install(agent="process" if named else None, subagents=named)
        try:
            boss = agent(
                llm(asks(("step", {"number": 1})),
                    asks(("delegate_work_to_coworker", {"task": "t", "context": "c", "coworker": "clerk"})), "done"),
                step, role="boss", allow_delegation=True,
            )  # fmt: skip
            clerk = agent(llm(asks(("step", {"number": 2})), "done"), step, role="clerk\n")
            group = crew(boss, clerk)
            group.tasks = group.tasks[:1]
            group.kickoff()
        finally:
            crewai.uninstall()
    assert [(call.open.tool, call.open.agent) for call in gateway.calls] == [
        ("local.step", "boss"),
        ("local.delegate_work_to_coworker", "boss"),
        ("local.step", "clerk"),
    ]


def test_concurrent_crews_do_not_mix(gateway: GatewayServer) -> None:
    """Each has its run, and a kill of one leaves the others."""

    async def by_run(call: ServedCall) -> None:
        await (refusing(Code.KILLED, "killed") if call.open.args.get("number") == 3 else once)(call)

    gateway.script = by_run
    together = threading.Barrier(4)

    def one(number: int) -> Any:
        group = crew(agent(llm(asks(("step", {"number": number})), f"done {number}"), step), name=f"crew {number}")
        together.wait(20)
        try:
            return group.kickoff().raw
        except crewai.Killed as killed:
            return killed

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(4)))
    assert answers[:3] == ["done 0", "done 1", "done 2"] and isinstance(answers[3], crewai.Killed)
    seen = {(call.open.session, call.open.run) for call in gateway.calls}
    assert len({session for session, _ in seen}) == len({run for _, run in seen}) == 4


def test_a_failure_names_its_code_once_to_the_model() -> None:
    """CrewAI would append the code to a message that says it already."""
    from outrider_adapters.crewai_calls import failure

    made = failure({"code": "denied", "detail": "no", "retryable": False})
    assert isinstance(made, ToolFailure) and made.as_agent_message() == "no [denied: trying again will not help]"

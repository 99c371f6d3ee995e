"""Governed functions over a real channel: what is asked, what comes back, where the function runs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace

from outrider import wire
from outrider.errors import Code, Failed, Misconfigured, Refused
from outrider_adapters import channel
from outrider_adapters import governed as adapters
from outrider_adapters.governed import govern, governed
from tests.support.adapters import eventually, served
from tests.support.gateway_server import (
    GatewayServer,
    ServedCall,
    awaiting,
    giving,
    refusing,
    retrying,
    with_timeout,
)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        yield server


@governed
def add(a: int, b: int = 1, **more: Any) -> int:
    return a + b + sum(more.values())


@governed(name="math.add")
async def add_async(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def test_a_function_runs_where_it_is_and_its_object_comes_back(gateway: GatewayServer) -> None:
    """The value is the function's own object, not a copy that went over the wire."""
    made: list[object] = []

    @governed
    def make() -> object:
        made.append(object())
        return made[-1]

    for script in (awaiting, with_timeout(5000), with_timeout(5000, on_ok="report")):
        gateway.script = script
        assert make() is made[-1]


def test_the_gateway_sees_the_tool_its_arguments_by_name_and_a_run(gateway: GatewayServer) -> None:
    """``open`` carries the tool's name, all arguments with defaults, and a minted run."""
    assert add(2, c=4) == 7
    frame = gateway.calls[0].open
    assert (frame.tool, frame.args, frame.framework_tool) == ("local.add", {"a": 2, "b": 1, "c": 4}, "add")
    assert len(frame.run) == 32 and frame.parent == ""


async def test_an_async_function_runs_on_its_callers_loop(gateway: GatewayServer) -> None:
    """The attempt is a task on the loop of the caller, in a copy of its context."""
    seen: list[object] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    @governed
    async def where() -> str:
        seen.append(asyncio.get_running_loop())
        return variable.get()

    variable.set("of the caller")
    assert await where() == "of the caller"
    assert seen == [asyncio.get_running_loop()]
    assert await add_async(1, 2) == 3
    assert gateway.calls[-1].open.tool == "math.add"


def test_parents_and_thread_affine_functions_run_on_the_callers_thread(gateway: GatewayServer) -> None:
    """``composite: true`` and ``placement: caller``: the thread that waits anyway."""

    @governed
    def where() -> int:
        return threading.get_ident()

    gateway.script = with_timeout(0, composite=True)
    assert where() == threading.get_ident()
    gateway.script = with_timeout(5000, placement="caller")
    assert where() == threading.get_ident()


def test_a_function_runs_on_a_daemon_thread_in_the_callers_context(gateway: GatewayServer) -> None:
    """The thread can be abandoned, does not keep the process alive, and sees the caller's context variables."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    gateway.script = with_timeout(5000)

    @governed
    def where() -> tuple[bool, bool, str]:
        thread = threading.current_thread()
        return thread is threading.main_thread(), thread.daemon, variable.get()

    variable.set("of the caller")
    assert where() == (False, True, "of the caller")


def test_a_worker_thread_is_used_again(gateway: GatewayServer) -> None:
    """One thread for each concurrent call, not one for each call."""
    gateway.script = with_timeout(5000)

    @governed
    def where() -> int:
        time.sleep(0.001)
        return threading.get_ident()

    seen = set()
    for _ in range(20):
        seen.add(where())
        time.sleep(0.002)
    assert len(seen) <= 2


def test_a_refusal_is_raised_and_the_function_never_runs(gateway: GatewayServer) -> None:
    """Refused carries the gateway's problem, word for word."""
    ran: list[int] = []
    gateway.script = refusing(Code.DENIED, "no mail on sundays")

    @governed
    def send() -> None:
        ran.append(1)

    with pytest.raises(Refused, match="no mail on sundays") as caught:
        send()
    assert (caught.value.code, caught.value.outcome, ran) == ("denied", "not_executed", [])


def test_a_failure_is_raised_with_the_functions_own_exception_as_its_cause(gateway: GatewayServer) -> None:
    """Failed says what the gateway concluded; the cause is what really happened."""
    gateway.script = retrying(3)
    attempts: list[int] = []

    @governed
    def flaky() -> None:
        attempts.append(1)
        raise LookupError(f"attempt {len(attempts)}")

    with pytest.raises(Failed, match="failed after 3 attempts") as caught:
        flaky()
    assert isinstance(caught.value.__cause__, LookupError)
    assert str(caught.value.__cause__) == "attempt 3"
    assert len(attempts) == 3


def test_the_gateway_learns_the_exceptions_qualified_names(gateway: GatewayServer) -> None:
    """It judges by the MRO, most specific first."""

    @governed
    def fail() -> None:
        raise ConnectionRefusedError(111, "refused")

    with pytest.raises(Failed):
        fail()
    raised = gateway.calls[0].finished[0].raised
    assert raised is not None and raised.type == "builtins.ConnectionRefusedError"
    assert raised.mro[:3] == (
        "builtins.ConnectionRefusedError",
        "builtins.ConnectionError",
        "builtins.OSError",
    )


def test_a_retry_that_works_hands_back_that_attempts_value(gateway: GatewayServer) -> None:
    """``use: n`` names the attempt."""
    gateway.script = retrying(3)
    attempts: list[int] = []

    @governed
    def flaky() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("not yet")
        return len(attempts)

    assert flaky() == 3


def test_a_value_of_the_gateways_own_is_handed_back(gateway: GatewayServer) -> None:
    """A fallback, or the answer of an upstream elsewhere; the function never runs."""
    gateway.script = giving({"balance": 7})

    @governed(name="ledger.get_balance")
    def get_balance(account: str) -> dict[str, int]:
        raise AssertionError("this lives elsewhere")

    assert get_balance("a") == {"balance": 7}


def test_arguments_that_the_gateway_changed_are_used_and_all_others_stay_the_callers_own(
    gateway: GatewayServer,
) -> None:
    """An idempotency key is put in; an object that has no JSON form is not replaced by its label."""

    class Connection:
        pass

    connection = Connection()
    seen: list[Any] = []

    async def script(call: ServedCall) -> None:
        call.close(await call.execute(args={**call.open.args, "key": "k-1"}))

    gateway.script = script

    @governed
    def pay(connection: Connection, amount: int, key: str = "") -> None:
        seen.extend([connection, amount, key])

    pay(connection, 5)
    assert seen == [connection, 5, "k-1"]
    assert "Connection" in gateway.calls[0].open.args["connection"]


def test_with_report_a_good_result_is_handed_out_before_the_gateway_answers(gateway: GatewayServer) -> None:
    """``on_ok: report``: a read costs one round trip."""
    answered = threading.Event()

    async def script(call: ServedCall) -> None:
        finished = await call.execute(on_ok="report")
        while not answered.is_set():
            await asyncio.sleep(0.005)
        call.close(finished)

    gateway.script = script
    assert add(1) == 2
    answered.set()


def test_with_report_an_agent_does_not_run_far_ahead_of_its_gateway(gateway: GatewayServer) -> None:
    """A gateway that is slow to close its calls slows the agent, instead of drowning in them."""
    under_way = most = 0

    async def script(call: ServedCall) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        finished = await call.execute(on_ok="report")
        await asyncio.sleep(0.02)
        under_way -= 1
        call.close(finished)

    gateway.script = script
    for number in range(100):
        add(number)
    assert 2 < most <= channel.MAX_AHEAD + 2


def test_with_report_a_failure_waits_for_the_gateways_decision(gateway: GatewayServer) -> None:
    """Only a good result is handed out early."""
    gateway.script = retrying(2, on_ok="report")
    attempts: list[int] = []

    @governed
    def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("once")
        return "second"

    assert flaky() == "second"


def test_a_call_made_inside_a_call_is_its_child_and_of_the_same_run(gateway: GatewayServer) -> None:
    """Passing it through would be a bypass."""
    gateway.script = with_timeout(5000)

    @governed
    def inner() -> str:
        return "in"

    @governed
    def outer() -> str:
        return inner() + inner()

    assert outer() == "inin"
    parent, first, second = gateway.calls
    assert [first.open.parent, second.open.parent] == [parent.id, parent.id]
    assert {parent.open.run} == {first.open.run, second.open.run}


async def test_children_of_async_parents_and_of_synchronous_ones_inside_find_their_parent(
    gateway: GatewayServer,
) -> None:
    """The parent's id travels in the context, over tasks and threads that copy it."""

    @governed
    def leaf() -> int:
        return 1

    @governed
    async def outer() -> int:
        here = await asyncio.gather(add_async(1, 1), add_async(2, 2))
        return sum(here) + await asyncio.to_thread(leaf)

    assert await outer() == 7
    parent, *children = gateway.calls
    assert {child.open.parent for child in children} == {parent.id}
    assert len(children) == 3


def test_ten_composite_parents_at_once_do_not_starve_each_other(gateway: GatewayServer) -> None:
    """Every call has its own thread: parents that wait never take the threads of their children."""
    gateway.script = with_timeout(10_000)
    together = threading.Barrier(10)

    @governed
    def leaf(number: int) -> int:
        return number

    @governed
    def parent(number: int) -> int:
        together.wait(10)
        return sum(leaf(number) for _ in range(3))

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(parent, range(10))) == [3 * number for number in range(10)]
    assert len(gateway.calls) == 40


async def test_hundreds_of_parallel_calls_get_each_their_own_answer(gateway: GatewayServer) -> None:
    """Nothing is mixed up between threads and tasks."""
    gateway.script = with_timeout(10_000)
    answers = await asyncio.gather(
        *(add_async(number, 1) for number in range(150)),
        *(asyncio.to_thread(add, number) for number in range(150)),
    )
    assert answers == [number + 1 for number in range(150)] * 2


def test_a_run_and_a_session_can_be_named(gateway: GatewayServer) -> None:
    """``with run(...)``: the calls inside belong together."""
    with adapters.run("run-1", session="conversation", agent="writer"):
        add(1)
        add(2)
    add(3)
    frames = [call.open for call in gateway.calls]
    assert [frame.run for frame in frames[:2]] == ["run-1", "run-1"]
    assert (frames[0].session, frames[0].agent) == ("conversation", "writer")
    assert frames[2].run not in ("", "run-1")


def test_the_trace_context_goes_with_the_call(gateway: GatewayServer) -> None:
    """The gateway's spans become children of the agent's."""
    context = trace.SpanContext(0x1234, 0x5678, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        add(1)
    add(1)
    assert gateway.calls[0].open.traceparent == f"00-{0x1234:032x}-{0x5678:016x}-01"
    assert gateway.calls[1].open.traceparent == ""


def test_interpreter_exits_pass_through_untouched(gateway: GatewayServer) -> None:
    """KeyboardInterrupt and SystemExit are nobody's failure; the gateway learns of them all the same."""
    for script in (awaiting, with_timeout(5000)):
        gateway.script = script
        for kind in (KeyboardInterrupt, SystemExit):

            @governed
            def leave(kind: type[BaseException] = kind) -> None:
                raise kind("now")

            with pytest.raises(kind, match="now"):
                leave()
    eventually(lambda: len(gateway.ends()) == 4)
    assert {end.state for end in gateway.ends()} == {"raised"}


async def test_a_cancelled_caller_cancels_the_function_and_tells_the_gateway(gateway: GatewayServer) -> None:
    """The function's own cleanup runs before the caller goes on; the end is reported as cancelled."""
    gateway.script = awaiting
    running = asyncio.Event()
    cleaned: list[str] = []

    @governed
    async def slow() -> None:
        try:
            running.set()
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("up")

    task = asyncio.create_task(slow())
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["up"]
    await asyncio.to_thread(eventually, lambda: gateway.ends())
    assert gateway.ends()[0].state == "cancelled"
    await asyncio.to_thread(eventually, gateway.calls[0].cancelled.is_set)


async def test_a_callers_own_timeout_is_its_own(gateway: GatewayServer) -> None:
    """``asyncio.timeout`` around a governed call raises TimeoutError in the caller, as around any call."""
    gateway.script = awaiting

    @governed
    async def slow() -> None:
        await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await slow()
    await asyncio.to_thread(eventually, lambda: gateway.ends())


def test_methods_show_their_arguments_without_the_object_they_are_bound_to(gateway: GatewayServer) -> None:
    """``self`` never leaves the process."""

    class Mailer:
        @governed
        def send(self, to: str) -> str:
            return f"sent to {to}"

    assert Mailer().send("you") == "sent to you"
    assert gateway.calls[0].open.args == {"to": "you"}


def test_arguments_that_do_not_fit_are_the_callers_mistake_and_ask_nobody(gateway: GatewayServer) -> None:
    """TypeError, as from the function itself."""
    with pytest.raises(TypeError, match="missing a required argument"):
        add()  # type: ignore[call-arg]
    assert gateway.calls == []


def test_a_generator_cannot_be_governed_and_says_why() -> None:
    """Its work happens after the call returned."""

    def lines() -> Iterator[str]:
        yield "one"

    with pytest.raises(Misconfigured, match="is a generator"):
        govern(lines)


def test_governing_twice_is_governing_once(gateway: GatewayServer) -> None:
    """One call asks once."""
    twice = govern(add)
    assert twice(1) == 2
    assert len(gateway.calls) == 1


def test_too_large_arguments_are_refused_here(gateway: GatewayServer) -> None:
    """A frame above the limit would end the whole connection, and with it every call of this process."""
    add(1)

    @governed
    def write(text: str) -> None: ...

    with pytest.raises(Refused) as caught:
        write("x" * (wire.FRAME_BYTES + 1))
    assert caught.value.code == "too_large"
    assert add(1) == 2


def test_more_open_calls_than_the_gateway_takes_are_refused_here(gateway: GatewayServer) -> None:
    """Bounded, with a code that says it may be tried again."""
    gateway.limits = wire.Limits(max_open=1)
    free = threading.Event()

    @governed
    def wait() -> None:
        free.wait(10)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        eventually(lambda: gateway.calls)
        with pytest.raises(Refused) as caught:
            add(1)
        free.set()
        waiting.result(10)
    assert (caught.value.code, caught.value.retryable) == ("overloaded", True)

"""The channel when things go wrong: kills, blocked loops, and a sidecar lost before, during and after a call."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from outrider import wire
from outrider.errors import Code, Failed, Refused, problem
from outrider_adapters import exchange, process
from outrider_adapters.governed import governed
from tests.support.adapters import eventually, served
from tests.support.gateway_server import (
    TOKEN,
    GatewayServer,
    ServedCall,
    awaiting,
    once,
    refusing,
    with_timeout,
)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        yield server


@governed
def ping() -> str:
    return "pong"


class Held:
    """A governed function that waits until it is freed, and counts."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.free = threading.Event()
        self.ran = 0

    def __call__(self, result: object = "done") -> object:
        self.ran += 1
        self.started.set()
        assert self.free.wait(20)
        if isinstance(result, BaseException):
            raise result
        return result


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def held_twin(held: Held) -> Callable[..., object]:
    @governed(name="local.held")
    def twin(result: object = "done") -> object:
        return held(result)

    return twin


# ── kills ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_abort_while_the_agents_loop_is_blocked_proves_that_nothing_starts(gateway: GatewayServer) -> None:
    """The channel has its own thread: ``not_started`` is answered at once, and holds when the loop is free again."""
    ran: list[int] = []
    answers: list[wire.Aborted] = []
    blocked = threading.Event()
    done = threading.Event()

    async def script(call: ServedCall) -> None:
        blocked.wait(5)
        await call.execute(waits=False)
        answers.append(await call.abort("killed"))
        call.fail(Code.KILLED, "killed by a person")
        done.set()

    gateway.script = script

    @governed
    async def work() -> None:
        ran.append(1)

    task = asyncio.create_task(work())
    while not gateway.calls:
        await asyncio.sleep(0.01)
    blocked.set()
    assert done.wait(5)  # this blocks the agent's loop on purpose
    assert [answer.state for answer in answers] == ["not_started"]
    with pytest.raises(Refused, match="killed by a person"):
        await task
    assert ran == []


async def test_a_function_that_could_not_begin_in_time_is_not_begun_at_all(gateway: GatewayServer) -> None:
    """``start_by_ms`` passes while the loop is blocked: told at once, by the channel's own clock."""
    ran: list[int] = []

    blocked = threading.Event()

    async def script(call: ServedCall) -> None:
        blocked.wait(5)
        finished = await call.execute(start_by_ms=50)
        call.fail(Code.UPSTREAM_FAILED, finished.state)

    gateway.script = script

    @governed
    async def work() -> None:
        ran.append(1)

    task = asyncio.create_task(work())
    while not gateway.calls:
        await asyncio.sleep(0.001)
    blocked.set()
    eventually(gateway.ends)  # this blocks the agent's loop on purpose
    assert gateway.ends()[0].state == "not_started"
    with pytest.raises(Refused, match="not_started"):
        await task
    assert ran == []


def test_an_abort_that_overtakes_its_execute_still_forbids_the_start(gateway: GatewayServer) -> None:
    """Aborts never queue behind data, so they may come first; ``not_started`` must stay true."""
    seen: list[str] = []

    async def script(call: ServedCall) -> None:
        call.n = 1
        seen.append((await call.abort("killed")).state)
        call.n = 0
        seen.append((await call.execute()).state)
        call.fail(Code.KILLED, "killed")

    gateway.script = script
    ran: list[int] = []

    @governed
    def work() -> None:
        ran.append(1)

    with pytest.raises(Refused):
        work()
    assert (seen, ran) == (["not_started", "not_started"], [])


async def test_a_kill_cancels_an_async_function_that_runs(gateway: GatewayServer) -> None:
    """It gets CancelledError, may clean up, and its caller reads the kill."""
    cleaned: list[int] = []
    running = threading.Event()

    async def script(call: ServedCall) -> None:
        ending = asyncio.ensure_future(call.execute())
        while not running.is_set():
            await asyncio.sleep(0.005)
        assert (await call.abort("killed")).state == "running"
        assert (await ending).state == "cancelled"
        call.fail(Code.KILLED, "killed by a person", outcome="unknown")

    gateway.script = script

    @governed
    async def work() -> None:
        try:
            running.set()
            await asyncio.sleep(30)
        finally:
            cleaned.append(1)

    with pytest.raises(Refused, match="killed by a person"):
        await work()
    assert cleaned == [1]


def test_a_kill_frees_the_caller_of_a_thread_that_cannot_be_stopped(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """The caller reads the kill while the function still runs; its end is reported late, and ``ended`` behind it."""
    held = Held()

    async def script(call: ServedCall) -> None:
        ending = asyncio.ensure_future(call.execute(timeout_ms=20_000))
        while not held.started.is_set():
            await asyncio.sleep(0.005)
        assert (await call.abort("killed")).state == "running"
        call.fail(Code.KILLED, "killed by a person", outcome="unknown")
        await ending

    gateway.script = script
    calling = pool.submit(held_twin(held))
    with pytest.raises(Refused, match="killed by a person"):
        calling.result(10)
    assert gateway.ends() == []
    held.free.set()
    eventually(lambda: any(isinstance(frame, wire.Ended) for frame in gateway.said))
    assert [end.state for end in gateway.ends()] == ["returned"]
    told = [type(frame) for frame in gateway.said if isinstance(frame, (wire.Finished, wire.Ended))]
    assert told == [wire.Finished, wire.Ended]


def test_what_was_stopped_begins_nothing_more(gateway: GatewayServer, pool: ThreadPoolExecutor) -> None:
    """The thread of a killed call runs on; calls that it makes are refused here."""
    held, after = Held(), threading.Event()
    told: list[Refused] = []

    async def script(call: ServedCall) -> None:
        ending = asyncio.ensure_future(call.execute(timeout_ms=20_000))
        while not held.started.is_set():
            await asyncio.sleep(0.005)
        await call.abort("killed")
        call.fail(Code.KILLED, "killed by a person", outcome="unknown")
        await ending

    gateway.scripts["local.outer"] = script

    @governed
    def outer() -> None:
        held()
        try:
            ping()
        except Refused as refusal:
            told.append(refusal)
        after.set()

    calling = pool.submit(outer)
    with pytest.raises(Refused, match="killed by a person"):
        calling.result(10)
    held.free.set()
    assert after.wait(10)
    assert [refusal.code for refusal in told] == ["killed"]
    assert len(gateway.calls) == 1


def test_a_kill_in_backoff_ends_the_call(gateway: GatewayServer) -> None:
    """Nothing runs between two attempts; the caller only waits."""

    async def script(call: ServedCall) -> None:
        await call.execute()
        await asyncio.sleep(0.02)
        call.fail(Code.KILLED, "killed in backoff")

    gateway.script = script
    attempts: list[int] = []

    @governed
    def work() -> None:
        attempts.append(1)
        raise OSError("once")

    with pytest.raises(Refused, match="killed in backoff"):
        work()
    assert attempts == [1]


def test_an_abort_of_what_has_ended_says_so(gateway: GatewayServer) -> None:
    """``done``: its end is on the way, or was told already."""
    states: list[str] = []

    async def script(call: ServedCall) -> None:
        finished = await call.execute()
        states.append((await call.abort("killed")).state)
        call.close(finished)

    gateway.script = script
    assert ping() == "pong"
    assert states == ["done"]


# ── the backstop ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_adapters_own_timer_is_a_backstop_behind_the_gateways(
    gateway: GatewayServer, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that forgot to abort is told ``timed_out``; the real end comes late, in the same words as ever."""
    monkeypatch.setattr(exchange, "GRACE_S", 0.05)
    held = Held()
    gateway.script = with_timeout(50)
    calling = pool.submit(held_twin(held))
    with pytest.raises(Failed, match="timed_out"):
        calling.result(10)
    held.free.set()
    eventually(lambda: len(gateway.ends()) == 2)
    assert [end.state for end in gateway.ends()] == ["timed_out", "returned"]


def test_a_parent_with_a_child_has_no_timeout_of_its_own(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its children have limits; the backstop leaves it alone."""
    monkeypatch.setattr(exchange, "GRACE_S", 0.01)
    gateway.script = with_timeout(50)

    @governed
    def parent() -> str:
        ping()
        time.sleep(0.15)
        return "whole"

    assert parent() == "whole"


# ── the sidecar is lost ──────────────────────────────────────────────────────────────────────────────────────────


def test_with_no_sidecar_a_call_is_refused_soon_and_says_what_to_do(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fail-open: the function does not run. The sentence names the address and the way out."""
    monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "0.2")
    gateway.stop()
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        ping()
    assert time.monotonic() - began < 2
    assert (caught.value.code, caught.value.outcome) == ("sidecar_unreachable", "not_executed")
    assert gateway.url in str(caught.value) and "outrider serve" in str(caught.value)
    began = time.monotonic()
    with pytest.raises(Refused):
        ping()
    assert time.monotonic() - began < 1, "while it is known to be gone, nobody waits the whole grace again"
    gateway.start()


async def test_with_no_sidecar_an_async_call_is_refused_and_its_loop_stays_free(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting is awaiting."""
    monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "0.2")
    await asyncio.to_thread(gateway.stop)
    turns = 0

    @governed
    async def work() -> None: ...

    task = asyncio.create_task(work())
    while not task.done():
        turns += 1
        await asyncio.sleep(0.01)
    with pytest.raises(Refused, match="outrider serve"):
        await task
    assert turns > 5
    await asyncio.to_thread(gateway.start)


def test_a_call_waits_a_moment_for_a_sidecar_that_is_just_starting(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """A rolling restart is no reason to refuse."""
    assert ping() == "pong"
    gateway.stop()
    eventually(lambda: not process.current().up)
    calling = pool.submit(ping)
    time.sleep(0.2)
    gateway.start()
    assert calling.result(10) == "pong"
    assert len({hello.session_key for hello in gateway.hellos}) == 1, "the same process, again"


def test_lost_while_a_function_runs_the_agent_gets_the_real_result_and_the_spool_reports_it(
    gateway: GatewayServer, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL of the sidecar in the middle of a call; a new one learns what runs, then how it ended."""
    held = Held()
    gateway.script = with_timeout(20_000)
    calling = pool.submit(held_twin(held), "the real result")
    assert held.started.wait(5)
    call = gateway.calls[0]
    gateway.stop()
    with caplog.at_level(logging.WARNING, "outrider"):
        held.free.set()
        assert calling.result(10) == "the real result"
    assert sum("not recorded" in record.getMessage() for record in caplog.records) == 1
    gateway.start()
    eventually(gateway.ends)
    end = gateway.ends()[0]
    assert (end.call, end.n, end.state, end.view) == (call.id, 1, "returned", "the real result")
    assert held.ran == 1


def test_a_sidecar_restarted_while_a_function_runs_is_told_that_it_runs(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """``hello.running`` names it, so that the new incarnation does not write it off; ``finished`` follows."""
    held = Held()
    gateway.script = with_timeout(20_000)
    calling = pool.submit(held_twin(held))
    assert held.started.wait(5)
    call = gateway.calls[0]
    gateway.stop()
    gateway.start()
    eventually(lambda: len(gateway.hellos) == 2)
    assert gateway.hellos[1].running == (wire.Running(call.id, 1),)
    assert gateway.hellos[1].unacked == ()
    held.free.set()
    assert calling.result(10) == "done"
    eventually(gateway.ends)
    assert (gateway.ends()[0].call, held.ran) == (call.id, 1)


def test_a_failure_while_the_sidecar_is_gone_is_raised_and_not_tried_again(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """Nobody is there to decide on a retry, so there is none."""
    held = Held()
    gateway.script = with_timeout(20_000)
    calling = pool.submit(held_twin(held), ValueError("really failed"))
    assert held.started.wait(5)
    gateway.stop()
    held.free.set()
    with pytest.raises(Failed, match="really failed") as caught:
        calling.result(10)
    assert isinstance(caught.value.__cause__, ValueError)
    assert held.ran == 1
    gateway.start()


def test_lost_after_the_end_was_told_the_result_is_handed_out_and_told_again(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """``finished`` was sent but never acked: it is in the next greeting."""
    told = threading.Event()

    async def silent(call: ServedCall) -> None:
        await call.execute()
        told.set()
        await asyncio.sleep(30)

    gateway.script, gateway.acks = silent, False
    calling = pool.submit(ping)
    assert told.wait(5)
    call = gateway.calls[0]
    gateway.acks = True
    gateway.stop()
    assert calling.result(10) == "pong"
    gateway.start()
    eventually(lambda: len(gateway.hellos) == 2)
    assert [(end.call, end.n) for end in gateway.hellos[1].unacked] == [(call.id, 1)]
    eventually(lambda: process.current().idle)


def test_lost_in_backoff_the_last_failure_is_the_end(gateway: GatewayServer, pool: ThreadPoolExecutor) -> None:
    """The adapter does not decide on retries; it says what happened."""
    failed = threading.Event()

    async def backing_off(call: ServedCall) -> None:
        await call.execute()
        failed.set()
        await asyncio.sleep(30)

    gateway.script = backing_off

    @governed
    def work() -> None:
        raise OSError("the only attempt")

    calling = pool.submit(work)
    assert failed.wait(5)
    gateway.stop()
    gateway.start()
    with pytest.raises(Failed, match="the only attempt"):
        calling.result(10)


def test_lost_before_a_function_of_this_process_began_the_call_did_not_happen(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """It was asked for, and nothing was begun: ``not_executed``, and it may be tried again."""
    deciding = threading.Event()

    async def thinking(call: ServedCall) -> None:
        deciding.set()
        await asyncio.sleep(30)

    gateway.script = thinking
    ran: list[int] = []

    @governed
    def work() -> None:
        ran.append(1)

    calling = pool.submit(work)
    assert deciding.wait(5)
    gateway.stop()
    gateway.start()
    with pytest.raises(Refused, match="did not run") as caught:
        calling.result(10)
    assert (caught.value.outcome, caught.value.retryable, ran) == ("not_executed", True, [])


def test_lost_while_a_tool_elsewhere_was_called_the_outcome_is_unknown(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """The gateway may have sent it to its upstream: it must not be sent again."""
    sending = threading.Event()

    async def thinking(call: ServedCall) -> None:
        sending.set()
        await asyncio.sleep(30)

    gateway.script = thinking

    @governed(name="ledger.create_payment")
    def create_payment() -> None: ...

    calling = pool.submit(create_payment)
    assert sending.wait(5)
    gateway.stop()
    gateway.start()
    with pytest.raises(Failed, match="may have run") as caught:
        calling.result(10)
    assert (caught.value.outcome, caught.value.retryable) == ("unknown", False)


async def test_lost_while_a_start_is_pending_it_never_begins(gateway: GatewayServer) -> None:
    """The loop was blocked when the sidecar went: what was ordered by nobody who lives is not begun."""
    ran: list[int] = []

    blocked = threading.Event()

    async def script(call: ServedCall) -> None:
        blocked.wait(5)
        await call.execute(waits=False)
        await asyncio.sleep(30)

    gateway.script = script

    @governed
    async def work() -> None:
        ran.append(1)

    task = asyncio.create_task(work())
    while not gateway.calls:
        await asyncio.sleep(0.001)
    blocked.set()
    eventually(lambda: process.current()._attempts)  # this blocks the agent's loop on purpose
    gateway.stop()
    gateway.start()
    eventually(lambda: gateway.ends())
    assert gateway.ends()[0].state == "not_started"
    with pytest.raises(Refused, match="did not run"):
        await task
    assert ran == []


async def test_an_abort_reaches_what_runs_without_a_gateway(gateway: GatewayServer) -> None:
    """A restarted sidecar may still kill what its predecessor began."""
    running = threading.Event()
    gateway.script = awaiting

    @governed
    async def work() -> None:
        running.set()
        await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await asyncio.to_thread(running.wait, 5)
    call = gateway.calls[0]
    await asyncio.to_thread(gateway.stop)
    await asyncio.to_thread(gateway.start)
    await asyncio.to_thread(eventually, lambda: len(gateway.hellos) == 2 and gateway.sessions)
    await asyncio.to_thread(eventually, lambda: process.current().up and not process.current()._stranded)
    gateway.push(wire.Abort(call.id, 1, "killed"))
    with pytest.raises(Refused, match="stopped") as caught:
        await task
    assert caught.value.code == "killed"


def test_a_connection_that_breaks_for_a_moment_ends_no_call(gateway: GatewayServer, pool: ThreadPoolExecutor) -> None:
    """The same gateway is back within the moment: it still holds the calls, and goes on with their retries."""
    broken = threading.Event()
    back = threading.Event()

    async def across(call: ServedCall) -> None:
        first = await call.execute()
        broken.set()
        while not back.is_set():
            await asyncio.sleep(0.005)
        assert first.state == "raised"
        call.close(await call.execute())

    gateway.script = across
    attempts: list[int] = []

    @governed
    def work() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("once")
        return "second"

    calling = pool.submit(work)
    assert broken.wait(5)
    gateway.drop()
    eventually(lambda: len(gateway.hellos) == 2)
    assert gateway.hellos[1].opens == (gateway.calls[0].open.ref,)
    back.set()
    assert calling.result(10) == "second"


def test_an_answer_that_was_given_while_the_connection_was_down_is_delivered(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """A tool elsewhere was called once; its result is not lost with the connection."""
    asked, away = threading.Event(), threading.Event()

    async def slow(call: ServedCall) -> None:
        asked.set()
        away.wait(5)
        call.give("from elsewhere")

    gateway.script = slow

    @governed(name="ledger.create_payment")
    def create_payment() -> None: ...

    calling = pool.submit(create_payment)
    assert asked.wait(5)

    away.set()
    gateway.drop()
    assert calling.result(10) == "from elsewhere"
    assert len(gateway.calls) == 1


def test_a_call_that_never_reached_the_gateway_is_not_waited_for(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """It was written and lost on the way: the gateway that is back does not name it, and it did not run."""
    deciding = threading.Event()

    async def thinking(call: ServedCall) -> None:
        deciding.set()
        await asyncio.sleep(30)

    gateway.script = thinking
    calling = pool.submit(ping)
    assert deciding.wait(5)
    for session in gateway.sessions.values():
        session._calls.clear()
    gateway.drop()
    with pytest.raises(Refused, match="did not run"):
        calling.result(10)
    assert len(gateway.hellos) == 2


async def test_a_caller_that_leaves_while_the_connection_is_down_is_told_of_afterwards(gateway: GatewayServer) -> None:
    """The gateway goes on for nobody else."""
    gateway.script = awaiting
    running = asyncio.Event()

    @governed
    async def work() -> None:
        running.set()
        await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await running.wait()
    gateway.drop()
    while process.current().up:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(eventually, gateway.calls[0].cancelled.is_set)


def test_long_and_odd_names_reach_the_gateway_in_a_form_that_it_takes(gateway: GatewayServer) -> None:
    """A thread id may be anything; two long ones stay two."""
    from outrider_adapters.governed import run

    for session in ("thread\n1", "x" * 500 + "1", "x" * 500 + "2"):
        with run("r", session=session):
            ping()
    names = [call.open.session for call in gateway.calls]
    assert all(name.isprintable() and len(name) <= 200 for name in names) and len(set(names)) == 3


def test_an_order_of_a_call_that_is_over_begins_nothing(gateway: GatewayServer) -> None:
    """A gateway that comes back may still hold the call; its answer is ``not_started``."""
    ran: list[int] = []

    @governed
    def work() -> None:
        ran.append(1)

    work()
    gateway.push(wire.Execute(gateway.calls[0].open.ref, gateway.calls[0].id, 2))
    gateway.push(wire.Execute("nobody", "call-x", 1))
    eventually(lambda: len(gateway.ends()) == 3)
    assert [end.state for end in gateway.ends()[1:]] == ["not_started", "not_started"]
    assert ran == [1]


# ── greetings and other frames ───────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_token_is_told_at_once_and_says_which_setting_is_wrong(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting would not help; the refusal names OUTRIDER_TOKEN and not the token."""
    monkeypatch.setenv("OUTRIDER_TOKEN", "a-wrong-secret")
    with pytest.raises(Refused, match="OUTRIDER_TOKEN") as caught:
        ping()
    assert "a-wrong-secret" not in str(caught.value)


def test_a_token_file_that_was_written_anew_is_read_anew(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sidecar with a new data folder has a new token; the process need not be restarted."""
    file = tmp_path / "agent.token"
    file.write_text("old\n")
    monkeypatch.delenv("OUTRIDER_TOKEN")
    monkeypatch.setenv("OUTRIDER_TOKEN_FILE", str(file))
    with pytest.raises(Refused, match="token"):
        ping()
    file.write_text(f"{TOKEN}\n")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            assert ping() == "pong"
            return
        except Refused:
            time.sleep(0.1)
    pytest.fail("the new token was never read")


def test_a_protocol_that_is_too_old_is_told_with_both_numbers(gateway: GatewayServer) -> None:
    """Neither side guesses."""
    gateway.protocol = wire.OLDEST_PROTOCOL - 1
    with pytest.raises(Refused, match=f"protocol {wire.OLDEST_PROTOCOL - 1}"):
        ping()


def test_a_refusal_of_the_greeting_is_passed_on(gateway: GatewayServer) -> None:
    """Too many channels, say: the sidecar's own words reach the caller."""
    gateway.refusal = problem(Code.OVERLOADED, "this sidecar has 200 channels already")
    with pytest.raises(Refused, match="200 channels"):
        ping()


def test_a_sidecar_that_cannot_take_this_process_now_is_asked_again_soon(
    gateway: GatewayServer, pool: ThreadPoolExecutor
) -> None:
    """Draining, or full: not fatal, so a call that waits gets its turn."""
    gateway.refusal, gateway.refusal_is_fatal = problem(Code.DRAINING, "shutting down"), False
    calling = pool.submit(ping)
    eventually(lambda: gateway.hellos)
    gateway.refusal = None
    assert calling.result(10) == "pong"


def test_frames_and_fields_of_a_newer_gateway_are_ignored(gateway: GatewayServer) -> None:
    """Either side may be newer."""

    class Newer(wire.Frame, tag="newer", frozen=True):
        what: str = "ever"

    class NewerAck(wire.Frame, tag="ack", frozen=True):
        call: str
        n: int
        why: str = "because"

    assert ping() == "pong"
    gateway.push(Newer())
    gateway.push(NewerAck("call-x", 1))
    assert ping() == "pong"
    assert len(gateway.hellos) == 1


def test_the_greeting_says_who_this_is(gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, framework, versions, host and process, and a key that proves a reconnect."""
    monkeypatch.setenv("OUTRIDER_AGENT", "clerk")
    assert ping() == "pong"
    hello = gateway.hellos[0]
    assert (hello.agent, hello.framework, hello.protocol) == ("clerk", "python", wire.PROTOCOL)
    assert hello.versions["python"].startswith("3.") and "outrider" in hello.versions
    assert len(hello.session_key) == 32 and hello.instance and hello.pid > 0


async def test_heartbeats_go_on_while_the_agents_loop_is_blocked(gateway: GatewayServer) -> None:
    """A busy agent is not a lost one."""
    gateway.limits = wire.Limits(heartbeat_ms=50)
    await asyncio.to_thread(ping)

    def beats() -> int:
        return sum(isinstance(frame, wire.Heartbeat) for frame in gateway.said)

    before = beats()
    eventually(lambda: beats() >= before + 3)  # blocks the agent's loop


def test_a_unix_socket_serves_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``unix:/path``."""
    with GatewayServer(once, uds=str(tmp_path / "s")) as server:
        monkeypatch.setenv("OUTRIDER_URL", server.url)
        monkeypatch.setenv("OUTRIDER_TOKEN", TOKEN)
        assert ping() == "pong"
        process.close(1.0)


def test_closing_says_goodbye_after_everything_is_told(gateway: GatewayServer) -> None:
    """``bye`` is the last frame, and the next call makes a new session."""
    assert ping() == "pong"
    process.close()
    eventually(lambda: isinstance(gateway.said[-1], wire.Bye))
    assert any(isinstance(frame, wire.Finished) for frame in gateway.said)
    assert ping() == "pong"
    assert gateway.hellos[0].session_key != gateway.hellos[1].session_key


def test_a_problem_for_one_call_ends_that_call_only(gateway: GatewayServer) -> None:
    """The gateway refuses an ``open`` as such."""

    async def script(call: ServedCall) -> None:
        call.session.send(wire.ProblemFrame(problem(Code.INVALID_REQUEST, "no such thing"), ref=call.open.ref))

    gateway.scripts["local.ping"] = script
    with pytest.raises(Refused, match="no such thing"):
        ping()
    gateway.scripts["local.ping"] = once
    assert ping() == "pong"


def test_many_unacked_ends_are_told_in_one_greeting_and_behind_it(gateway: GatewayServer) -> None:
    """More than fits into a frame: nothing is lost, nothing breaks the connection, and nothing looks missing."""
    gateway.acks = False

    @governed
    def big() -> str:
        return "x" * 60_000

    for _ in range(30):
        big()
    keys = {(call.id, 1) for call in gateway.calls}
    eventually(lambda: {(end.call, end.n) for end in gateway.ends()} == keys)  # none is left to be acked and cut off
    gateway.acks = True
    gateway.said.clear()
    gateway.drop()
    eventually(lambda: {(end.call, end.n) for end in gateway.ends()} == keys)
    hello = gateway.hellos[1]
    assert {(one.call, one.n) for one in hello.unacked} | {(one.call, one.n) for one in hello.running} == keys
    assert len(wire.encode_frame(hello)) < wire.FRAME_BYTES
    eventually(lambda: process.current().idle)


def test_denied_calls_leave_nothing_behind(gateway: GatewayServer) -> None:
    """No table grows with refusals."""
    gateway.script = refusing()
    for _ in range(50):
        with pytest.raises(Refused):
            ping()
    assert process.current().idle

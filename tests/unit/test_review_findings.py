from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider.calls import Agent, Attempt, Call, Effect, Failure, Outcome, OutcomeKind, Reason
from outrider.errors import Code
from outrider.http_common import respond_problem
from outrider.ledger.record import EventType
from outrider.ledger.recovery import OpenAttempt, OpenCall
from outrider.ledger.writer import LedgerUnavailable
from outrider.recovery import History, Recovery
from outrider.stages.send import Send
from outrider.testing.script import garbage, respond
from outrider.testing.upstream import ScriptedUpstream
from outrider.unresolved import Unresolved
from tests.support.rig import BROKEN, OK, Rig
from tests.unit.test_http_upstream import attempt_of, plan_of, send


class SlowLedger:
    def __init__(self) -> None:
        self.events: list[Any] = []
        self.fail = 0

    def append(self, event: Any, **_: Any) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        if self.fail:
            self.fail -= 1
            loop.call_later(0.1, future.set_exception, LedgerUnavailable("disk"))
            return future
        self.events.append(event)
        loop.call_later(0.1, future.set_result, len(self.events))
        return future

    def types(self) -> list[str]:
        return [str(event.type) for event in self.events]


def open_work(like: str = "") -> tuple[list[OpenAttempt], list[OpenCall]]:
    start = {"upstream": "local", "tool": "local.pay", "agent": {"name": "a", "instance": "i"}, "run_id": "r"}
    return [OpenAttempt("c", 1, 2, start)], [OpenCall("c", 1, start)]


@pytest.mark.looptime
async def test_r2_gave_up_then_settled() -> None:
    ledger = SlowLedger()
    recovery = Recovery(ledger, Unresolved(lambda b: b.hex()), lambda: 600.0)  # type: ignore[arg-type]
    await recovery.begin(*open_work(), lambda _: History())
    recovery.gave_up("c", 1)
    await asyncio.sleep(0.05)
    late: list[Any] = []

    async def settled_late(*what: Any) -> None:
        late.append(what)

    recovery.settled_late = settled_late
    await recovery.settled("c", 1, OK)
    await asyncio.sleep(1)
    assert ledger.types().count("attempt.finished") == 1 and ledger.types().count("call.finished") == 1
    assert len(late) == 1


@pytest.mark.looptime
async def test_r2b_end_of_call_failed_once() -> None:
    ledger = SlowLedger()
    recovery = Recovery(ledger, Unresolved(lambda b: b.hex()), lambda: 600.0)  # type: ignore[arg-type]
    await recovery.begin(*open_work(), lambda _: History())

    async def break_it() -> None:
        await asyncio.sleep(0.05)
        ledger.fail = 1

    task = asyncio.create_task(break_it())
    with pytest.raises(LedgerUnavailable):
        await recovery.settled("c", 1, OK)
    await recovery.settled("c", 1, OK)
    await task
    assert ledger.types().count("attempt.finished") == 1 and ledger.types().count("call.finished") == 1


@pytest.mark.looptime
async def test_r28_suspect_is_barred() -> None:
    ledger = SlowLedger()
    unresolved = Unresolved(lambda b: b.hex())
    call = Call("new", "local.pay", {"x": 1}, Agent("a"), run="r")
    recovery = Recovery(ledger, unresolved, lambda: 600.0)  # type: ignore[arg-type]
    await recovery.begin(*open_work(), lambda _: History((), unresolved.key_of(call)))
    assert unresolved.find(call) is not None
    await recovery.settled("c", 1, OK)
    assert unresolved.find(call) is None


@pytest.mark.looptime
async def test_r5_unrecorded_end_bars(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        real = rig.ledger.append

        def failing(event: Any, **more: Any) -> asyncio.Future[int]:
            if event.type == EventType.CALL_FINISHED:
                future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                future.set_exception(LedgerUnavailable("disk"))
                return future
            return real(event, **more)

        rig.ledger.append = failing  # type: ignore[method-assign]
        first = await rig.call("up.write", amount=5)
        assert first.code is Code.LEDGER_UNAVAILABLE and first.kind is OutcomeKind.UNKNOWN
        rig.ledger.append = real  # type: ignore[method-assign]
        again = await rig.call("up.write", amount=5)
        assert again.code is Code.PRIOR_OUTCOME_UNKNOWN and rig.upstream.count() == 1


@pytest.mark.looptime
async def test_r29_caller_gone(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 3.0
        first = rig.start("up.write", amount=5)
        await asyncio.sleep(1)
        rig.supervisor.caller_gone(first)
        again = await rig.call("up.write", amount=5)
        assert again.code is Code.PRIOR_OUTCOME_UNKNOWN and rig.upstream.count() == 1
        assert first.answer is not None and (await first.answer).ok
        again = await rig.call("up.write", amount=5)
        assert again.code is Code.PRIOR_OUTCOME_UNKNOWN and rig.upstream.count() == 1


@pytest.mark.looptime
async def test_r4_send_after_deadline(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        real = rig.ledger.append
        loop = asyncio.get_running_loop()

        def slow(event: Any, **more: Any) -> asyncio.Future[int]:
            future = real(event, **more)
            if event.type == EventType.ATTEMPT_STARTED:
                shift = 100.0
                before = loop.time
                loop.time = lambda: before() + shift  # type: ignore[method-assign]
            return future

        rig.ledger.append = slow  # type: ignore[method-assign]
        outcome = await rig.call("up.write", amount=5)
        assert outcome.code is Code.DEADLINE_EXCEEDED
        assert rig.upstream.count() == 0


@pytest.mark.looptime
async def test_r6_bug_after_unknown(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        answers = iter([BROKEN])

        def answer(attempt: Attempt) -> Outcome:
            found = next(answers, None)
            if found is None:
                raise AssertionError("a bug")
            return found

        rig.upstream.answer = answer
        outcome = await rig.call("up.keyed", amount=5)
        assert outcome.kind is OutcomeKind.UNKNOWN
        rig.upstream.answer = lambda attempt: OK
        assert (await rig.call("up.keyed", amount=5)).code is Code.PRIOR_OUTCOME_UNKNOWN


@pytest.mark.looptime
async def test_r6b_bug_before_sending_is_recorded_alike(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:

        def answer(attempt: Attempt) -> Outcome:
            raise AssertionError("a bug")

        rig.upstream.answer = answer
        outcome = await rig.call("up.write", amount=5)
        (end,) = rig.events("attempt.finished")
        assert outcome.kind.value in end["line"]


async def test_r7_reason_bytes() -> None:
    async with ScriptedUpstream() as upstream:
        upstream.script("*", garbage(b"HTTP/1.1 404 n\xff\xfeo\r\nContent-Length: 0\r\n\r\n"))
        outcome = await send(plan_of(upstream.url))
        assert outcome.kind is OutcomeKind.DEFINITE and outcome.failure
        outcome.failure.text.encode()


@pytest.mark.parametrize("kind", ["text/plain; charset=unicode_escape", "text/plain; charset=idna", "text/plain; charset=undefined", "text/plain; charset=a\\u0000", "x\xff/y; charset=ascii", "text/plain; charset=rot13"])
async def test_r9_charsets(kind: str) -> None:
    import msgspec

    async with ScriptedUpstream() as upstream:
        body = b"\\ud800\xff"
        upstream.script("*", garbage(b"HTTP/1.1 200 ok\r\nContent-Type: " + kind.encode("latin-1") + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
        outcome = await send(plan_of(upstream.url))
        assert outcome.ok, outcome
        msgspec.json.encode(outcome.value)


@pytest.mark.parametrize("traceparent", ["00-\r\nX: 1", "00-\udcff", "00-\x00"])
async def test_r8_traceparent(traceparent: str) -> None:
    from dataclasses import replace

    async with ScriptedUpstream() as upstream:
        plan = plan_of(upstream.url)
        attempt = attempt_of(plan)
        attempt.call = replace(attempt.call, traceparent=traceparent)
        outcome = await send(plan, attempt)
        assert outcome.ok, outcome


async def test_bomb() -> None:
    import zlib

    async with ScriptedUpstream() as upstream:
        c = zlib.compressobj(9, zlib.DEFLATED, 31)
        body = b"".join([*(c.compress(b"\0" * (1 << 20)) for _ in range(400)), c.flush()])
        upstream.script("*", garbage(b"HTTP/1.1 200 ok\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
        import resource
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = await send(plan_of(upstream.url))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert outcome.kind is OutcomeKind.UNKNOWN, outcome.kind
        assert after - before < 100_000, after - before


@pytest.mark.looptime
async def test_r14_queue_patience(tmp_path: Path) -> None:
    policy = {"upstreams": {"up": {"http": {"url": "http://127.0.0.1:1"}, "domain": {"bulkhead": {"maxConcurrent": 1, "maxWait": "1s"}}}}}
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.takes_s = lambda attempt: 7.0
        first = rig.start("up.read")
        await asyncio.sleep(0.1)
        queued = rig.start("up.read")
        await asyncio.sleep(0.1)
        rig.start("up.read.b", parent=queued.call.id)
        began = clock.monotonic()
        assert queued.answer is not None
        outcome = await queued.answer
        assert outcome.code is Code.OVERLOADED and clock.monotonic() - began < 2


def test_problem_surrogates() -> None:
    respond_problem({"status": 502, "detail": "a\udcff"})

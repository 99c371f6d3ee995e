"""A call is stopped once, only where it waits, and the first reason wins."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from outrider.calls import Agent, Call
from outrider.flight import Cause, Flight, Verdict
from outrider.policy.load import Policy

pytestmark = pytest.mark.looptime
KILL = Verdict(Cause.KILL, "stop", "k1")
GONE = Verdict(Cause.CALLER_GONE, "left")
LATE = Verdict(Cause.DEADLINE, "late")


def flight() -> Flight:
    return Flight(Call("c", "u.t", {}, Agent()), cast(Policy, None), received=0.0, started_wall=0.0)


async def test_a_verdict_wakes_whoever_waits() -> None:
    """A sleeping backoff ends in the moment of the kill."""
    it = flight()
    asyncio.get_running_loop().call_later(1.0, it.stop, KILL)
    with it.stoppable() as scope:
        await asyncio.sleep(100)
    assert scope.interrupted and not scope.timed_out
    assert asyncio.get_running_loop().time() == 1.0
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_verdict_does_not_interrupt_what_is_not_a_wait_of_the_call() -> None:
    """Writing the ledger runs to its end; the verdict is seen afterwards."""
    it = flight()
    asyncio.get_running_loop().call_later(1.0, it.stop, KILL)
    await asyncio.sleep(5)
    assert it.verdict is KILL and asyncio.get_running_loop().time() == 5.0


async def test_the_time_limit_of_a_wait_is_no_verdict() -> None:
    """A per-try timeout ends the try, not the call."""
    it = flight()
    with it.stoppable(2.0) as scope:
        await asyncio.sleep(100)
    assert scope.timed_out and it.verdict is None


async def test_the_first_reason_wins() -> None:
    """A deadline after a kill changes nothing."""
    it = flight()
    assert it.stop(KILL) and not it.stop(LATE) and it.verdict is KILL


async def test_a_kill_overrides_a_caller_that_left() -> None:
    """A caller that left does not end a write in flight; a kill must."""
    it = flight()
    loop = asyncio.get_running_loop()
    loop.call_later(1.0, it.stop, GONE)
    loop.call_later(2.0, it.stop, KILL)
    with it.stoppable(caller_may_leave=False) as scope:
        await asyncio.sleep(100)
    assert scope.interrupted and it.verdict is KILL and loop.time() == 2.0


async def test_a_caller_that_leaves_ends_a_read() -> None:
    """A read in flight is cancelled."""
    it = flight()
    asyncio.get_running_loop().call_later(1.0, it.stop, GONE)
    with it.stoppable(caller_may_leave=True) as scope:
        await asyncio.sleep(100)
    assert scope.interrupted and it.verdict is GONE


async def test_a_parent_has_no_time_limit() -> None:
    """A call that made a call of its own waits as long as its deadline lets it."""
    it = flight()
    asyncio.get_running_loop().call_later(1.0, it.adopt_child)
    with it.stoppable(2.0) as scope:
        await asyncio.sleep(10)
    assert not scope.interrupted and it.is_parent


async def test_a_foreign_cancellation_passes_through() -> None:
    """Only the flight's own interruption is swallowed."""
    it = flight()

    async def waits() -> None:
        with it.stoppable():
            await asyncio.sleep(100)

    task = asyncio.create_task(waits())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

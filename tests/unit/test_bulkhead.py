"""The bulkhead, promise by promise, with virtual time where somebody waits."""

from __future__ import annotations

import asyncio
import gc

import pytest

from outrider.domains.bulkhead import Bulkhead, Place, Slot
from outrider.policy import plans


def bulkhead(max_concurrent: int = 1, max_queue: int = 2) -> Bulkhead:
    return Bulkhead(plans.Bulkhead(max_concurrent, max_queue))


def taken(made: Bulkhead) -> Slot:
    slot = made.try_acquire()
    assert slot is not None
    return slot


def queued(made: Bulkhead) -> Place:
    place = made.enqueue()
    assert place is not None
    return place


def test_no_more_slots_than_allowed() -> None:
    """The third of two is refused until one is released."""
    made = bulkhead(2)
    first, _second = taken(made), taken(made)
    assert made.try_acquire() is None
    first.release()
    assert made.try_acquire() is not None


def test_a_slot_is_released_once() -> None:
    """A second release does not free somebody else's slot."""
    made = bulkhead(2)
    first, _second = taken(made), taken(made)
    first.release()
    first.release()
    assert made.held == 1


async def test_the_queue_is_first_come_first_served() -> None:
    """And nobody overtakes it with ``try_acquire``."""
    made = bulkhead()
    slot = taken(made)
    first, second = queued(made), queued(made)
    assert made.enqueue() is None, "the queue of two is full"
    slot.release()
    assert first.done()
    assert not second.done()
    first.result().release()
    assert made.try_acquire() is None
    assert second.done()


async def test_a_queue_of_zero_still_gives_free_slots() -> None:
    """No queue means: a slot at once or none."""
    made = bulkhead(1, 0)
    assert queued(made).done()
    assert made.enqueue() is None


@pytest.mark.looptime
async def test_a_waiter_that_times_out_leaves_the_queue() -> None:
    """Its place is free at once, and the slot goes to the next."""
    made = bulkhead()
    slot = taken(made)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.0):
            await queued(made)
    assert made.waiting == 0
    slot.release()
    assert made.held == 0


async def test_a_waiter_cancelled_in_the_moment_it_is_served_passes_the_slot_on() -> None:
    """The slot was handed over, the task never saw it: the next in the queue gets it."""
    made = bulkhead()
    slot = taken(made)

    async def wait() -> Slot:
        return await queued(made)

    unlucky, next_one = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    slot.release()
    unlucky.cancel()
    served = await next_one
    assert unlucky.cancelled()
    assert made.held == 1
    served.release()
    assert made.held == 0


async def test_a_waiter_cancelled_before_it_waits_loses_no_slot() -> None:
    """A cancellation that was pending when the place was taken."""
    made = bulkhead()
    slot = taken(made)

    async def wait() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await queued(made)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())
    assert (made.held, made.waiting) == (1, 0)
    slot.release()
    assert made.held == 0


async def test_wait_for_loses_no_slot() -> None:
    """The library's own timeout may wrap a place."""
    made = bulkhead()
    slot = taken(made)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queued(made), 0.001)
    slot.release()
    assert (await asyncio.wait_for(queued(made), 1)).held
    assert (made.held, made.waiting) == (1, 0)


async def test_a_place_can_be_given_up_at_any_time() -> None:
    """Before it is served, after, and twice."""
    made = bulkhead()
    served, waiting = queued(made), queued(made)
    waiting.give_up()
    served.give_up()
    served.give_up()
    waiting.give_up()
    assert (made.held, made.waiting) == (0, 0)


async def test_a_reload_with_more_slots_serves_the_queue() -> None:
    """And one with fewer takes none away but gives none before it is below."""
    made = bulkhead()
    slot = taken(made)
    first, second = queued(made), queued(made)
    made.configure(plans.Bulkhead(3, 2))
    assert (first.done(), second.done(), made.held) == (True, True, 3)
    made.configure(plans.Bulkhead(1, 2))
    slot.release()
    assert made.try_acquire() is None
    first.result().release()
    second.result().release()
    assert made.try_acquire() is not None


async def test_an_abandoned_place_warns_nobody() -> None:
    """A place that nobody awaits is no lost exception."""
    made = bulkhead()
    taken(made)
    queued(made).cancel()
    gc.collect()
    assert made.snapshot() == {"held": 1, "waiting": 0, "max_concurrent": 1, "max_queue": 2}

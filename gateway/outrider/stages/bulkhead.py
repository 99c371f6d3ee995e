"""Bulkhead: so many attempts at once for one fault domain, so many more in a queue, for so long."""

from __future__ import annotations

import asyncio

from outrider import clock
from outrider.calls import Attempt, Outcome, OutcomeKind
from outrider.domains.bulkhead import Slot
from outrider.errors import Code
from outrider.flight import Flight
from outrider.observing import enforced
from outrider.stages import Next

STAGE = "bulkhead"


class Bulkhead:
    """Takes a slot for the attempt and gives it back before any backoff. A parent of other calls holds none:
    its children would wait for slots that it keeps. A function that still runs after its timeout keeps its slot."""

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        assert flight.domain is not None
        if flight.is_parent:
            return await following(flight)
        slot = flight.domain.bulkhead.try_acquire() or await self._queue(flight)
        if isinstance(slot, Outcome):
            refusal = enforced(flight, slot)
            return refusal if refusal is not None else await following(flight)
        flight.slot = slot
        before = flight.attempt
        try:
            return await following(flight)
        finally:
            flight.slot = None
            _give_back(slot, flight.attempt if flight.attempt is not before else None)

    async def _queue(self, flight: Flight) -> Slot | Outcome:
        assert flight.domain is not None
        settings = flight.domain.bulkhead.settings
        waiting = flight.domain.bulkhead.enqueue()
        if waiting is None:
            return _overloaded(flight, f"its queue of {settings.max_queue} is full", settings.max_wait_s)
        remaining_s = flight.remaining_s(clock.monotonic())
        patience_s = settings.max_wait_s if remaining_s is None else min(settings.max_wait_s, remaining_s)
        with flight.stoppable(patience_s, limit_stands=True):
            return await waiting
        if flight.verdict is not None:
            return flight.verdict.refusal(STAGE)
        return _overloaded(flight, f"no slot became free within {patience_s:g} s", settings.max_wait_s)


def _give_back(slot: Slot, attempt: Attempt | None) -> None:
    """``attempt`` is the one that this slot was for, None when it was refused before it became one."""
    running = attempt.still_running if attempt is not None else None
    if running is None or running.done():
        slot.release()
        return

    def ended(_: asyncio.Future[None]) -> None:
        slot.release()

    running.add_done_callback(ended)


def _overloaded(flight: Flight, why: str, retry_after_s: float) -> Outcome:
    assert flight.domain is not None
    limit = flight.domain.bulkhead.settings.max_concurrent
    detail = f"'{flight.domain.key}' runs its {limit} attempts at once, and {why}; nothing was sent."
    return Outcome(
        OutcomeKind.NOT_EXECUTED, code=Code.OVERLOADED, detail=detail, stage=STAGE, retry_after_s=retry_after_s
    )

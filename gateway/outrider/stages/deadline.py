"""Deadline: the total time of a call, over all its attempts, waits and fallbacks."""

from __future__ import annotations

import asyncio

from outrider import clock
from outrider.calls import Outcome
from outrider.flight import Cause, Flight, Verdict
from outrider.stages import Next

BY_POLICY = "timeouts.total"


class Deadline:
    """Starts the clock. The caller may shorten the policy's total, never lengthen it; so does the end of its run."""

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        assert flight.plan is not None
        total_s = flight.plan.timeouts.total_s
        whose = BY_POLICY
        wanted_ms = flight.call.deadline_ms
        if wanted_ms is not None and wanted_ms / 1000 < total_s:
            total_s, whose = wanted_ms / 1000, "the caller's deadline"
        now = clock.monotonic()
        ends_at = None if flight.run is None else flight.run.stops_at
        if ends_at is not None and ends_at - now < total_s:
            total_s, whose = max(0.0, ends_at - now), "runs.maxDuration"
        flight.deadline = now + total_s
        timer = asyncio.get_running_loop().call_at(flight.deadline, _passed, flight, total_s, whose)
        try:
            return await following(flight)
        finally:
            timer.cancel()


def _passed(flight: Flight, total_s: float, whose: str) -> None:
    if flight.streaming and whose == BY_POLICY:
        return  # how long an answer takes to pass is its length's and its reader's affair; it has a limit of its own
    flight.stop(Verdict(Cause.DEADLINE, f"The call did not end within {total_s:g} s ({whose})."))

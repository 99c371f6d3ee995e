"""Run guards: may this run make another call? Before the access rules, so that a loop of denied calls is seen too."""

from __future__ import annotations

import asyncio

from outrider.calls import Outcome
from outrider.flight import Flight
from outrider.observing import enforced
from outrider.runs import Run, Runs
from outrider.runs.verdicts import likeness
from outrider.stages import Next

PAUSE_WAIT_S = 0.5
"""How long the refusal that pauses a run waits for the disk; the pause holds in memory in any case."""


class RunGuards:
    """Finds the run of a call, refuses what the run's guards are against, and counts the rest. A call inside another
    belongs to that one's run. A call that names no run is in none: it is not counted and not limited."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        call = flight.call
        if not call.run:
            return await following(flight)
        run = self._runs.of(call, flight.run, flight.policy, flight.started_wall)
        if run is None:
            return await following(flight)
        if isinstance(run, Outcome):
            return run
        like = b""
        if run.guarded:
            like = likeness(call, run.guards)
            refusal = enforced(flight, self._runs.barred(run, call, like))
            if refusal is not None:
                await _pause_written(run)
                return refusal
        flight.run = run
        run.admit(call.agent.name, like)
        outcome: Outcome | None = None
        try:
            outcome = await following(flight)
        finally:
            run.ended(outcome)
        return outcome


async def _pause_written(run: Run) -> None:
    """Who is told of a pause may count on it: a crash right after must not lift it."""
    pausing, run.pausing = run.pausing, None
    if pausing is not None:
        await asyncio.wait([pausing], timeout=PAUSE_WAIT_S)

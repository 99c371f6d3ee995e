"""Peek: could this call run now? What cannot is told at once, and is never put before a person."""

from __future__ import annotations

from outrider.calls import Outcome
from outrider.flight import Flight
from outrider.health import Health
from outrider.readiness import unready
from outrider.stages import Next

STAGE = "peek"


class Peek:
    """Fails fast when the upstream is not ready, unless a fallback is declared, which is asked further down."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        assert flight.plan is not None
        if not flight.plan.fallback and (refusal := unready(self._health, flight.plan.upstream.name, STAGE)):
            return refusal
        return await following(flight)

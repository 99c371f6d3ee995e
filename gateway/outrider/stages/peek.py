"""Peek: could this call run now? What cannot is told at once, and is never put before a person."""

from __future__ import annotations

from outrider.calls import Outcome
from outrider.flight import Flight
from outrider.health import Health
from outrider.observing import enforced
from outrider.readiness import unready
from outrider.stages import Next

STAGE = "peek"


class Peek:
    """Fails fast when the upstream is not ready, unless a fallback is declared, which is asked further down."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        assert flight.plan is not None
        if flight.plan.fallback:
            return await following(flight)
        refusal = enforced(flight, unready(self._health, flight.plan.upstream.name, STAGE))
        return refusal if refusal is not None else await following(flight)

"""Kill switch: is any engaged for this call? Before identity, so that it works while an identity provider is down."""

from __future__ import annotations

from outrider.calls import Outcome
from outrider.flight import Flight, killed_by
from outrider.kills import KillBoard
from outrider.stages import Next

STAGE = "kill_switch"


class KillSwitch:
    """Refuses what a kill covers. Asked again before each attempt and right before each sending, by those stages."""

    def __init__(self, kills: KillBoard) -> None:
        self._kills = kills

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        kill = self._kills.match(flight.call)
        if kill is not None:
            flight.stop(killed_by(kill))
        if flight.verdict is not None:
            return flight.verdict.refusal(STAGE)
        return await following(flight)

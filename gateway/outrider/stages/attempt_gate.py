"""Attempt gate: before each attempt, is anything against it by now? Kills and denies use the newest state."""

from __future__ import annotations

from collections.abc import Callable

from outrider import clock
from outrider.access import newly_denied
from outrider.agents import Agents
from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code
from outrider.flight import MIN_ATTEMPT_S, Flight, killed_by
from outrider.health import Health
from outrider.kills import KillBoard
from outrider.observing import enforced
from outrider.policy.load import Policy
from outrider.readiness import unready
from outrider.stages import Next
from outrider.standing import policy_bar

STAGE = "attempt_gate"


class AttemptGate:
    """Asks verdict, kills, the newest policy's denies and what it has against the agent, the deadline, and the
    upstream's readiness."""

    def __init__(self, kills: KillBoard, health: Health, agents: Agents, newest: Callable[[], Policy]) -> None:
        self._kills = kills
        self._health = health
        self._agents = agents
        self._newest = newest

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        refusal = self._refusal(flight)
        return refusal if refusal is not None else await following(flight)

    def _refusal(self, flight: Flight) -> Outcome | None:
        plan = flight.plan
        assert plan is not None
        kill = self._kills.match(flight.call, plan.tool, plan.upstream.name)
        if kill is not None:
            flight.stop(killed_by(kill))
        if flight.verdict is not None:
            return flight.verdict.refusal(STAGE)
        newest = self._newest()
        if refusal := newly_denied(flight, newest, plan.tool, STAGE) or policy_bar(flight, self._agents, newest, STAGE):
            return refusal
        remaining_s = flight.remaining_s(clock.monotonic())
        if remaining_s is not None and remaining_s < MIN_ATTEMPT_S:
            detail = f"Only {max(0.0, remaining_s) * 1000:.0f} ms are left, too little for an attempt; none was sent."
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.DEADLINE_EXCEEDED, detail=detail, stage=STAGE)
        return enforced(flight, unready(self._health, plan.upstream.name, STAGE))

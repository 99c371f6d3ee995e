"""Fallback: another tool or a static value after failure. Outermost, and never where it could repeat an effect."""

from __future__ import annotations

from dataclasses import replace

from outrider import clock
from outrider.access import decide, refusal_of
from outrider.calls import Effect, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.flight import Flight
from outrider.observing import enforced
from outrider.policy.plans import Fallback as Way
from outrider.recorder import Recorder
from outrider.stages import Next
from outrider.telemetry import semconv

STAGE = "fallback"
FALLS_BACK = frozenset(
    {
        Code.UPSTREAM_FAILED,
        Code.OUTCOME_UNKNOWN,
        Code.BREAKER_OPEN,
        Code.OVERLOADED,
        Code.RATE_LIMITED,
        Code.UPSTREAM_UNREADY,
        Code.AGENT_GONE,
    }
)
"""The problems a fallback answers: those of the upstream. Never a rule's refusal, a kill, or the caller's own fault."""


def may_fall_back(outcome: Outcome, effect: Effect, way: Way) -> bool:
    """Whether ``way`` may be tried after ``outcome`` of a tool with ``effect``."""
    if outcome.ok or outcome.code not in FALLS_BACK:
        return False
    if outcome.kind is OutcomeKind.UNKNOWN and effect.has_effects:
        return False  # it may have run: a second tool could do it a second time
    if way.only_not_executed and outcome.kind is not OutcomeKind.NOT_EXECUTED:
        return False
    return not _callers_own_fault(outcome)


def _callers_own_fault(outcome: Outcome) -> bool:
    """A 4xx other than those that say "not now": the arguments are wrong, and would be wrong elsewhere too."""
    status = outcome.failure.status if outcome.failure else None
    return status is not None and 400 <= status < 500 and status not in {408, 425, 429}


class Fallback:
    """Tries each declared way in order, inside the same deadline, and marks what it brings as degraded."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        assert flight.plan is not None
        plan = flight.plan
        outcome = await following(flight)
        for way in plan.fallback:
            if flight.verdict is not None or flight.committed or not may_fall_back(outcome, _effect(flight), way):
                break
            _mark(flight, way, outcome)
            if way.is_static:
                flight.degraded_by = "static"
                return Outcome(OutcomeKind.OK, value=way.static, degraded=True, stage=STAGE)
            outcome = await self._other_tool(flight, way.tool, following, outcome)
        return outcome

    async def _other_tool(self, flight: Flight, tool: str, following: Next, before: Outcome) -> Outcome:
        other = flight.policy.plan(tool)
        if other is None:
            return before
        decision = decide(flight, flight.policy, tool)
        flight.decision = decision
        self._recorder.decided(flight, tool, decision)
        refusal = enforced(flight, refusal_of(decision, tool, STAGE), tool=tool)
        if refusal is not None:
            return refusal
        flight.plan = other
        flight.degraded_by = tool
        outcome = await following(flight)
        return replace(outcome, degraded=True) if outcome.ok else outcome


def _mark(flight: Flight, way: Way, outcome: Outcome) -> None:
    if flight.trace is not None:
        why = outcome.code.value if outcome.code is not None else outcome.kind.value
        tool = "static" if way.is_static else way.tool
        flight.trace.note(
            semconv.FALLBACK_EVENT, clock.monotonic(), {semconv.FALLBACK_TOOL: tool, semconv.FAILURE: why}
        )


def _effect(flight: Flight) -> Effect:
    assert flight.plan is not None
    return flight.plan.effect

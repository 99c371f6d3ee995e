"""Ingest: is this a call that can be understood, of a tool that exists, and is there room for it?"""

from __future__ import annotations

from collections.abc import Callable

from outrider.calls import Effect, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.flight import Flight
from outrider.policy.load import Policy
from outrider.policy.rules import guard_args
from outrider.stages import Next

STAGE = "ingest"
SHED_RETRY_AFTER_S = 1.0
"""What a shed caller is told: about the time a bulkhead's queue takes to move."""


class Ingest:
    """Sheds load, bounds the arguments, finds the plan."""

    def __init__(self, draining: Callable[[], bool], hinted: Callable[[Policy, str], Effect | None]) -> None:
        """``hinted`` gives the effect that a tool's own annotations say, where they count."""
        self._draining = draining
        self._hinted = hinted

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        refusal = self._refusal(flight)
        return refusal if refusal is not None else await following(flight)

    def _refusal(self, flight: Flight) -> Outcome | None:
        if self._draining():
            return _no(Code.DRAINING, "The sidecar is shutting down and takes no new calls. Call again soon.", 5.0)
        limits = flight.policy.limits
        if flight.ahead >= limits.max_inflight:
            return _no(
                Code.OVERLOADED,
                f"{limits.max_inflight} calls are under way, as many as limits.maxInflight allows.",
                SHED_RETRY_AFTER_S,
            )
        if flight.foreign_parent:
            return _no(Code.INVALID_REQUEST, _foreign_parent(flight))
        wrong = guard_args(flight.call.args, limits)
        if wrong is not None:
            return _no(Code.INVALID_REQUEST, wrong)
        tool = flight.call.tool
        flight.plan = flight.policy.plan(tool, flight.call.assumed or self._hinted(flight.policy, tool))
        if flight.plan is None:
            return _no(Code.UNKNOWN_TOOL, _unknown_tool(flight))
        return None


def _foreign_parent(flight: Flight) -> str:
    parent = flight.call.parent[:100]
    if flight.call.origin:
        return f"'parent' names a call ({parent}) that another process made. Name one of this process, or none."
    agent = flight.call.agent.name[:100]
    return f"'parent' names a call ({parent}) that agent '{agent}' did not make. Name one that it made, or none."


def _unknown_tool(flight: Flight) -> str:
    tool = flight.call.tool
    known = ", ".join(sorted(flight.policy.upstreams))
    if "." not in tool:
        return f"'{tool[:100]}' is not a tool's name. Write UPSTREAM.OPERATION; the policy's upstreams are: {known}."
    return f"The policy has no upstream for '{tool[:100]}'. Its upstreams are: {known}."


def _no(code: Code, detail: str, retry_after_s: float | None = None) -> Outcome:
    return Outcome(OutcomeKind.NOT_EXECUTED, code=code, detail=detail, stage=STAGE, retry_after_s=retry_after_s)

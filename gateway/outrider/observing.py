"""``mode: observe``: what the policy would refuse is recorded, and passes. The one place where a refusal is let go.

Every stage that refuses because of something written in the policy asks here:

    refusal = enforced(flight, would_be)          # would_be: the refusal, or None
    return refusal if refusal is not None else await following(flight)

Never ask here for what a person's switch refuses (kill, cordon, pause, drain, retire), for what cannot be done at all
(no such tool, a process that is gone, a ledger that cannot be written, arguments that cannot be understood), or for
what keeps this sidecar itself alive (``limits``): those refuse in any mode.
"""

from __future__ import annotations

from outrider.calls import Outcome
from outrider.flight import Flight
from outrider.policy.load import Policy


def enforced(flight: Flight, refusal: Outcome | None, *, by: Policy | None = None, tool: str = "") -> Outcome | None:
    """The refusal where the policy enforces, None where it only observes; that is then recorded, once for each
    thing that it would have refused. ``by`` is the policy that refuses, where it is not the one the call began with;
    ``tool`` is the tool that is refused, where it is not the one under way.

    A call that was stopped is never let go: its refusal may be a kill's."""
    policy = by or flight.policy
    if refusal is None or not policy.observes or flight.verdict is not None:
        return refusal
    tool = tool or (flight.plan.tool if flight.plan is not None else flight.call.tool)
    seen = (refusal.code, refusal.rule, tool)
    if seen not in flight.observed:
        flight.observed += (seen,)
        flight.on_observed(flight, tool, refusal, policy)
    return None

"""Access rules: may this agent make this call?"""

from __future__ import annotations

from outrider.access import decide, refusal_of
from outrider.calls import Outcome
from outrider.flight import Flight
from outrider.observing import enforced
from outrider.recorder import Recorder
from outrider.stages import Next

STAGE = "access"


class Access:
    """Asks the rules once, with the policy that is pinned for this call, and records what they said."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        assert flight.plan is not None
        decision = decide(flight, flight.policy, flight.plan.tool)
        flight.decision = decision
        self._recorder.decided(flight, flight.plan.tool, decision)
        refusal = enforced(flight, refusal_of(decision, flight.plan.tool, STAGE))
        return refusal if refusal is not None else await following(flight)

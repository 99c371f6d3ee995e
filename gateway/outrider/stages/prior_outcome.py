"""Prior outcome: was this very call made before in this run, and may it have run?

An agent is a retry layer too: told that a write may have run, its model tends to issue the same call again.
"""

from __future__ import annotations

from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code
from outrider.flight import Flight
from outrider.observing import enforced
from outrider.stages import Next
from outrider.unresolved import Unresolved

STAGE = "prior_outcome"


class PriorOutcome:
    """Refuses a call whose like, in the same run, ended unknown and is not settled."""

    def __init__(self, unresolved: Unresolved) -> None:
        self._unresolved = unresolved

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        assert flight.plan is not None
        if flight.plan.effect.has_effects and self._unresolved.full:
            detail = "Too many calls with an unknown outcome wait to be settled; until then effects are refused."
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.OVERLOADED, detail=detail, stage=STAGE)
        prior = self._unresolved.find(flight.call)
        if prior is None:
            return await following(flight)
        detail = (
            f"The same call was made before in this run and may have run (call {prior.call_id}). Find out whether it "
            f"did, then: outrider settle {prior.call_id} --as executed|not_executed --reason …"
        )
        barred = Outcome(OutcomeKind.NOT_EXECUTED, code=Code.PRIOR_OUTCOME_UNKNOWN, detail=detail, stage=STAGE)
        refusal = enforced(flight, barred)
        return refusal if refusal is not None else await following(flight)

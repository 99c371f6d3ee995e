"""Journal: the intent is on disk before anything with effects is sent, and every start gets exactly one end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from outrider import clock
from outrider.calls import Attempt, Effect, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.flight import Flight
from outrider.ledger.writer import LedgerUnavailable
from outrider.recorder import Recorder
from outrider.stages import Next

STAGE = "journal"
OnAttempt = Callable[[str, OutcomeKind, float], None]


class Journal:
    """Makes the attempt and writes its start and its end. Waiting for the disk is not interruptible: a verdict that
    comes meanwhile is seen right after, by the sender, before anything leaves."""

    def __init__(self, recorder: Recorder, on_attempt: OnAttempt) -> None:
        """``on_attempt(upstream, outcome, took_s)`` counts."""
        self._recorder = recorder
        self._on_attempt = on_attempt

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        assert flight.plan is not None
        attempt = self._attempt(flight)
        if attempt.effect.has_effects and (refusal := await self._intent(flight, attempt)) is not None:
            return refusal
        if not attempt.effect.has_effects:
            self._recorder.attempt_started(flight, attempt)
        attempt.caller, attempt.commit = flight.caller, partial(self._commit, flight, attempt)
        flight.attempts, flight.attempt = attempt.n, attempt
        began = clock.monotonic()
        breaker = flight.domain.breaker.state.value if flight.trace is not None and flight.domain is not None else ""
        outcome: Outcome | None = None
        try:
            outcome = await following(flight)
            return outcome
        finally:
            attempt.commit = attempt.lift = None  # its ways back to the call, which would keep that in a cycle
            took_s = clock.monotonic() - began
            end = outcome or _unexpected(attempt)
            self._recorder.attempt_finished(flight, attempt, end, took_s)
            self._on_attempt(flight.plan.upstream.name, end.kind, took_s)
            if flight.trace is not None:
                flight.trace.attempted(attempt, flight.plan, breaker, began, took_s, end)

    async def _commit(self, flight: Flight, attempt: Attempt) -> bool:
        """Before the first part of an answer is passed on, or the caller is asked something: from then on this attempt
        is not repeated, and that is on disk. False: the ledger cannot be written, so nothing may be passed on."""
        if attempt.committed:
            return True
        try:
            await self._recorder.committed(flight, attempt)
        except LedgerUnavailable:
            return False
        attempt.committed = flight.committed = True
        return True

    def _attempt(self, flight: Flight) -> Attempt:
        plan, call = flight.plan, flight.call
        assert plan is not None
        key = call.id if plan.effect is Effect.KEYED else ""
        remaining_s = flight.remaining_s(clock.monotonic())
        deadline_ms = None if remaining_s is None else max(1, int(remaining_s * 1000))
        attempt = Attempt(
            call,
            flight.attempts + 1,
            plan.tool,
            plan.effect,
            key,
            deadline_ms=deadline_ms,
            traceparent=flight.traceparent,
        )
        if flight.trace is not None:
            flight.trace.announce(attempt)
        return attempt

    async def _intent(self, flight: Flight, attempt: Attempt) -> Outcome | None:
        if self._recorder.refuses_effects(flight.policy.ledger):
            detail = "The ledger is larger than ledger.maxSize allows, and the policy then refuses calls with effects."
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.LEDGER_UNAVAILABLE, detail=detail, stage=STAGE)
        try:
            await self._recorder.intended(flight, attempt)
        except LedgerUnavailable as error:
            detail = f"The intent to call {attempt.tool} could not be written to the ledger; nothing was sent: {error}"
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.LEDGER_UNAVAILABLE, detail=detail, stage=STAGE)
        return None


def _unexpected(attempt: Attempt) -> Outcome:
    """What is recorded when the sender raises, which is a bug: unknown once a byte may have left."""
    kind = OutcomeKind.UNKNOWN if attempt.sent else OutcomeKind.NOT_EXECUTED
    return Outcome(kind, code=Code.INTERNAL, detail="a fault in Outrider ended this attempt", stage=STAGE)

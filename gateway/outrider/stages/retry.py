"""Retry: again, when repeating is safe, useful, within budget, and in time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from outrider import clock
from outrider.calls import Effect, Failure, Outcome, OutcomeKind, Reason
from outrider.domains.backoff import delay_s, retry_after_delay_s
from outrider.domains.domain import Domain, Domains
from outrider.errors import Code
from outrider.flight import MIN_ATTEMPT_S, Flight
from outrider.policy.plans import Plan
from outrider.policy.plans import Retry as Settings
from outrider.runs import Run
from outrider.stages import Next
from outrider.telemetry import semconv

STAGE = "retry"

SPENT = "the retry budget of this upstream is spent"
RUN_SPENT = "this run has had all the retries that runs.maxRetries allows"
STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after ``delay_s``."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt. ``retryable``: the caller may try later, because nothing is spent but time."""

    why: str
    retryable: bool = False
    retry_after_s: float | None = None


def is_retryable(failure: Failure, kind: OutcomeKind, effect: Effect, settings: Settings) -> bool:
    """Whether this failure may be answered by another sending, by effect and by the policy's ``retryOn``.

    A write is only ever sent again when it provably never ran: the upstream must not see it twice.
    """
    if failure.reason is Reason.STOPPED:
        return False
    if kind is OutcomeKind.NOT_EXECUTED:
        return "not_executed" in settings.retry_on
    if not effect.repeatable:
        return False
    if _status_listed(failure.status, settings.retry_on):  # of the upstream, or of an exception that a function raised
        return True
    if failure.types and not settings.retry_on_types.isdisjoint(failure.types):
        return True
    return failure.reason.value in settings.retry_on


def _status_listed(status: int | None, retry_on: tuple[str, ...]) -> bool:
    return status is not None and (f"http-{status}" in retry_on or f"http-{status // 100}xx" in retry_on)


def decide(
    outcome: Outcome,
    plan: Plan,
    *,
    attempts: int,
    is_parent: bool,
    committed: bool = False,
    spent: bool = False,
    remaining_s: float | None,
    rng: Callable[[], float],
) -> Again | GiveUp:
    """What follows a failed attempt. Pure: the budget and the verdict are asked by the stage.

    ``attempts`` is how many this tool has had; ``remaining_s`` what is left of the total deadline.
    """
    failure = outcome.failure
    if failure is not None and failure.reason is Reason.AGENT_GONE:
        return GiveUp("its process is not connected", outcome.kind is OutcomeKind.NOT_EXECUTED)
    if failure is None or not is_retryable(failure, outcome.kind, plan.effect, plan.retry):
        return GiveUp("this failure is not retried")
    if committed:
        return GiveUp("a part of its answer has reached the caller")
    if spent:
        return GiveUp("its body was streamed and cannot be sent again")
    if is_parent:
        return GiveUp("a call that made calls of its own is not repeated")
    if attempts >= plan.retry.max_attempts:
        return GiveUp(f"after {attempts} of {plan.retry.max_attempts} attempts")
    asked_s = failure.retry_after_s if plan.retry.honor_retry_after else None
    if asked_s is None:
        wait_s = delay_s(attempts, plan.retry, rng)
    elif asked_s > plan.retry.retry_after_max_s:
        return GiveUp(f"the upstream asks to wait {asked_s:g} s, longer than retryAfter.max", True, asked_s)
    else:
        wait_s = retry_after_delay_s(asked_s, rng)
    if remaining_s is not None and remaining_s - wait_s < MIN_ATTEMPT_S:
        return GiveUp("the deadline leaves no time for another attempt", asked_s is not None, asked_s)
    return Again(wait_s)


class Retry:
    """Runs the attempts of one tool. A refusal inside an attempt (breaker, bulkhead, kill) ends the loop at once."""

    def __init__(
        self, domains: Domains, may_retry: Callable[[Run | None], bool], rng: Callable[[], float] = random.random
    ) -> None:
        """``may_retry`` asks what all calls of a run share, and counts a retry that it grants."""
        self._domains = domains
        self._may_retry = may_retry
        self._rng = rng

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        plan = flight.plan
        assert plan is not None
        domain = flight.domain = self._domains.get(plan, flight.call)
        before = flight.attempts
        failed: Outcome | None = None
        while True:
            outcome = await following(flight)
            if failed is None and flight.attempts > before:
                domain.budget.note_call(clock.monotonic())
            if outcome.ok or outcome.kind is OutcomeKind.SUSPENDED:
                return outcome
            if outcome.failure is None:  # refused before it was sent
                return _refused_after(failed, outcome, flight)
            flight.may_have_run |= outcome.kind is OutcomeKind.UNKNOWN and plan.effect.has_effects
            failed = outcome
            now = clock.monotonic()
            step = decide(
                outcome,
                plan,
                attempts=flight.attempts - before,
                is_parent=flight.is_parent,
                committed=flight.committed,
                spent=flight.attempt is not None and flight.attempt.spent,
                remaining_s=flight.remaining_s(now),
                rng=self._rng,
            )
            if isinstance(step, GiveUp):
                return final(outcome, flight, step)
            if why_not := await self._wait_for_another(flight, domain, outcome.failure, step.delay_s):
                return final(outcome, flight, GiveUp(why_not))

    async def _wait_for_another(self, flight: Flight, domain: Domain, failure: Failure, delay_s: float) -> str:
        """Back off, within what upstream and run have left for retries. Why there is none; empty where there is."""
        if flight.verdict is not None:
            return STOPPED
        now = clock.monotonic()
        reservation = domain.budget.reserve(now)
        if reservation is None:
            return SPENT
        if not self._may_retry(flight.run):
            reservation.cancel()
            return RUN_SPENT
        _mark(flight, failure, now, delay_s)
        granted = False
        try:
            awake = await self._back_off(flight, delay_s)
            granted = awake and reservation.start(clock.monotonic())
        finally:
            reservation.cancel()  # nothing to give back once it was started
            if not granted and flight.run is not None:
                flight.run.not_retried()
        return "" if granted else SPENT if awake else STOPPED

    async def _back_off(self, flight: Flight, wait_s: float) -> bool:
        """Sleep; False when a verdict ended it."""
        with flight.stoppable():
            await asyncio.sleep(wait_s)
        return flight.verdict is None


def _mark(flight: Flight, failure: Failure, now: float, wait_s: float) -> None:
    if flight.trace is not None:
        told = {
            semconv.ATTEMPT_NUMBER: flight.attempts,
            semconv.FAILURE: failure.reason.value,
            semconv.BACKOFF_S: round(wait_s, 6),
        }
        flight.trace.note(semconv.RETRY_EVENT, now, told)


STANDS = frozenset(
    {
        Code.KILLED, Code.CANCELLED, Code.DRAINING, Code.DENIED, Code.NO_RULE, Code.AGENT_DRAINING,
        Code.AGENT_UNDECLARED, Code.TOOL_DRIFTED, Code.UNAUTHENTICATED,
    }
)  # fmt: skip
"""Refusals that a caller must read as they are, also after a failed attempt: nothing but a person changes them."""


def _refused_after(failed: Outcome | None, refusal: Outcome, flight: Flight) -> Outcome:
    """A refusal of the first attempt stands as it is; after a failed attempt, what that one did is not forgotten."""
    if failed is None:
        return refusal
    if refusal.code in STANDS:
        return replace(refusal, kind=_worst(failed, flight), failure=failed.failure)
    return final(failed, flight, GiveUp(refusal.detail, False, refusal.retry_after_s))


def _worst(outcome: Outcome, flight: Flight) -> OutcomeKind:
    """Of all attempts: one that may have run makes the call one that may have run."""
    return OutcomeKind.UNKNOWN if flight.may_have_run else outcome.kind


def final(outcome: Outcome, flight: Flight, step: GiveUp) -> Outcome:
    """The call's answer from its last attempt's outcome: the code the caller reads, and an honest ``retryable``."""
    kind = _worst(outcome, flight)
    verdict = flight.verdict
    if verdict is not None:
        return replace(outcome, kind=kind, code=verdict.code, detail=verdict.detail, retryable=False, stage=STAGE)
    assert flight.plan is not None
    unsure = kind is OutcomeKind.UNKNOWN and flight.plan.effect.has_effects
    return replace(
        outcome,
        kind=kind,
        code=outcome.code or (Code.OUTCOME_UNKNOWN if unsure else Code.UPSTREAM_FAILED),
        detail=_detail(outcome, step, unsure),
        retryable=step.retryable and not unsure,
        retry_after_s=step.retry_after_s,
        stage=outcome.stage or STAGE,
    )


def _detail(outcome: Outcome, step: GiveUp, unsure: bool) -> str:
    said = outcome.failure.text if outcome.failure and outcome.failure.text else outcome.detail
    doubt = " It may have run; do not send it again before that is known." if unsure else ""
    return f"{said or 'The tool failed'} ({step.why}).{doubt}"

"""Permits: a rate token and a breaker permit, taken in one step with no await between; the breaker's lesson after."""

from __future__ import annotations

import asyncio

from outrider import clock
from outrider.calls import Outcome, OutcomeKind, Reason
from outrider.domains.breaker import Permit, Verdict
from outrider.domains.domain import Domain
from outrider.errors import Code
from outrider.flight import Flight
from outrider.observing import enforced
from outrider.stages import Next

STAGE = "permits"
BREAKER_STATUSES = frozenset({500, 502, 503, 504})
UPSTREAM_FAULTS = frozenset({Reason.CONNECT, Reason.RESET, Reason.TIMEOUT, Reason.PROTOCOL})
TEACHES_NOTHING = frozenset({Reason.STOPPED, Reason.AGENT_GONE, Reason.NOT_STARTED})


def lesson(outcome: Outcome) -> Verdict:
    """What the breaker learns. A 4xx or a function that raised is an answer: the upstream works."""
    if outcome.ok or outcome.kind is OutcomeKind.SUSPENDED:
        return Verdict.SUCCESS
    failure = outcome.failure
    if failure is None or failure.reason in TEACHES_NOTHING or failure.status == 429:
        return Verdict.IGNORE
    troubled = failure.reason is Reason.STATUS and failure.status in BREAKER_STATUSES
    return Verdict.FAILURE if troubled or failure.reason in UPSTREAM_FAULTS else Verdict.SUCCESS


class Permits:
    """Waits for a rate token where the limit says wait; never waits for a breaker."""

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        domain = flight.domain
        assert domain is not None
        permit = self._take(flight, domain) or await self._wait(flight, domain)
        if isinstance(permit, Outcome):
            refusal = enforced(flight, permit)  # let go without a permit: the breaker learns nothing that it would not
            return refusal if refusal is not None else await following(flight)
        outcome: Outcome | None = None
        try:
            outcome = await following(flight)
            return outcome
        finally:
            now = clock.monotonic()
            domain.breaker.record(permit, now, Verdict.IGNORE if outcome is None else lesson(outcome))
            if outcome is not None and _never_tried(outcome):
                domain.refund_tokens(now)
            elif outcome is not None and outcome.failure is not None and outcome.failure.retry_after_s is not None:
                domain.drain(now, outcome.failure.retry_after_s)

    def _take(self, flight: Flight, domain: Domain) -> Permit | Outcome | None:
        """The permit, a refusal, or None: the rate limits say wait."""
        now = clock.monotonic()
        if domain.rate_rejects(now):
            return _rate_limited(domain, domain.rate_wait_s(now))
        if domain.rate_wait_s(now) > 0:
            return None
        permit = domain.breaker.acquire(now, _within_s(flight))
        if not isinstance(permit, Permit):
            detail = f"The circuit breaker of '{domain.key}' is open after failures; nothing was sent."
            return Outcome(
                OutcomeKind.NOT_EXECUTED,
                code=Code.BREAKER_OPEN,
                detail=detail,
                stage=STAGE,
                retry_after_s=permit.retry_after_s,
            )
        domain.take_tokens(now)
        return permit

    async def _wait(self, flight: Flight, domain: Domain) -> Permit | Outcome:
        """Wait for tokens, at most as long as a bulkhead's queue would, then ask again from the start."""
        until = clock.monotonic() + domain.bulkhead.settings.max_wait_s
        if flight.deadline is not None:
            until = min(until, flight.deadline)
        while True:
            now = clock.monotonic()
            wait_s = domain.rate_wait_s(now)
            if now + wait_s > until:
                return _rate_limited(domain, wait_s)
            with flight.stoppable():
                await asyncio.sleep(wait_s)
            if flight.verdict is not None:
                return flight.verdict.refusal(STAGE)
            taken = self._take(flight, domain)
            if taken is not None:
                return taken


def _within_s(flight: Flight) -> float:
    """How long an attempt of this call may take: a half-open breaker waits that long for its probe's verdict."""
    assert flight.plan is not None
    return flight.plan.timeouts.per_try_s


def _never_tried(outcome: Outcome) -> bool:
    """Refused or stopped below this stage, before the upstream was even asked."""
    failure = outcome.failure
    stopped = failure is not None and failure.reason is Reason.STOPPED
    return not outcome.ok and (failure is None or stopped) and outcome.kind is OutcomeKind.NOT_EXECUTED


def _rate_limited(domain: Domain, wait_s: float) -> Outcome:
    detail = f"The rate limit of '{domain.key}' is reached; nothing was sent."
    return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.RATE_LIMITED, detail=detail, stage=STAGE, retry_after_s=wait_s)

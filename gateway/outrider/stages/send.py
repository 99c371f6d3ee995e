"""Send: the last look at kills, denies and breaker, then one sending within per-try timeout and what remains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from outrider import clock
from outrider.access import newly_denied
from outrider.calls import Attempt, Effect, Failure, Outcome, OutcomeKind, Reason
from outrider.domains.breaker import State
from outrider.errors import Code
from outrider.flight import Cause, Flight, Scope, Verdict, killed_by
from outrider.kills import KillBoard
from outrider.observing import enforced
from outrider.policy.load import Policy
from outrider.policy.plans import Plan, Upstream
from outrider.stages import Next
from outrider.upstreams.base import UpstreamDriver
from outrider.upstreams.local_outcomes import in_part

STAGE = "send"
DriverOf = Callable[[Upstream], UpstreamDriver]


class Send:
    """The end of the chain. From the last check to the driver's first byte there is no await but the driver's own,
    and that one is interruptible: a kill either is seen here or wakes what waits there."""

    def __init__(self, kills: KillBoard, newest: Callable[[], Policy], driver_of: DriverOf) -> None:
        self._kills = kills
        self._newest = newest
        self._driver_of = driver_of

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        plan, attempt = flight.plan, flight.attempt
        assert plan is not None and attempt is not None
        kill = self._kills.match(flight.call, plan.tool, plan.upstream.name)
        if kill is not None:
            flight.stop(killed_by(kill))
        remaining_s = flight.remaining_s(clock.monotonic())
        if remaining_s is not None and remaining_s <= 0:  # a busy loop may run this before the deadline's own timer
            flight.stop(Verdict(Cause.DEADLINE, "The deadline passed before the call could be sent."))
        if flight.verdict is not None:
            proof = Outcome(OutcomeKind.NOT_EXECUTED)
            return flight.verdict.stopped(proof, STAGE)
        if denied := newly_denied(flight, self._newest(), plan.tool, STAGE):
            return denied
        if opened := enforced(flight, _opened_meanwhile(flight)):
            return opened
        return await self._send(flight, plan, attempt)

    async def _send(self, flight: Flight, plan: Plan, attempt: Attempt) -> Outcome:
        driver = self._driver_of(plan.upstream)
        per_try_s = _per_try_s(flight, plan)
        outcome: Outcome | None = None
        with flight.stoppable(per_try_s, caller_may_leave=attempt.effect is Effect.READ) as scope:
            attempt.lift = partial(_lift, flight, scope)
            outcome = await driver.send(attempt, plan, per_try_s or 0.0)
        if outcome is not None:
            return outcome if not flight.children else _of_a_parent(outcome, attempt.effect)
        if scope.timed_out:
            known = await driver.stopped(attempt, plan, "timeout")
            return _timed_out(known, per_try_s or 0.0)
        assert flight.verdict is not None
        known = await driver.stopped(attempt, plan, flight.verdict.cause.value)
        return known if known.ok else flight.verdict.stopped(known, STAGE)


def _opened_meanwhile(flight: Flight) -> Outcome | None:
    """The breaker opened while the intent of this attempt was written: an open breaker sends nothing."""
    domain = flight.domain
    if domain is None or domain.breaker.state not in {State.OPEN, State.FORCED_OPEN}:
        return None
    detail = f"The circuit breaker of '{domain.key}' opened before this was sent; nothing was sent."
    retry_after_s = domain.breaker.peek(clock.monotonic())
    return Outcome(
        OutcomeKind.NOT_EXECUTED, code=Code.BREAKER_OPEN, detail=detail, stage=STAGE, retry_after_s=retry_after_s
    )


def _lift(flight: Flight, scope: Scope, total: bool) -> None:
    """For a driver that streams and then keeps a limit of its own: no per-try timeout from now on, and, once the answer
    is on its way to the caller, not the policy's total either."""
    scope.disarm()
    flight.streaming = flight.streaming or total


def _per_try_s(flight: Flight, plan: Plan) -> float | None:
    """The per-try timeout, None where the deadline comes first (its verdict then ends the attempt) or for a parent."""
    if flight.is_parent:
        return None
    remaining_s = flight.remaining_s(clock.monotonic())
    if remaining_s is not None and remaining_s <= plan.timeouts.per_try_s:
        return None
    return plan.timeouts.per_try_s


def _of_a_parent(known: Outcome, effect: Effect) -> Outcome:
    """A function that made calls has begun: a connection that failed later proves nothing of what ran before."""
    if known.kind is not OutcomeKind.NOT_EXECUTED or known.failure is None or not known.failure.types:
        return known
    return in_part(known, effect)


def _timed_out(known: Outcome, per_try_s: float) -> Outcome:
    ended = known.ok or known.kind is OutcomeKind.DEFINITE  # in the very moment the timeout passed
    if ended or (known.failure is not None and known.failure.reason is Reason.CONNECT):
        return known
    failure = Failure(Reason.TIMEOUT, f"no answer within {per_try_s:g} s")
    return replace(known, failure=failure, stage=STAGE)

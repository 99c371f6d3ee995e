"""What the adapters' frames mean as outcomes. Pure functions; ``n`` is the attempt's number."""

from __future__ import annotations

from dataclasses import replace

from outrider.calls import Effect, Failure, Outcome, OutcomeKind, Reason
from outrider.errors import Code
from outrider.upstreams.exceptions import judge
from outrider.upstreams.local_machine import Event
from outrider.wire import Finished, Raised

GONE = "The process that holds this tool is not connected; start it, or wait until it is back."
LEAVE_TRACES = frozenset({Effect.WRITE, Effect.KEYED})
NEVER_BEGAN = "The function never began, and never will."


SAYS_NOTHING_ELSE = frozenset({"returned", "not_started"})
"""States that an exception contradicts: it tells of a function that ran. A function that was cancelled, timed out or
suspended may well have raised because of that, which proves nothing."""


def of_finished(finished: Finished, effect: Effect = Effect.WRITE, *, connect_proves: bool = False) -> Outcome:
    """The outcome of an attempt by its adapter's own word. A late one, whose effect nobody remembers, is a write.

    ``connect_proves``: a failed connection inside the function proves that nothing was done (the policy's word)."""
    if finished.state == "raised" or (finished.state in SAYS_NOTHING_ELSE and finished.raised is not None):
        outcome = _raised(finished, effect)
        doubtful = outcome.kind is OutcomeKind.NOT_EXECUTED and not connect_proves and effect in LEAVE_TRACES
        return in_part(outcome, effect) if doubtful else outcome
    if finished.state == "returned":
        return _with_result(finished, OutcomeKind.OK)
    if finished.state == "suspended":
        return _with_result(finished, OutcomeKind.SUSPENDED)
    if finished.state == "not_started":
        return not_executed(Reason.NOT_STARTED, "The agent's process was too busy to begin the function in time.")
    if finished.state == "timed_out":
        return unknown(Reason.TIMEOUT, "The function did not end in time; it may still run.", effect)
    return unknown(Reason.STOPPED, "The function was cancelled in its process; how far it came is not known.", effect)


def _with_result(finished: Finished, kind: OutcomeKind) -> Outcome:
    return Outcome(
        kind,
        value=finished.view,
        use=finished.n,
        result_digest=finished.digest or None,
        result_bytes=finished.size,
    )


def _raised(finished: Finished, effect: Effect) -> Outcome:
    kind, failure = judge(finished.raised or Raised(type="builtins.Exception"))
    code = Code.UPSTREAM_FAILED
    if kind is OutcomeKind.UNKNOWN and effect.has_effects:
        code = Code.OUTCOME_UNKNOWN
    return Outcome(kind, code=code, detail=failure.text, failure=failure, retry_after_s=failure.retry_after_s)


def in_part(refused: Outcome, effect: Effect) -> Outcome:
    """A function met a failed connection, after it may have done something else: what ran of it is not known."""
    assert refused.failure is not None
    failure = replace(refused.failure, reason=Reason.RESET)
    code = Code.OUTCOME_UNKNOWN if effect.has_effects else Code.UPSTREAM_FAILED
    return replace(refused, kind=OutcomeKind.UNKNOWN, code=code, failure=failure)


def not_executed(reason: Reason, detail: str, code: Code = Code.UPSTREAM_FAILED) -> Outcome:
    """Proven: the function never ran."""
    return Outcome(OutcomeKind.NOT_EXECUTED, code=code, detail=detail, failure=Failure(reason, detail))


def gone() -> Outcome:
    """There is nobody to send it to."""
    return not_executed(Reason.AGENT_GONE, GONE, Code.AGENT_GONE)


def unknown(reason: Reason, detail: str, effect: Effect) -> Outcome:
    """It may have run. For a read that is merely a failure."""
    code = Code.OUTCOME_UNKNOWN if effect.has_effects else Code.UPSTREAM_FAILED
    return Outcome(OutcomeKind.UNKNOWN, code=code, detail=detail, failure=Failure(reason, detail))


def unknown_by(event: Event, why: str, effect: Effect) -> Outcome:
    """What the pipeline is told where nobody knows better. ``why``: what ``stopped`` was asked with, or nothing."""
    if event is Event.OVER:
        return unknown(
            Reason.AGENT_GONE, "The process that ran the function is gone; nobody knows how it ended.", effect
        )
    if event is Event.MISSING:
        text = "The connection broke, and the process that came back knows nothing of this attempt."
        return unknown(Reason.RESET, text, effect)
    reason = Reason.TIMEOUT if why == "timeout" else Reason.STOPPED
    if event is Event.RUNNING:
        return unknown(reason, "The function had begun when it was told to stop; it may still run.", effect)
    return unknown(reason, "The agent's process did not answer in time whether the function had begun.", effect)

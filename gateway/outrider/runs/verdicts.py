"""What follows for the next call of a run. Pure: ``book`` acts on it.

    guard          bars a call when                                          what lifts it
    paused         the run ran away before                                   a person
    maxDuration    its first call is longer ago than this                    a person
    maxCalls       it has made so many                                       a person
    failures       its last so many calls failed                             nothing: the next so many may go on
    sameCall       its last so many calls were this very call                another call

The last two are the watch for runaways. An agent's model reads their sentence and is to do something else; where it
does not, and ``action`` is pause, the refusals that have no success in between add up to a pause.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from outrider.calls import Call, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.policy.run_guards import RunGuards
from outrider.policy.units import format_duration
from outrider.runs.run import Run

STAGE = "run_guards"
SAME_TURN_S = 1.0
"""Refusals closer together than this count once: a model that asks for several calls reads the answers together."""

_canonical = msgspec.json.Encoder(order="sorted", enc_hook=str).encode


class Bar(StrEnum):
    """What is against a call, in the policy's words."""

    PAUSED = "paused"
    MAX_DURATION = "maxDuration"
    MAX_CALLS = "maxCalls"
    FAILURES = "failures"
    SAME_CALL = "sameCall"

    @property
    def is_runaway(self) -> bool:
        return self in (Bar.FAILURES, Bar.SAME_CALL)


@dataclass(frozen=True, slots=True)
class Barred:
    """A call that is refused. ``pauses``: and the run with it, from now on."""

    bar: Bar
    pauses: bool = False


def likeness(call: Call, guards: RunGuards | None) -> bytes:
    """What two calls to the same tool with the same arguments have in common; empty where that is not watched."""
    if guards is None or guards.same_call is None or guards.exempts(call.tool):
        return b""
    return hashlib.blake2b(_canonical([call.tool, call.args]), digest_size=16).digest()


def decide(run: Run, guards: RunGuards | None, like: bytes, now: float) -> Barred | None:
    """What is against this call; None where nothing is."""
    if run.paused is not None:
        return Barred(Bar.PAUSED)
    if guards is None:
        return None
    if guards.max_duration_s is not None and now - run.began >= guards.max_duration_s:
        return Barred(Bar.MAX_DURATION)
    if guards.max_calls is not None and run.counted_calls >= guards.max_calls:
        return Barred(Bar.MAX_CALLS)
    if guards.failures is not None and run.failed_in_row >= guards.failures:
        return Barred(Bar.FAILURES, _pauses(run, guards, now))
    repeated = guards.same_call is not None and bool(like) and like == run.last_like
    if repeated and guards.same_call is not None and run.like_in_row >= guards.same_call:
        return Barred(Bar.SAME_CALL, _pauses(run, guards, now))
    return None


def is_new(run: Run, now: float) -> bool:
    """Whether a refusal now is one that the agent could have avoided, having read the one before."""
    return run.refused_at is None or now - run.refused_at >= SAME_TURN_S


def _pauses(run: Run, guards: RunGuards, now: float) -> bool:
    return guards.action == "pause" and is_new(run, now) and run.refusals + 1 >= guards.refusals


# ── what the agent's model reads ─────────────────────────────────────────────────────────────────────────────────


def refusal(barred: Barred, run: Run, call: Call, guards: RunGuards | None) -> Outcome:
    """The outcome of a call that is refused."""
    limits = barred.bar in (Bar.MAX_CALLS, Bar.MAX_DURATION)
    code = Code.RUN_LIMIT if limits else Code.RUNAWAY
    return Outcome(
        OutcomeKind.NOT_EXECUTED, code=code, detail=_sentence(barred, run, call, guards), retryable=False, stage=STAGE
    )


def _sentence(barred: Barred, run: Run, call: Call, guards: RunGuards | None) -> str:
    if barred.bar is Bar.PAUSED:
        why = run.paused.why if run.paused is not None else ""
        return f"This run is paused: {why}. Do not try again; a person must resume it (outrider runs resume)."
    if barred.bar is Bar.MAX_DURATION:
        lasts = format_duration((guards.max_duration_s if guards else None) or 0.0)
        return f"This run has lasted as long as it may ({lasts}, runs.maxDuration). Finish with what you have."
    if barred.bar is Bar.MAX_CALLS:
        made = f"This run has made {run.counted_calls} calls, as many as it may (runs.maxCalls)."
        return f"{made} Finish with what you have; no further tool will be called."
    return f"You have {why_runaway(barred.bar, run, call)}. {_advice(barred, guards)}"


def why_runaway(bar: Bar, run: Run, call: Call) -> str:
    """The rest of a sentence that begins with "you have" or "it has"."""
    if bar is Bar.FAILURES:
        return f"made {run.failed_in_row} calls in a row that failed"
    return f"called {call.tool} with the same arguments {run.like_in_row} times in a row"


def _advice(barred: Barred, guards: RunGuards | None) -> str:
    if barred.pauses:
        return "This run is now paused, until a person resumes it. Do not try again; say what is missing and finish."
    warning = " If this goes on, the run is paused." if guards is not None and guards.action == "pause" else ""
    if barred.bar is Bar.FAILURES:
        return f"Do not go on like this: do something else, or finish and say what went wrong.{warning}"
    return f"Once more brings nothing new: change the arguments, do something else, or finish.{warning}"

"""The state of one call while it is under way, and how it is stopped.

A stop verdict (kill, deadline, caller gone, shutdown) is set once; the first reason wins. Whoever waits for a call,
waits inside ``with flight.stoppable():``, and only there can a verdict interrupt it; everything else (writing the
ledger, asking what became of an interrupted attempt) runs to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any

from outrider.calls import Attempt, Call, Failure, Outcome, OutcomeKind, Reason
from outrider.errors import Code

if TYPE_CHECKING:
    from outrider.agents import Entry
    from outrider.domains.bulkhead import Slot
    from outrider.domains.domain import Domain
    from outrider.kills import Kill
    from outrider.policy.load import Policy
    from outrider.policy.plans import Plan
    from outrider.policy.rules import Decision
    from outrider.runs import Run
    from outrider.telemetry import Trace


MIN_ATTEMPT_S = 0.1
"""An attempt with less time than this left is not begun: it would only be cut short."""


class Cause(StrEnum):
    """Why a call was stopped."""

    KILL = "killed"
    DEADLINE = "deadline"
    CALLER_GONE = "caller_gone"
    SHUTDOWN = "shutdown"
    REVOKED = "revoked"
    DRAINED = "drained"


CODE_OF_CAUSE = {
    Cause.KILL: Code.KILLED,
    Cause.DEADLINE: Code.DEADLINE_EXCEEDED,
    Cause.CALLER_GONE: Code.CANCELLED,
    Cause.SHUTDOWN: Code.DRAINING,
    Cause.REVOKED: Code.UNAUTHENTICATED,
    Cause.DRAINED: Code.AGENT_DRAINING,
}
LEAVING = frozenset({Cause.CALLER_GONE, Cause.REVOKED})
"""Nothing more begins for this caller; what is on its way and has effects is left to end, so that it is known how."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision to stop a call. ``detail`` is the sentence its caller reads; ``kill_id`` names the kill."""

    cause: Cause
    detail: str
    kill_id: str = ""

    @property
    def code(self) -> Code:
        return CODE_OF_CAUSE[self.cause]

    def refusal(self, stage: str) -> Outcome:
        """The outcome of a call that was stopped before anything of this attempt was sent."""
        return Outcome(OutcomeKind.NOT_EXECUTED, code=self.code, detail=self.detail, stage=stage, retryable=False)

    def stopped(self, known: Outcome, stage: str) -> Outcome:
        """The outcome of an attempt in flight that was stopped; ``known`` is what its upstream could tell."""
        failure = Failure(Reason.STOPPED, self.detail)
        return replace(known, code=self.code, detail=self.detail, failure=failure, stage=stage, retryable=False)


def killed_by(kill: Kill) -> Verdict:
    """The verdict of a kill switch, with the sentence the agent's model will read."""
    detail = f"A person stopped this with a kill switch on {kill.scope}: {kill.reason}. Do not try again."
    return Verdict(Cause.KILL, detail, kill.id)


class Scope:
    """One interruptible wait, with an optional time limit. Modelled on ``asyncio.timeout``: cancel, then uncancel."""

    __slots__ = (
        "_flight", "_handle", "_task", "_timeout_s", "caller_may_leave", "interrupted", "limit_stands", "timed_out",
    )  # fmt: skip

    def __init__(self, flight: Flight, timeout_s: float | None, caller_may_leave: bool, limit_stands: bool) -> None:
        self._flight = flight
        self._timeout_s = timeout_s
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self.caller_may_leave = caller_may_leave
        self.limit_stands = limit_stands
        self.timed_out = False
        self.interrupted = False

    def __enter__(self) -> Scope:
        self._task = asyncio.current_task()
        assert self._task is not None and self._flight.scope is None, "one wait at a time"
        self._flight.scope = self
        if self._timeout_s is not None:
            self._handle = self._task.get_loop().call_later(max(0.0, self._timeout_s), self._on_timeout)
        return self

    def _on_timeout(self) -> None:
        if not self.interrupted:
            self.timed_out = True
            self.interrupt()

    def disarm(self) -> None:
        """Forget the time limit: the attempt turned out to be a parent, whose children have limits of their own."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def interrupt(self) -> None:
        """Wake the waiting task, once."""
        if not self.interrupted and self._task is not None:
            self.interrupted = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.disarm()
        self._flight.scope = None
        if not self.interrupted:
            return False
        assert self._task is not None
        still_cancelled = self._task.uncancel() > 0
        return kind is asyncio.CancelledError and not still_cancelled


class Flight:
    """One call under way. Its task, its verdict and its resources; the supervisor owns it."""

    __slots__ = (
        "ahead", "answer", "attempt", "attempts", "call", "caller", "children", "committed", "deadline", "decision",
        "degraded_by", "domain", "entry", "foreign_parent", "is_child", "may_have_run", "observed", "on_observed",
        "plan", "policy", "received", "run", "scope", "slot", "started_wall", "streaming", "strict", "task", "trace",
        "traceparent", "unheard", "unwritten", "verdict",
    )  # fmt: skip

    def __init__(self, call: Call, policy: Policy, *, received: float, started_wall: float) -> None:
        self.call = call
        self.policy = policy  # pinned for the call's life
        self.plan: Plan | None = None  # set by ingest
        self.domain: Domain | None = None
        self.run: Run | None = None  # its parent's from the beginning, its own once its guards let it pass
        self.entry: Entry | None = None  # what the registry knows of its agent; set by the supervisor
        self.ahead = 0  # how many calls were under way when it came
        self.received = received  # monotonic seconds
        self.started_wall = started_wall
        self.deadline: float | None = None  # monotonic seconds
        self.caller: object | None = None  # of a way in whose answers are more than one value; drivers know its kind
        self.committed = False  # something of the answer has reached the caller: no retry and no fallback
        self.streaming = (
            False  # its answer is on its way to the caller: the policy's total time is not its limit any more
        )
        self.attempts = 0  # sendings decided so far, over all tools of a fallback
        self.attempt: Attempt | None = None  # the one in flight
        self.slot: Slot | None = None
        self.children = 0
        self.is_child = False  # made inside another call that is under way
        self.foreign_parent = False  # it names a live call as its parent that is not of who made it
        self.may_have_run = False  # an attempt with effects ended unknown: no fallback, and the agent is guarded
        self.strict = False  # an attempt's end waits for its sync, so the call's end does too: it must not overtake it
        self.unwritten: list[Callable[[], object]] = []  # records that nobody waits for, soon to be written, in order
        self.unheard = False  # its caller left before the answer
        self.degraded_by = ""
        self.observed: tuple[tuple[object, ...], ...] = ()  # what the policy would have refused; see ``observing``
        self.on_observed: OnObserved = _untold
        self.decision: Decision | None = None  # what the rules said last
        self.trace: Trace | None = None  # of a call that is traced
        self.traceparent = call.traceparent  # the context that goes with it: its own where it is traced
        self.verdict: Verdict | None = None
        self.scope: Scope | None = None
        self.task: asyncio.Task[None] | None = None
        self.answer: asyncio.Future[Outcome] | None = None

    def stoppable(
        self, timeout_s: float | None = None, *, caller_may_leave: bool = True, limit_stands: bool = False
    ) -> Scope:
        """A wait that a verdict may end. The caller checks ``verdict`` first, with no await in between.

        ``caller_may_leave=False``: the caller's leaving does not end this wait (a write already sent).
        ``limit_stands``: it is not an attempt's time limit (but a queue's), so a child does not lift it."""
        return Scope(self, timeout_s, caller_may_leave, limit_stands)

    def stop(self, verdict: Verdict) -> bool:
        """Set the verdict and wake whoever waits. False: another came first. A kill overrides a caller that left,
        because a caller that left does not end a write in flight, and a kill must."""
        overrides = self.verdict is not None and self.verdict.cause in LEAVING and verdict.cause not in LEAVING
        if self.verdict is not None and not overrides:
            return False
        self.verdict = verdict
        scope = self.scope
        if scope is not None and (verdict.cause not in LEAVING or scope.caller_may_leave):
            scope.interrupt()
        return True

    def adopt_child(self) -> None:
        """A call began inside this one: this one is a parent now, holds no slot and has no per-try timeout."""
        self.children += 1
        if self.slot is not None:
            self.slot.release()
        if self.scope is not None and not self.scope.limit_stands:
            self.scope.disarm()

    @property
    def is_parent(self) -> bool:
        return self.children > 0 or (self.plan is not None and self.plan.composite)

    def remaining_s(self, now: float) -> float | None:
        """Seconds until the total deadline; None where none started."""
        return None if self.deadline is None else self.deadline - now


def _untold(flight: Flight, tool: str, refusal: Outcome, policy: Policy) -> None:
    """Nobody asked to be told."""


OnObserved = Callable[[Flight, str, Outcome, "Policy"], None]
"""Told of a refusal, and of which tool, that a policy only observes."""


class Traffic:
    """The calls under way, and whether new ones are taken."""

    def __init__(self) -> None:
        self.flights: dict[str, Flight] = {}
        self.draining = False
        self.waiting = 0  # of these, for their paused agents: they hold nothing, and count for nothing

    def of_agent(self, name: str) -> list[Flight]:
        """The calls under way of one agent."""
        return [flight for flight in self.flights.values() if flight.call.agent.name == name]

    def stop_agent(self, name: str, why: str) -> None:
        """End what is under way of a drained agent."""
        for flight in self.of_agent(name):
            flight.stop(Verdict(Cause.DRAINED, why))

    def is_draining(self) -> bool:
        return self.draining

"""One call as the adapter sees it: opened, executed where the function lives, answered once.

    Exchange   one call; ends in one Answer
    Attempt    one ``execute`` of it:  PENDING ──begin──► RUNNING ──► DONE
                                          └──revoke──► REVOKED   (never began and never will: a proof)

The step from PENDING is taken under the channel's one gate, by whoever comes first: the thread or loop that wants to
begin, or the abort, the lost connection, the passing of ``start_by_ms`` that forbid it.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from outrider import wire
from outrider.errors import Code, problem
from outrider_adapters import faults, tracing, views
from outrider_adapters.work import INSIDE, Answer, EndState, Inside, Made, Problem, Raise, Unsent, Value, Work

if TYPE_CHECKING:
    from outrider_adapters.channel import Channel

GRACE_S = 1.0
"""The adapter's own timer is a backstop: it fires this much (and a tenth of the timeout) after the gateway's."""
OWN_FAILURES = frozenset({Code.UPSTREAM_FAILED, Code.OUTCOME_UNKNOWN})
"""How the gateway tells that the function itself failed, and was not refused or stopped."""


class State(Enum):
    """Where an attempt is."""

    PENDING = auto()
    RUNNING = auto()
    DONE = auto()
    REVOKED = auto()


@dataclass(slots=True, eq=False)
class Attempt:
    """One ``execute``."""

    exchange: Exchange
    order: wire.Execute
    context: contextvars.Context
    begin_by: float | None
    state: State = State.PENDING
    abandoned: bool = False  # told to be over while it still ran
    why: str = ""  # the gateway's word, when it was told so by an abort
    is_parent: bool = False  # calls were made inside it: their limits count, not its own
    value: Any = None
    error: BaseException | None = None
    began: float = 0.0
    task: asyncio.Task[None] | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int]:
        return self.order.call, self.order.n

    @property
    def killed(self) -> bool:
        """A kill switch stopped it while it ran."""
        return self.abandoned and self.why.startswith("kill")

    @property
    def limit_s(self) -> float:
        """After how long the backstop gives up; 0 never."""
        timeout_s = self.order.timeout_ms / 1000
        return timeout_s * 1.1 + GRACE_S if timeout_s > 0 else 0.0

    @property
    def changed_args(self) -> dict[str, Any]:
        """Arguments that the gateway wants to be others than the caller's."""
        told = self.order.args
        return {} if told is None else views.changes(self.exchange.work.args, told)

    def finished(self, state: EndState, raised: wire.Raised | None, summary: views.Summary | None) -> wire.Finished:
        took_ms = (time.monotonic() - self.began) * 1000 if self.began else 0.0
        call, n = self.key
        if summary is None:
            return wire.Finished(call, n, state=state, raised=raised, took_ms=took_ms)
        return wire.Finished(
            call, n, raised=raised, view=summary.view, digest=summary.digest, size=summary.size, took_ms=took_ms
        )


# ── the exchange ─────────────────────────────────────────────────────────────────────────────────────────────────


class Exchange:
    """One call. Subclasses know where the caller waits and where a function may run."""

    def __init__(self, channel: Channel, work: Work) -> None:
        inside = INSIDE.get()
        self.channel = channel
        self.work = work
        self.context = contextvars.copy_context()
        self.ref = ""
        self.sent = False
        self.orphaned = False  # no gateway holds this call any more: it ends with what the function really did
        self.gone = False  # the caller left: nothing more may begin
        self.attempts: dict[int, Attempt] = {}
        self.parent = inside.call if inside else ""
        self.run = (inside.run if inside else "") or work.run or channel.mint()
        self.session = work.session or (inside.session if inside else "")
        self.agent = work.agent or (inside.agent if inside else "")
        self._first = threading.Lock()
        if inside is not None and inside.attempt is not None:
            inside.attempt.is_parent = True

    @property
    def answered(self) -> bool:
        return self._first.locked()

    def resolve(self, answer: Answer) -> None:
        """The first answer wins; any thread."""
        if self._first.acquire(blocking=False):
            self._deliver(answer)

    def _deliver(self, answer: Answer) -> None:
        raise NotImplementedError

    def schedule(self, attempt: Attempt) -> bool:
        """See to it that the attempt is begun; on the link's thread. Whether somebody else's thread or loop must find
        the time for it, so that it may come too late. Raises RuntimeError when it cannot be begun at all."""
        raise NotImplementedError

    def cancel(self, attempt: Attempt) -> None:
        """Ask a running attempt to end, if it can be asked; any thread."""

    def inner(self, attempt: Attempt) -> Inside:
        """What the function's own calls will find around them."""
        return Inside(attempt.order.call, self.run, self.session, self.agent, attempt)

    # ── the function ─────────────────────────────────────────────────────────────────────────────────────────────

    def run_here(self, attempt: Attempt) -> None:
        """Run a synchronous function on this thread, if it may still begin."""
        if not self.channel.begin(attempt):
            return
        try:
            value = attempt.context.run(self._invoke, attempt)
        except BaseException as error:
            self.raised(attempt, error)
        else:
            self.returned(attempt, value)

    def _invoke(self, attempt: Attempt) -> Any:
        assert self.work.invoke is not None
        INSIDE.set(self.inner(attempt))
        tracing.enter(attempt.order.traceparent)
        return self.work.invoke(attempt.changed_args)

    def returned(self, attempt: Attempt, value: Any) -> None:
        """The function returned; perhaps a failure in the framework's own form."""
        attempt.value = value
        failure = _failure(self.work, value)
        if failure is not None:
            attempt.error = failure
            self.channel.done(attempt, well=False)
            self._report(attempt, "raised", faults.raised(failure))
            return
        if self.channel.done(attempt, well=True):
            self.resolve(Value(value))
        self._summarise(attempt, _shown(self.work, value))

    def _summarise(self, attempt: Attempt, shown: Any) -> None:
        summary = views.summarise(shown, self.channel.limits.view_bytes)
        self._report(attempt, "returned", None, summary)

    def raised(self, attempt: Attempt, error: BaseException) -> None:
        """The function raised. What is the framework's or the interpreter's own goes on untouched and at once."""
        attempt.error = error
        self.channel.done(attempt, well=False)
        state = self.work.passes(error)
        if state is not None or not isinstance(error, Exception):
            stopped = isinstance(error, asyncio.CancelledError)
            if not (stopped and attempt.abandoned):
                self.resolve(Raise(error))
            state = state or ("cancelled" if stopped else "raised")
        # only a failure is told as one: of a function that was cancelled nobody knows how far it came
        self._report(attempt, state or "raised", faults.raised(error) if state in (None, "raised") else None)

    def _report(
        self, attempt: Attempt, state: EndState, raised: wire.Raised | None, summary: views.Summary | None = None
    ) -> None:
        if self.channel.report(attempt.finished(state, raised, summary), attempt):
            self.end_alone()

    # ── what the gateway says ────────────────────────────────────────────────────────────────────────────────────

    def closed(self, frame: wire.Closed) -> None:
        """The call's one answer."""
        if frame.problem is not None:
            self.resolve(self._failure(frame.problem))
        elif frame.use is None:
            self.resolve(Made(frame.result, frame.degraded))
        elif frame.use in self.attempts:
            self.resolve(Value(self.attempts[frame.use].value))
        else:
            self.resolve(Problem(problem(Code.INTERNAL, f"The sidecar named attempt {frame.use}, which never was.")))
        for attempt in self.attempts.values():
            for timer in attempt.timers:
                timer.cancel()
        self.attempts = {}

    def _failure(self, told: Mapping[str, Any]) -> Answer:
        """The call failed. In transparent mode a function's own last failure is nobody else's to put into words."""
        last = self._last_begun()
        if last is None or last.error is None:
            return Problem(told)
        own = told.get("code") in OWN_FAILURES and not last.abandoned
        if own and self.channel.surroundings.transparent:
            return Raise(last.error) if last.value is None else Value(last.value)
        return Problem(told, last.error, last.value)

    def abandon(self, attempt: Attempt, code: Code, detail: str) -> None:
        """A running attempt was given up. A gateway that holds the call will answer; without one the caller is told
        here."""
        if self.orphaned:
            call, n = attempt.key
            told = problem(code, detail, outcome="unknown", retryable=False, call_id=call, attempts=n)
            self.resolve(Problem(told, attempt.error))
        self.cancel(attempt)  # last: its end would be an answer too

    def strand(self) -> None:
        """The connection broke, and what was pending is revoked. What was never sent can be asked again, and a good
        result is a good result; everything else waits for the gateway to come back, a moment."""
        if not self.sent:
            self.resolve(Unsent())
        else:
            self.end_alone()

    def orphan(self) -> None:
        """No gateway holds this call any more. ``orphaned`` is set before the state is read, and an attempt's state
        before ``orphaned`` is: one of the two always answers."""
        self.orphaned = True
        attempt = self._last_begun()
        if attempt is None:
            self.resolve(Problem(self._lost_problem()))
        elif attempt.state is State.DONE or attempt.abandoned:
            self.end_alone()  # one that runs will answer with its own end

    def _last_begun(self) -> Attempt | None:
        begun = [one for one in list(self.attempts.values()) if one.state in (State.RUNNING, State.DONE)]
        return max(begun, key=lambda one: one.order.n, default=None)

    def end_alone(self) -> None:
        """No gateway answers: a good result is handed out, and everything else once nobody can be waited for."""
        attempt = self._last_begun()
        if attempt is None:
            return
        if attempt.error is None and attempt.state is State.DONE:
            if not self.answered:
                self.channel.note_unrecorded(self.work.tool)
            self.resolve(Value(attempt.value))
            return
        if not self.orphaned:
            return
        call, n = attempt.key
        if attempt.error is None:
            detail = f"The connection to the sidecar broke while {self.work.tool} ran; it may still run."
            told = problem(Code.OUTCOME_UNKNOWN, detail, outcome="unknown", retryable=False, call_id=call, attempts=n)
        else:
            detail = f"{self.work.tool} failed: {type(attempt.error).__name__}: {faults.text_of(attempt.error)}"
            told = problem(Code.UPSTREAM_FAILED, detail, outcome="definite", retryable=False, call_id=call, attempts=n)
        self.resolve(self._failure(told))

    def _lost_problem(self) -> dict[str, Any]:
        where = self.channel.surroundings.url
        if self.work.tool.startswith("local."):
            detail = f"The sidecar at {where} went away before {self.work.tool} began; the function did not run."
            return problem(Code.SIDECAR_UNREACHABLE, detail, outcome="not_executed", attempts=0)
        detail = f"The sidecar at {where} went away while it worked on {self.work.tool}; the call may have run."
        return problem(Code.OUTCOME_UNKNOWN, detail, outcome="unknown", retryable=False)


def _failure(work: Work, value: Any) -> BaseException | None:
    """A reader of results that errs must not lose the call: the value then counts as what it says it is."""
    try:
        return work.failure_in(value)
    except Exception:
        return None


def _shown(work: Work, value: Any) -> Any:
    try:
        return work.plain(value)
    except Exception:
        return views.label(value)

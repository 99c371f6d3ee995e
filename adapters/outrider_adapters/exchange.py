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
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from outrider import wire
from outrider.errors import Code, problem
from outrider_adapters import faults, views

if TYPE_CHECKING:
    from outrider_adapters.channel import Channel

GRACE_S = 1.0
"""The adapter's own timer is a backstop: it fires this much (and a tenth of the timeout) after the gateway's."""
EndState = str  # one of wire.Finished.state
Body = Callable[[Mapping[str, Any] | None], Any]
AsyncBody = Callable[[Mapping[str, Any] | None], Awaitable[Any]]


class State(Enum):
    """Where an attempt is."""

    PENDING = auto()
    RUNNING = auto()
    DONE = auto()
    REVOKED = auto()


# ── what a call may end in ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Value:
    """The function's own object, untouched."""

    value: Any


@dataclass(frozen=True, slots=True)
class Made:
    """A value that the gateway made: a fallback, or the answer of an upstream that is not this process."""

    value: Any
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Raise:
    """An exception that belongs to the framework or the interpreter: raise it untouched."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Problem:
    """The gateway's no, or a failure. ``error`` is the function's last exception; ``value`` what it returned where
    the framework told the failure in a value."""

    problem: Mapping[str, Any]
    error: BaseException | None = None
    value: Any = None

    @property
    def killed(self) -> bool:
        return self.problem.get("code") == Code.KILLED


@dataclass(frozen=True, slots=True)
class Unsent:
    """The connection broke before ``open`` was written: nobody has heard of this call."""


Answer = Value | Made | Raise | Problem | Unsent


# ── what a framework's adapter asks for ──────────────────────────────────────────────────────────────────────────


def _nothing(_: Any) -> None:
    return None


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Work:
    """One call to be governed, in the words of no framework.

    ``invoke`` runs the function on a thread, ``ainvoke`` on the caller's loop (either may be missing); both take the
    arguments that the gateway put in place of the caller's, or None. ``failure_in`` finds a failure that the framework
    told in a value. ``passes`` names the end state of an exception that is the framework's own and is raised untouched.
    ``plain`` makes of a framework's result what may be shown.
    """

    tool: str
    args: Mapping[str, Any]
    invoke: Body | None = None
    ainvoke: AsyncBody | None = None
    run: str = ""
    session: str = ""
    agent: str = ""
    caller_ref: str = ""
    framework_tool: str = ""
    failure_in: Callable[[Any], BaseException | None] = _nothing
    passes: Callable[[BaseException], EndState | None] = _nothing
    plain: Callable[[Any], Any] = _same


@dataclass(frozen=True, slots=True)
class Inside:
    """The call that surrounds the running code; calls made there are its children."""

    call: str
    run: str
    session: str
    agent: str
    attempt: Attempt | None = None


INSIDE: contextvars.ContextVar[Inside | None] = contextvars.ContextVar("outrider_inside", default=None)


@dataclass(slots=True, eq=False)
class Attempt:
    """One ``execute``."""

    exchange: Exchange
    order: wire.Execute
    context: contextvars.Context
    begin_by: float | None
    state: State = State.PENDING
    abandoned: bool = False  # told to be over while it still ran
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
    def limit_s(self) -> float:
        """After how long the backstop gives up; 0 never."""
        timeout_s = self.order.timeout_ms / 1000
        return timeout_s * 1.1 + GRACE_S if timeout_s > 0 else 0.0

    def finished(self, state: EndState, raised: wire.Raised | None, summary: views.Summary | None) -> wire.Finished:
        took_ms = (time.monotonic() - self.began) * 1000 if self.began else 0.0
        call, n = self.key
        if summary is None:
            return wire.Finished(call, n, state=state, raised=raised, took_ms=took_ms)  # type: ignore[arg-type]
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
        self.call = ""
        self.orphaned = False  # no gateway holds this call any more: it ends with what the function really did
        self.last: Attempt | None = None
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

    def schedule(self, attempt: Attempt) -> None:
        """See to it that the attempt is begun; on the link's thread. Raises RuntimeError when that cannot be."""
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
        return self.work.invoke(attempt.order.args)

    def returned(self, attempt: Attempt, value: Any) -> None:
        """The function returned; perhaps a failure in the framework's own form."""
        attempt.value = value
        failure = self.work.failure_in(value)
        if failure is not None:
            attempt.error = failure
            self.channel.done(attempt)
            self._report(attempt, "raised", faults.raised(failure))
            return
        self.channel.done(attempt)
        if attempt.order.on_ok == "report" and not attempt.abandoned:
            self.resolve(Value(value))
        self._summarise(attempt, self.work.plain(value))

    def _summarise(self, attempt: Attempt, shown: Any) -> None:
        summary = views.summarise(shown, self.channel.limits.view_bytes)
        self._report(attempt, "returned", None, summary)

    def raised(self, attempt: Attempt, error: BaseException) -> None:
        """The function raised. What is the framework's or the interpreter's own goes on untouched and at once."""
        attempt.error = error
        self.channel.done(attempt)
        state = self.work.passes(error)
        if state is not None or not isinstance(error, Exception):
            stopped = isinstance(error, asyncio.CancelledError)
            if not (stopped and attempt.abandoned):
                self.resolve(Raise(error))
            state = state or ("cancelled" if stopped else "raised")
        self._report(attempt, state or "raised", None if state == "returned" else faults.raised(error))

    def _report(
        self, attempt: Attempt, state: EndState, raised: wire.Raised | None, summary: views.Summary | None = None
    ) -> None:
        if self.channel.report(attempt.finished(state, raised, summary), attempt):
            self.end_alone()

    # ── what the gateway says ────────────────────────────────────────────────────────────────────────────────────

    def closed(self, frame: wire.Closed) -> None:
        """The call's one answer."""
        if frame.problem is not None:
            last = self.last
            error, value = (last.error, last.value) if last is not None and last.error is not None else (None, None)
            self.resolve(Problem(frame.problem, error, value))
        elif frame.use is None:
            self.resolve(Made(frame.result, frame.degraded))
        elif frame.use in self.attempts:
            self.resolve(Value(self.attempts[frame.use].value))
        else:
            self.resolve(Problem(problem(Code.INTERNAL, f"The sidecar named attempt {frame.use}, which never was.")))
        self.attempts.clear()

    def abandon(self, attempt: Attempt, code: Code, detail: str) -> None:
        """A running attempt was given up. A gateway that holds the call will answer; without one the caller is told
        here."""
        self.cancel(attempt)
        if self.orphaned:
            call, n = attempt.key
            told = problem(code, detail, outcome="unknown", retryable=False, call_id=call, attempts=n)
            self.resolve(Problem(told, attempt.error))

    def lose(self) -> None:
        """The connection broke. The channel holds the gate: what was pending is revoked already."""
        self.orphaned = True
        attempt = self.last
        if attempt is not None and attempt.state is State.RUNNING and not attempt.abandoned:
            return  # its own end will answer
        if attempt is not None and attempt.state is not State.REVOKED:
            self.end_alone()
        elif not self.sent:
            self.resolve(Unsent())
        else:
            self.resolve(Problem(self._lost_problem()))

    def end_alone(self) -> None:
        """No gateway holds this call: it ends with what the function really did."""
        attempt = self.last
        assert attempt is not None
        if attempt.error is None and attempt.state is State.DONE:
            self.channel.note_unrecorded(self.work.tool)
            self.resolve(Value(attempt.value))
            return
        call, n = attempt.key
        if attempt.error is None:
            detail = f"The connection to the sidecar broke while {self.work.tool} ran; it may still run."
            told = problem(Code.OUTCOME_UNKNOWN, detail, outcome="unknown", retryable=False, call_id=call, attempts=n)
        else:
            detail = f"{self.work.tool} failed: {type(attempt.error).__name__}: {faults.text_of(attempt.error)}"
            told = problem(
                Code.UPSTREAM_FAILED, detail, outcome="definite", retryable=False, call_id=call, attempts=n
            )
        self.resolve(Problem(told, attempt.error, attempt.value))

    def _lost_problem(self) -> dict[str, Any]:
        where = self.channel.surroundings.url
        if self.work.tool.startswith("local.") and self.work.framework_tool:
            detail = f"The sidecar at {where} went away before {self.work.tool} began; the function did not run."
            return problem(Code.SIDECAR_UNREACHABLE, detail, outcome="not_executed", attempts=0)
        detail = f"The sidecar at {where} went away while it worked on {self.work.tool}; the call may have run."
        return problem(Code.OUTCOME_UNKNOWN, detail, outcome="unknown", retryable=False)


class ThreadExchange(Exchange):
    """The caller is a thread that waits."""

    def __init__(self, channel: Channel, work: Work) -> None:
        super().__init__(channel, work)
        self._inbox: queue.SimpleQueue[Answer | Attempt] = queue.SimpleQueue()

    def _deliver(self, answer: Answer) -> None:
        self._inbox.put(answer)

    def schedule(self, attempt: Attempt) -> None:
        """A function without a timeout, or bound to its thread, runs where the caller waits: nothing is gained by
        another thread, and a handover costs."""
        if attempt.order.placement == "caller" or attempt.order.timeout_ms <= 0:
            self._inbox.put(attempt)
        else:
            self.channel.workers.submit(lambda: self.run_here(attempt))

    def wait(self) -> Answer:
        """The caller's thread: waits for the answer, and runs what must run here."""
        try:
            while True:
                item = self._inbox.get()
                if not isinstance(item, Attempt):
                    return item
                self.run_here(item)
        except BaseException:  # Ctrl-C while waiting
            self.channel.caller_left(self)
            raise


class LoopExchange(Exchange):
    """The caller is a task on an event loop."""

    def __init__(self, channel: Channel, work: Work) -> None:
        super().__init__(channel, work)
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer] = self._loop.create_future()

    def _deliver(self, answer: Answer) -> None:
        self._on_loop(self._settle, answer)

    def _settle(self, answer: Answer) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _on_loop(self, function: Callable[..., None], *args: Any) -> None:
        """Runs at once when this is the loop's thread. A loop that is closed has no caller that waits."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            function(*args)
            return
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return

    def schedule(self, attempt: Attempt) -> None:
        threaded = self.work.invoke is not None and attempt.order.placement != "caller"
        if threaded or self.work.ainvoke is None:
            self.channel.workers.submit(lambda: self.run_here(attempt))
        else:
            self._loop.call_soon_threadsafe(self._start, attempt)

    def _start(self, attempt: Attempt) -> None:
        if self.channel.begin(attempt):
            attempt.task = self._loop.create_task(self._run(attempt), context=attempt.context)

    async def _run(self, attempt: Attempt) -> None:
        assert self.work.ainvoke is not None
        INSIDE.set(self.inner(attempt))
        try:
            value = await self.work.ainvoke(attempt.order.args)
        except BaseException as error:
            self.raised(attempt, error)
        else:
            self.returned(attempt, value)

    def _summarise(self, attempt: Attempt, shown: Any) -> None:
        """A large result is read on a worker, never on the agent's loop."""
        if views.is_small(shown):
            super()._summarise(attempt, shown)
        else:
            self.channel.workers.submit(lambda: Exchange._summarise(self, attempt, shown))

    def cancel(self, attempt: Attempt) -> None:
        self._on_loop(self._cancel, attempt)

    def _cancel(self, attempt: Attempt) -> None:
        if attempt.task is not None:
            attempt.task.cancel()

    async def wait(self) -> Answer:
        """The caller's task. Cancelled: the sidecar is told, what runs is cancelled too and waited for."""
        try:
            return await asyncio.shield(self._answer)
        except asyncio.CancelledError:
            self.channel.caller_left(self)
            running = [one.task for one in self.attempts.values() if one.task is not None and not one.task.done()]
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
            raise

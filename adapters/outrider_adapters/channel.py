"""The one client of the data plane: who is under way, what may begin, what must still be told.

    open ─► exchanges (by ref) ─► execute ─► attempts (by call and number) ─► finished ─► spool ─► ack

One lock, the gate, guards all three tables, the word "up", and the step from "may begin" to "runs". It is held for
microseconds and never while something waits. ``process.py`` keeps the one channel of a process.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal

from outrider import wire
from outrider.errors import Code, problem
from outrider_adapters import frames
from outrider_adapters.environment import Surroundings
from outrider_adapters.exchange import Attempt, Exchange, State
from outrider_adapters.link import Gate, Link
from outrider_adapters.spool import Key, Spool
from outrider_adapters.work import Answer, Problem, Unsent
from outrider_adapters.workers import Workers

log = logging.getLogger("outrider")

EXIT_S = 2.0
"""The longest goodbye."""
STRANDED_S = 5.0
"""The longest that calls wait for their gateway to come back, whatever the environment says; below its own window."""
MAX_AHEAD = 8
"""How many results may be handed out before their calls are closed (``on_ok: report``). Without a bound a busy agent
would run ahead of its gateway, whose calls under way would pile up until it refuses."""
MAX_DECLARED = 5000
"""Tools of which it is remembered what the gateway was told."""
REDELIVERY_S = 0.5
"""How long after a welcome the answers that the gateway kept may take to arrive."""
Notify = Callable[[], None]


class Channel:
    """One session with the sidecar, over as many connections as it takes."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.frameworks: dict[str, str] = {}  # name → version
        self.limits = wire.Limits()
        self.workers = Workers()
        self.instance = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.session_key = secrets.token_hex(16)
        self.incarnation = ""
        self.inherited = False  # a forked child's copy of its parent's channel: it must say nothing
        self._random = random.Random()
        self._refs = itertools.count(1)
        self._named = False  # nobody told us who we are, and the gateway knows it by our token
        self._up = False
        self._trouble = ""
        self._down_since = time.monotonic()
        self._waiters: list[tuple[float, Notify]] = []
        self._exchanges: dict[str, Exchange] = {}
        self._stranded: dict[str, Exchange] = {}  # the connection broke; the gateway may still hold them
        self._left: list[str] = []  # refs whose callers left meanwhile
        self._ahead: set[str] = set()  # refs whose callers have their result before the gateway has closed them
        self._attempts: dict[Key, Attempt] = {}
        self._spool = Spool()
        self._greeted: set[Key] = set()  # ends that the last hello told
        self._said_unrecorded = False
        self._declared: dict[tuple[str, str], str] = {}  # agent and tool → the digest that this connection was told
        self._link = Link(surroundings, self)
        self._gate = Gate(self._link)

    def start(self) -> None:
        """Begin to connect, without waiting."""
        self._link.start()

    def mint(self) -> str:
        """An id for a run that its caller did not name. A generator of our own: a program may seed the shared one, and
        asking the system takes longer than all the rest of a call's opening."""
        return f"{self._random.getrandbits(128):032x}"

    @property
    def up(self) -> bool:
        return self._up

    @property
    def idle(self) -> bool:
        """Nothing is under way and nothing is left to tell."""
        return not (self._exchanges or self._stranded or self._attempts or len(self._spool))

    # ── calls (any thread) ───────────────────────────────────────────────────────────────────────────────────────

    def open(self, exchange: Exchange) -> Answer | None:
        """Send ``open``; None when that went well. ``Unsent`` when the channel is not up."""
        exchange.ref = f"{next(self._refs):x}"
        data = frames.encode_open(exchange, named=self._named, digest=self._news(exchange))
        if len(data) > self.limits.frame_bytes:
            detail = f"The arguments of {exchange.work.tool} take {len(data)} bytes; {self.limits.frame_bytes} may be."
            return Problem(problem(Code.TOO_LARGE, detail, outcome="not_executed", attempts=0))
        with self._gate:
            if not self._up:
                return Unsent()
            if len(self._exchanges) < self.limits.max_open and not self._spool.full:
                self._exchanges[exchange.ref] = exchange
                if len(self._declared) > MAX_DECLARED:
                    self._declared.clear()
                self._declared[exchange.agent, exchange.work.tool] = exchange.work.digest
                self._link.post(data, sending=exchange)
                return None
        detail = f"This process has {len(self._exchanges)} calls open and {len(self._spool)} ends to report."
        return Problem(problem(Code.OVERLOADED, detail, outcome="not_executed", attempts=0))

    def _news(self, exchange: Exchange) -> str:
        """The digest of the tool, where this connection was told another one, or none."""
        digest = exchange.work.digest
        return "" if self._declared.get((exchange.agent, exchange.work.tool)) == digest else digest

    def caller_left(self, exchange: Exchange) -> None:
        """The caller gave up: nothing more of this call begins, and the sidecar is told."""
        with self._gate:
            exchange.gone = True
            self._ahead.discard(exchange.ref)
            self._revoke(exchange.attempts.values())
            if self._exchanges.pop(exchange.ref, None) is not None and self._up:
                self._link.post(wire.encode_frame(wire.Cancel(exchange.ref)))
            elif self._stranded.pop(exchange.ref, None) is not None:
                self._left.append(exchange.ref)

    def begin(self, attempt: Attempt) -> bool:
        """The gate: whether the function may begin now. True is said once."""
        with self._gate:
            if attempt.state is not State.PENDING:
                return False
            if attempt.begin_by is not None and time.monotonic() > attempt.begin_by:
                self._revoke([attempt])
                return False
            attempt.state = State.RUNNING
            attempt.began = time.monotonic()
            return True

    def done(self, attempt: Attempt, *, well: bool) -> bool:
        """The function ended. It counts as running in a ``hello`` until its end is spooled. Whether its good result may
        be handed out before the gateway has closed the call."""
        with self._gate:
            attempt.state = State.DONE
            ahead = well and attempt.order.on_ok == "report" and not attempt.abandoned and len(self._ahead) < MAX_AHEAD
            if ahead:
                self._ahead.add(attempt.exchange.ref)
            return ahead

    def report(self, finished: wire.Finished, attempt: Attempt) -> bool:
        """Spool an attempt's end and send it. Whether its call has no gateway to answer it now."""
        if self.inherited:
            return False
        with self._gate:
            self._attempts.pop(attempt.key, None)
            self._tell(finished)
            if attempt.abandoned and self._up:
                self._link.post(wire.encode_frame(wire.Ended(*attempt.key)))
            return attempt.exchange.orphaned or not self._up

    def note_unrecorded(self, tool: str) -> None:
        """Say once that results are handed out that no ledger has yet."""
        if self._said_unrecorded:
            return
        self._said_unrecorded = True
        text = "the sidecar at %s is gone: the result of %s is real but not recorded; it is reported when one is back"
        log.warning(text, self.surroundings.url, tool)

    # ── waiting for a sidecar (any thread) ───────────────────────────────────────────────────────────────────────

    def enlist(self, notify: Notify) -> bool:
        """False: up. Else ``notify`` is called once, when that changes or when there is no use in waiting."""
        self._link.start()
        with self._gate:
            if self._up:
                return False
            self._waiters.append((time.monotonic(), notify))
        self._link.poke()
        return True

    def unreachable_problem(self) -> Problem:
        """What a call is told when no sidecar answers."""
        trouble = f" ({self._trouble})" if self._trouble else ""
        detail = (
            f"No Outrider sidecar answers at {self.surroundings.url}{trouble}, so the call was not begun. Start one "
            "with `outrider serve`, or set OUTRIDER_URL to where it listens."
        )
        return Problem(problem(Code.SIDECAR_UNREACHABLE, detail, outcome="not_executed", attempts=0))

    # ── what the link says (the link's thread) ───────────────────────────────────────────────────────────────────

    def hello(self) -> bytes:
        """The greeting: who this is, what still runs, what is not acked. Ends that do not fit follow the welcome, and
        count as running until then."""
        with self._gate:
            unacked, later = self._spool.split(self.limits.frame_bytes // 2)
            self._greeted = {(one.call, one.n) for one in unacked}
            running = [*self._attempts, *((one.call, one.n) for one in later)]
            opens = (*self._stranded, *self._left)
        me = frames.Myself(self.surroundings.agent, self.instance, self.session_key, self.frameworks)
        return frames.hello(me, running, unacked, opens)

    def welcome(self, frame: wire.Welcome) -> None:
        """Connected and greeted. Calls that the gateway still holds go on; of the others it may have kept the answer,
        which follows at once, unless this is another incarnation."""
        restarted = self.incarnation not in ("", frame.incarnation)
        if restarted:
            log.info("the sidecar at %s was restarted", self.surroundings.url)
        with self._gate:
            self.incarnation = frame.incarnation
            self._named = not self.surroundings.agent and frame.agent != frames.UNNAMED
            self.limits = frame.limits
            self._up = True
            self._said_unrecorded = False
            unknown = [ref for ref in self._stranded if ref not in frame.opens]
            for ref in [ref for ref in self._stranded if ref in frame.opens]:
                self._exchanges[ref] = self._stranded.pop(ref)
            for ref in [ref for ref in self._left if ref in frame.opens]:
                self._link.post(wire.encode_frame(wire.Cancel(ref)))
            self._left.clear()
            for finished in self._spool:
                if (finished.call, finished.n) not in self._greeted:
                    self._link.post(wire.encode_frame(finished))
            waiters, self._waiters = self._waiters, []
        if unknown:
            self._link.later(0.0 if restarted else REDELIVERY_S, self._orphan, unknown)
        for _, notify in waiters:
            notify()

    def lost(self) -> None:
        """The connection broke: nothing that has not begun begins, and open calls have a moment to be taken up again
        by the same gateway, before they end with what is known here."""
        with self._gate:
            if not self._up:
                return
            self._up = False
            self._down_since = time.monotonic()
            self._declared.clear()
            exchanges, self._exchanges = self._exchanges, {}
            self._stranded.update(exchanges)
            self._revoke(self._attempts.values())
        for exchange in exchanges.values():
            exchange.strand()
        self._link.later(min(self.surroundings.connect_wait_s, STRANDED_S), self._orphan, list(exchanges))

    def _orphan(self, refs: list[str]) -> None:
        """No gateway answers these any more."""
        with self._gate:
            self._ahead.difference_update(refs)
            orphans = [self._stranded.pop(ref) for ref in refs if ref in self._stranded]
        for exchange in orphans:
            exchange.orphan()

    def unreachable(self, attempt_began: float, trouble: str, fatal: bool) -> bool:
        """One more try failed. Who waited through a whole one, after a time of grace, waited enough; whether there are
        others who still wait."""
        if trouble != self._trouble:
            log.warning("not connected to the sidecar at %s: %s", self.surroundings.url, trouble)
        with self._gate:
            self._trouble = trouble
            hopeless = fatal or time.monotonic() - self._down_since >= self.surroundings.connect_wait_s
            told = [one for one in self._waiters if hopeless and one[0] <= attempt_began]
            self._waiters = [one for one in self._waiters if one not in told]
            others = bool(self._waiters)
        for _, notify in told:
            notify()
        return others

    def receive(self, frame: wire.FromGateway) -> None:
        """One frame of the gateway. A greeting in the middle of a session is none."""
        match frame:
            case wire.Execute():
                self._execute(frame)
            case wire.Closed():
                exchange = self._drop(frame.ref)
                if exchange is not None:
                    exchange.closed(frame)
            case wire.Abort():
                self._abort(frame)
            case wire.Ack():
                with self._gate:
                    self._spool.ack((frame.call, frame.n), frame.state)
            case wire.ProblemFrame():
                self._problem(frame)
            case wire.Lifecycle(agent=""):
                log.info("the sidecar says: %s %s", frame.state, frame.reason)
            case wire.Lifecycle():
                log.warning("agent %s is %s: %s", frame.agent, frame.state, frame.reason or "by a person's word")

    def _drop(self, ref: str) -> Exchange | None:
        with self._gate:
            self._ahead.discard(ref)
            return self._exchanges.pop(ref, None) or self._stranded.pop(ref, None)

    def _execute(self, frame: wire.Execute) -> None:
        key = (frame.call, frame.n)
        with self._gate:
            if key in self._attempts:
                return  # told twice: it is under way
            exchange = self._exchanges.get(frame.ref)
            if self._spool.is_over(key):
                word = self._spool.word_on(key)
                if word is not None:
                    self._tell(word)
                return
            if exchange is None or exchange.gone or exchange.answered:
                self._tell(wire.Finished(*key, state="not_started"))
                return
            begin_by = time.monotonic() + frame.start_by_ms / 1000 if frame.start_by_ms > 0 else None
            attempt = Attempt(exchange, frame, exchange.context.copy(), begin_by)
            exchange.attempts[frame.n] = self._attempts[key] = attempt
        try:
            if exchange.schedule(attempt) and begin_by is not None:
                attempt.timers.append(self._link.later(frame.start_by_ms / 1000, self._begin_by_passed, attempt))
        except RuntimeError as error:  # no thread to be had, or the agent's loop is closed
            log.warning("%s cannot begin here: %s", exchange.work.tool, error)
            with self._gate:
                self._revoke([attempt])
        if attempt.limit_s > 0:
            attempt.timers.append(self._link.later(attempt.limit_s, self._limit_passed, attempt))

    def _abort(self, frame: wire.Abort) -> None:
        key = (frame.call, frame.n)
        with self._gate:
            attempt = self._attempts.get(key)
            state = self._abort_state(key, attempt)
            if attempt is not None and state == "running":
                attempt.abandoned, attempt.why = True, frame.reason
            self._link.post(wire.encode_frame(wire.Aborted(*key, state=state)), urgent=True)
            if attempt is None and state == "not_started":
                self._spool.close(key, never_began=True)
            elif attempt is not None:
                self._revoke([attempt])  # spooled too: the proof outlives a broken connection
        if attempt is not None and state == "running":
            detail = f"{attempt.exchange.work.tool} was stopped ({frame.reason}); it may have run."
            attempt.exchange.abandon(attempt, Code.KILLED if attempt.killed else Code.OUTCOME_UNKNOWN, detail)

    def _abort_state(self, key: Key, attempt: Attempt | None) -> Literal["not_started", "running", "done"]:
        """``not_started`` is a proof: the key is remembered, so that an execute that comes late begins nothing."""
        if attempt is None:
            return "done" if self._spool.is_over(key) else "not_started"
        if attempt.state is State.PENDING:
            return "not_started"
        return "running" if attempt.state is State.RUNNING else "done"

    def _problem(self, frame: wire.ProblemFrame) -> None:
        if not frame.ref:
            log.error("the sidecar says: %s", frame.problem.get("detail", frame.problem))
            return
        exchange = self._drop(frame.ref)
        if exchange is not None:
            exchange.resolve(Problem(frame.problem))

    def _begin_by_passed(self, attempt: Attempt) -> None:
        with self._gate:
            self._revoke([attempt])

    def _limit_passed(self, attempt: Attempt) -> None:
        """The gateway's own timer should have stopped this long ago; it did not, or there is none any more."""
        with self._gate:
            if attempt.state is not State.RUNNING or attempt.is_parent or attempt.abandoned:
                return
            attempt.abandoned = True
            self._tell(attempt.finished("timed_out", None, None))
        detail = f"{attempt.exchange.work.tool} did not end within {attempt.order.timeout_ms} ms; it may still run."
        attempt.exchange.abandon(attempt, Code.OUTCOME_UNKNOWN, detail)

    # ── under the gate ───────────────────────────────────────────────────────────────────────────────────────────

    def _revoke(self, attempts: Iterable[Attempt]) -> None:
        """What is pending never begins, and that is told."""
        for attempt in [one for one in attempts if one.state is State.PENDING]:
            attempt.state = State.REVOKED
            self._attempts.pop(attempt.key, None)
            self._tell(attempt.finished("not_started", None, None))

    def _tell(self, finished: wire.Finished) -> None:
        finished = self._spool.put(finished)
        if self._up:
            self._link.post(wire.encode_frame(finished))

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self, timeout_s: float = EXIT_S, reason: str = "exit") -> None:
        """Tell what is left to tell, say goodbye; at most ``timeout_s``."""
        if self.inherited:
            return
        until = time.monotonic() + timeout_s
        while self._up and self._ending and time.monotonic() < until:
            time.sleep(0.005)
        if self._up:
            self._link.post(wire.encode_frame(wire.Bye(reason)))
            self._link.flush()
        self._link.stop(max(0.05, until - time.monotonic()))

    @property
    def _ending(self) -> bool:
        """Something has ended that is not told and acked yet."""
        return len(self._spool) > 0 or any(one.state is State.DONE for one in list(self._attempts.values()))

    def forsake(self) -> None:
        """In a forked child: let go of the parent's connection without a word. ``/dev/null`` takes the descriptor's
        place: the parent's connection then ends with the parent, and no descriptor is ever closed twice."""
        self.inherited = True
        with suppress(OSError):
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in self._link.descriptors:
                os.dup2(null, descriptor)
            os.close(null)

"""In-process attempts over a connection that breaks: a model of an adapter, a ledger and a pipeline around the driver.

The adapter's model is a process that lives for the whole run; the sidecar may be restarted. Frames travel in order, one
at a time, and are lost when the connection breaks. Time is virtual.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import looptime
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from outrider.calls import Agent, Attempt, Call, Effect, Outcome, OutcomeKind
from outrider.policy.plans import Limits, Plan, Upstream
from outrider.upstreams.local import LocalUpstream
from outrider.wire import Abort, Aborted, Ack, Ended, Execute, Finished, FromAdapter, FromGateway, Raised

Pair = tuple[str, int]
PLAN = Plan("local.search", Upstream("local"))
KIND_OF = {"returned": OutcomeKind.OK, "raised": OutcomeKind.DEFINITE, "not_started": OutcomeKind.NOT_EXECUTED}
UNKNOWN, NOT_EXECUTED = OutcomeKind.UNKNOWN, OutcomeKind.NOT_EXECUTED
UNENDED = ("pending", "running", "ending")
KILL_S, SUSPECT_S = 2.0, 30.0
TROUBLES = ["break", "back", "back", "over", "wait", "wait long", "ledger", "restart"]
ORDINARY = ["call", "call", "move", "move", "move", "arrive", "arrive", "stop", "record", "repeat"]
MOVES = st.tuples(
    st.sampled_from([*ORDINARY, "trouble"]),
    st.integers(0, 7),
    st.sampled_from(["returned", "raised", "cancelled", "timed_out"]),
)
"""What is moved, which of the candidates, and how."""


@dataclass
class Function:
    """An attempt in the adapter: pending, running, ending (its end is not told yet, but will be), done or revoked."""

    state: str = "pending"
    how: str = ""
    abandoned: bool = False


@dataclass
class Adapter:
    """The far process: the functions it was told to run, the ends not acked, and what never begins any more."""

    revokes: bool  # whether what has not begun is revoked when the connection breaks
    up: bool = False
    functions: dict[Pair, Function] = field(default_factory=dict)
    spool: dict[Pair, Finished] = field(default_factory=dict)
    truth: dict[Pair, OutcomeKind] = field(default_factory=dict)
    inbox: deque[FromGateway] = field(default_factory=deque)
    outbox: deque[FromAdapter] = field(default_factory=deque)

    def say(self, frame: FromAdapter) -> None:
        if self.up:
            self.outbox.append(frame)

    def spool_end(self, frame: Finished) -> None:
        self.spool[frame.call, frame.n] = frame
        self.say(frame)

    def hear(self, frame: FromGateway) -> None:
        if isinstance(frame, Execute):
            self.functions.setdefault((frame.call, frame.n), Function())
        elif isinstance(frame, Abort):
            self.say(Aborted(frame.call, frame.n, self.abort(frame)))  # type: ignore[arg-type]
        elif isinstance(frame, Ack):
            spooled = self.spool.get((frame.call, frame.n))
            if spooled is not None and spooled.state == frame.state:
                del self.spool[frame.call, frame.n]

    def abort(self, frame: Abort) -> str:
        function = self.functions.setdefault((frame.call, frame.n), Function("revoked"))
        if function.state in ("pending", "revoked"):
            function.state = "revoked"
            return "not_started"
        function.abandoned |= function.state == "running"
        return "running" if function.state == "running" else "done"

    def break_off(self) -> None:
        self.up = False
        self.inbox.clear()
        self.outbox.clear()
        for pair, function in self.functions.items():
            if self.revokes and function.state == "pending":
                function.state = "revoked"
                self.truth[pair] = NOT_EXECUTED
                self.spool_end(Finished(*pair, "not_started"))

    def unended(self) -> set[Pair]:
        return {pair for pair, function in self.functions.items() if function.state in UNENDED}


@dataclass
class Ledger:
    """Ends and later truths by attempt; ``open`` are those a former incarnation left."""

    started: set[Pair] = field(default_factory=set)
    ends: dict[Pair, list[OutcomeKind]] = field(default_factory=dict)
    settled: dict[Pair, list[OutcomeKind]] = field(default_factory=dict)
    left_open: set[Pair] = field(default_factory=set)
    down: bool = False

    def end(self, pair: Pair, kind: OutcomeKind) -> None:
        assert pair in self.started
        self.ends.setdefault(pair, []).append(kind)
        self.left_open.discard(pair)

    def knows(self, pair: Pair, kind: OutcomeKind) -> bool:
        return kind in (*self.ends.get(pair, ()), *self.settled.get(pair, ()))


class ChannelMachine(RuleBasedStateMachine):
    """Rules leave work in flight on purpose; ``teardown`` brings everything to rest and looks at what is left."""

    id = "s-1"
    instance = "i1"

    @initialize(revokes=st.booleans())
    def begin(self, revokes: bool) -> None:
        self.loop = looptime.new_event_loop()
        self.adapter = Adapter(revokes)
        self.ledger = Ledger()
        self.sessions = 0
        self.calls: dict[str, int] = {}
        self.proven: set[Pair] = set()
        self.heard: dict[Pair, OutcomeKind] = {}
        self.start_sidecar()
        self.reconnect()

    def start_sidecar(self) -> None:
        self.tasks: dict[Pair, asyncio.Task[Outcome]] = {}
        self.attempts: dict[Pair, Attempt] = {}
        self.told: dict[Pair, Outcome] = {}
        self.recorded: set[Pair] = set()
        self.stopping: set[Pair] = set()
        self.let_go: set[Pair] = set()
        self.local = LocalUpstream(
            limits=lambda: Limits(suspect_s=SUSPECT_S),
            abort_timeout_s=lambda: KILL_S,
            settled=self.settle,
            gave_up=self.gave_up,
        )

    # ── what the driver calls ────────────────────────────────────────────────────────────────────────────────────

    def push(self, frame: FromGateway) -> bool:
        if not self.adapter.up:
            return False
        if isinstance(frame, Execute):
            assert (frame.call, frame.n) not in self.proven, "executed after the proof that it never will be"
        if isinstance(frame, Ack):
            pair = (frame.call, frame.n)
            assert self.ledger.ends.get(pair), "acked before its end was durable"
            told = KIND_OF.get(frame.state)
            first_wins = self.ledger.ends[pair][0] is not UNKNOWN or bool(self.ledger.settled.get(pair))
            assert told is None or first_wins, "acked before its truth was durable"
        self.adapter.inbox.append(frame)
        return True

    def ref_of(self, call_id: str) -> str:
        return call_id

    async def settle(self, call_id: str, n: int, outcome: Outcome) -> None:
        pair = (call_id, n)
        await asyncio.sleep(0.01)
        if self.ledger.down:
            raise OSError("the disk is full")
        assert pair in self.ledger.started
        if pair in self.ledger.left_open:
            self.ledger.end(pair, outcome.kind)
            return
        ends = self.ledger.ends.get(pair)
        assert ends, "settled before the end that it settles"
        assert outcome.kind is not UNKNOWN, "no news was written where the truth belongs"
        if ends[0] is UNKNOWN and outcome.kind is not UNKNOWN and not self.ledger.settled.get(pair):
            self.ledger.settled.setdefault(pair, []).append(outcome.kind)

    def gave_up(self, call_id: str, n: int) -> None:
        assert (call_id, n) in self.ledger.left_open
        self.ledger.end((call_id, n), UNKNOWN)

    # ── the pipeline ─────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self, seconds: float = 0.0) -> None:
        """Let everything that is ready run; virtual time passes only as asked."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))
        for pair, task in self.tasks.items():
            if task.done() and not task.cancelled() and pair not in self.told:
                self.hear_outcome(pair, task.result())

    def do(self, deed: Callable[..., Any], *args: Any) -> None:
        """Call the driver on the loop, as the channel does."""

        async def on_loop() -> Any:
            return deed(*args)

        assert self.loop.run_until_complete(on_loop()) in (None, True)
        self.turn()

    def hear_outcome(self, pair: Pair, outcome: Outcome) -> None:
        self.told[pair] = outcome
        if not self.attempts[pair].sent:
            self.ledger.started.discard(pair)
            return
        if outcome.kind is NOT_EXECUTED:
            self.proven.add(pair)

    @rule(moves=st.lists(MOVES, min_size=1, max_size=12))
    def work(self, moves: list[tuple[str, int, str]]) -> None:
        """A stretch of ordinary life. A move that finds nothing to move does nothing."""
        for what, which, how in moves:
            getattr(self, what)(which, how)
            self.look()

    def call(self, which: int, how: str) -> None:
        """A new call, or the next attempt of one; mostly its function begins at once."""
        again = [call_id for call_id, n in self.calls.items() if (call_id, n) in self.told]
        call_id = again[which % len(again)] if how == "raised" and again else f"c{len(self.calls) + 1}"
        pair = (call_id, self.calls.get(call_id, 0) + 1)
        self.send(*pair)
        if which:
            self.exchange(len(self.adapter.inbox), 0)
        if which > 2 and pair in self.functions("pending"):
            self.begin_function(pair)

    def send(self, call_id: str, n: int) -> None:
        self.calls[call_id] = n
        pair = (call_id, n)
        call = Call(call_id, "local.search", {}, Agent("a", instance=self.instance), origin=self.id)
        attempt = self.attempts[pair] = Attempt(call, n, call.tool, Effect.WRITE)
        self.ledger.started.add(pair)
        self.tasks[pair] = self.loop.create_task(self.local.send(attempt, PLAN, 8.0))
        self.turn()

    def waiting(self) -> list[Pair]:
        return sorted(pair for pair, task in self.tasks.items() if not task.done())

    def stop(self, which: int, how: str) -> None:
        """A kill or a timeout: the wait is cancelled, and the driver is asked what is known."""
        waiting = [pair for pair in self.waiting() if pair not in self.stopping]
        if not waiting:
            return
        pair = waiting[which % len(waiting)]
        sending = self.tasks[pair]
        self.stopping.add(pair)

        async def interrupt() -> Outcome:
            sending.cancel()
            await asyncio.wait({sending})
            if not sending.cancelled():
                return sending.result()
            return await self.local.stopped(self.attempts[pair], PLAN, "timeout" if how == "timed_out" else "killed")

        self.tasks[pair] = self.loop.create_task(interrupt())
        self.turn()

    def record(self, which: int, how: str) -> None:
        """The ledger commits an end."""
        unrecorded = self.unrecorded()
        if unrecorded and not self.ledger.down:
            self.record_one(unrecorded[which % len(unrecorded)])

    def unrecorded(self) -> list[Pair]:
        return sorted(pair for pair in self.told if pair not in self.recorded and self.attempts[pair].sent)

    def record_one(self, pair: Pair) -> None:
        self.recorded.add(pair)
        self.ledger.end(pair, self.told[pair].kind)
        self.do(self.local.recorded, *pair)

    # ── the process ──────────────────────────────────────────────────────────────────────────────────────────────

    def functions(self, *states: str) -> list[Pair]:
        return sorted(pair for pair, one in self.adapter.functions.items() if one.state in states)

    def move(self, which: int, how: str) -> None:
        """A function that is pending begins or is too late to begin; one that runs ends, or is given up waiting for."""
        unended = self.functions(*UNENDED)
        if not unended:
            return
        pair = unended[which % len(unended)]
        function = self.adapter.functions[pair]
        if function.state == "ending":
            self.tell_end(pair)
        elif function.state == "running":
            self.give_up_waiting(pair) if how == "timed_out" else self.end_function(pair, how, at_once=which < 6)
        elif how == "timed_out":
            self.come_too_late(pair)
        else:
            self.begin_function(pair)

    def begin_function(self, pair: Pair) -> None:
        assert pair not in self.proven, "begun after the proof that it never would"
        self.adapter.functions[pair].state = "running"

    def come_too_late(self, pair: Pair) -> None:
        self.adapter.functions[pair].state = "revoked"
        self.adapter.truth[pair] = NOT_EXECUTED
        self.adapter.spool_end(Finished(*pair, "not_started"))

    def end_function(self, pair: Pair, how: str, *, at_once: bool = True) -> None:
        function = self.adapter.functions[pair]
        function.state, function.how = "ending", how
        self.adapter.truth[pair] = KIND_OF.get(how, UNKNOWN)
        if at_once:
            self.tell_end(pair)

    def tell_end(self, pair: Pair) -> None:
        function = self.adapter.functions[pair]
        function.state, how = "done", cast(Any, function.how)
        raised = Raised("builtins.ValueError", mro=("builtins.ValueError",)) if how == "raised" else None
        self.adapter.spool_end(Finished(*pair, how, raised, view=how))
        if function.abandoned:
            self.adapter.say(Ended(*pair))

    def give_up_waiting(self, pair: Pair) -> None:
        self.adapter.functions[pair].abandoned = True
        self.adapter.spool_end(Finished(*pair, "timed_out"))

    def repeat(self, which: int, how: str) -> None:
        """The adapter tells an end again."""
        spool = list(self.adapter.spool.values())
        if spool:
            self.adapter.say(spool[which % len(spool)])

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────

    def arrive(self, which: int, how: str) -> None:
        """Frames reach the adapter, the gateway, or both."""
        self.exchange(0 if how == "raised" else which + 1, 0 if how == "timed_out" else which + 1)

    def exchange(self, down: int, up: int) -> None:
        """So many frames reach the adapter, then so many reach the gateway."""
        for _ in range(min(down, len(self.adapter.inbox))):
            self.adapter.hear(self.adapter.inbox.popleft())
        for _ in range(min(up, len(self.adapter.outbox))):
            self.hear(self.adapter.outbox.popleft())

    def hear(self, frame: FromAdapter) -> None:
        if isinstance(frame, Finished):
            self.note_heard(frame)
            self.do(self.local.finished, self, frame)
        elif isinstance(frame, Aborted):
            self.do(self.local.aborted, self, frame)
            if frame.state == "not_started":
                self.proven.add((frame.call, frame.n))
        elif isinstance(frame, Ended):
            self.do(self.local.ended, self, frame)

    def note_heard(self, frame: Finished) -> None:
        """The first end that is heard while the pipeline waits is what it must be told."""
        pair = (frame.call, frame.n)
        task = self.tasks.get(pair)
        if task is not None and not task.done():
            self.heard.setdefault(pair, KIND_OF.get(frame.state, UNKNOWN))

    def trouble(self, which: int, how: str) -> None:
        """The connection breaks, the process is back, the window passes, time does, the ledger fails or recovers, the
        sidecar is killed and started again."""
        what = TROUBLES[which]
        if what == "break" and self.adapter.up:
            self.adapter.break_off()
            self.do(self.local.lost, self.id)
        elif what == "back" and not self.adapter.up:
            self.reconnect()
        elif what == "over" and not self.adapter.up:
            self.let_go |= set(self.attempts)
            self.do(self.local.over, self.id)
        elif what == "ledger":
            self.ledger.down = not self.ledger.down
        elif what == "restart" and not self.ledger.down:
            self.restart()
        elif what.startswith("wait"):
            self.turn(40.0 if what == "wait long" else 2.5)

    def reconnect(self) -> None:
        self.adapter.up = True
        unacked = tuple(self.adapter.spool.values())
        for frame in unacked:
            self.note_heard(frame)
        self.do(self.local.connected, self, self.adapter.unended(), unacked)

    def restart(self) -> None:
        """What was told and not recorded is lost; the ledger says what was left open."""
        self.adapter.break_off()
        for task in [*self.tasks.values(), *asyncio.all_tasks(self.loop)]:
            task.cancel()
        self.turn()
        self.ledger.left_open |= {pair for pair in self.ledger.started if not self.ledger.ends.get(pair)}
        self.heard.clear()
        self.loop.run_until_complete(self.local.close())
        self.start_sidecar()
        self.do(self.local.recover, dict.fromkeys(self.ledger.left_open, self.instance))

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def look(self) -> None:
        self.every_attempt_has_at_most_one_end_and_one_later_truth()
        self.what_is_said_is_true()
        self.the_first_finished_wins()
        self.a_function_that_runs_on_holds_its_slot()

    def every_attempt_has_at_most_one_end_and_one_later_truth(self) -> None:
        assert all(len(ends) == 1 for ends in self.ledger.ends.values())
        assert all(len(truths) == 1 for truths in self.ledger.settled.values())

    def what_is_said_is_true(self) -> None:
        """Not executed is a proof, ok and definite are what the function did, for ends and for later truths."""
        for told in (self.ledger.ends, self.ledger.settled):
            for pair, kinds in told.items():
                function = self.adapter.functions.get(pair)
                if kinds[0] is NOT_EXECUTED:
                    assert function is None or function.state == "revoked"
                elif kinds[0] is not UNKNOWN:
                    assert self.adapter.truth[pair] is kinds[0]

    def the_first_finished_wins(self) -> None:
        for pair, kind in self.heard.items():
            if pair in self.told:
                assert self.told[pair].kind is kind

    def a_function_that_runs_on_holds_its_slot(self) -> None:
        """As long as its process is not given up."""
        for pair in self.functions("running"):
            if pair in self.told and pair not in self.let_go:
                running = self.attempts[pair].still_running
                assert running is not None and not running.done()

    def teardown(self) -> None:
        """Everything comes to rest: nothing that happened is lost, nothing is held, nothing waits."""
        if not hasattr(self, "loop"):
            return
        try:
            self.come_to_rest()
            self.look_at_the_end()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(self.local.close())
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    def come_to_rest(self) -> None:
        self.ledger.down = False
        if not self.adapter.up:
            self.reconnect()
        for _ in range(4):
            self.exchange_everything()
            for pair in self.functions("pending"):
                self.begin_function(pair)
            for pair in self.functions("running"):
                self.end_function(pair, "returned", at_once=False)
            for pair in self.functions("ending"):
                self.tell_end(pair)
            self.exchange_everything()
            self.turn(KILL_S + SUSPECT_S + 60)

    def exchange_everything(self) -> None:
        while self.adapter.inbox or self.adapter.outbox:
            self.exchange(len(self.adapter.inbox), 0)
            self.exchange(0, len(self.adapter.outbox))
        for pair in self.unrecorded():
            self.record_one(pair)
        self.turn(60)

    def look_at_the_end(self) -> None:
        assert not self.waiting()
        assert not self.adapter.spool, "an end was never acked"
        assert not self.local.holds(self.id)
        assert set(self.ledger.ends) == self.ledger.started, "every start has exactly one end"
        for pair, truth in self.adapter.truth.items():
            if truth is not UNKNOWN:
                assert self.ledger.knows(pair, truth), "what happened was lost"
        for attempt in self.attempts.values():
            assert attempt.still_running is None or attempt.still_running.done(), "a slot is held for ever"


TestChannelMachine = ChannelMachine.TestCase
TestChannelMachine.settings = settings(stateful_step_count=20)  # a step is up to twelve moves

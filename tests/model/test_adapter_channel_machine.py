"""The adapter's channel as a state machine: executes, aborts, starts, ends, lost connections and restarts of the
sidecar, in any order. The link is a list of frames; nothing here waits.

Kept in every state: a function begins at most once for each attempt, never after it was proven not to; an end that was
not acked is told again; no attempt is forgotten by a greeting; and in the end every call has exactly one answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from outrider import wire
from outrider.errors import Code, problem
from outrider_adapters import channel as channel_module
from outrider_adapters.environment import Surroundings
from outrider_adapters.exchange import Attempt, Exchange, State
from outrider_adapters.work import Answer, Unsent, Value, Work

Key = tuple[str, int]


class Timer:
    def __init__(self, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.action, self.args, self.cancelled = action, args, False

    def cancel(self) -> None:
        self.cancelled = True


class Paper:
    """A link on paper: what was posted, and timers that the machine lets pass."""

    def __init__(self, surroundings: Surroundings, peer: Any) -> None:
        self.posted: list[wire.FromAdapter] = []
        self.timers: list[Timer] = []
        self.descriptors: tuple[int, ...] = ()
        self.up = False

    def start(self) -> None: ...

    def post(self, data: bytes, *, sending: Any = None, urgent: bool = False) -> None:
        if not self.up:
            return
        if sending is not None:
            sending.sent = True
        self.posted.append(wire.decode_from_adapter.decode(data))

    def flush(self) -> None: ...

    def poke(self) -> None: ...

    def later(self, delay_s: float, action: Callable[..., None], *args: Any) -> Timer:
        self.timers.append(Timer(action, args))
        return self.timers[-1]


class Patient(Exchange):
    """A call whose function begins when the machine says so."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.answers: list[Answer] = []
        self.began: list[Key] = []

    def _deliver(self, answer: Answer) -> None:
        self.answers.append(answer)

    def schedule(self, attempt: Attempt) -> bool:
        return True


class ChannelMachine(RuleBasedStateMachine):
    """The gateway's side is played by the rules; ``held`` is what it holds of each call."""

    exchanges = Bundle("exchanges")
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        patch = pytest.MonkeyPatch()
        patch.setattr(channel_module, "Link", Paper)
        self.channel = channel_module.Channel(Surroundings(token="t"))
        patch.undo()
        self.link: Paper = self.channel._link  # type: ignore[assignment]
        self.all: list[Patient] = []
        self.known: dict[Key, Attempt] = {}
        self.incarnation = 1
        self.calls = 0
        self.disproved: set[Key] = set()
        self.ended: dict[Key, str] = {}
        self.acked: set[Key] = set()
        self.connect(restarted=False)

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────

    def connect(self, restarted: bool) -> None:
        hello = wire.decode_from_adapter.decode(self.channel.hello())
        assert isinstance(hello, wire.Hello)
        self.check_greeting(hello)
        self.link.up = True
        held = () if restarted else hello.opens
        self.channel.welcome(wire.Welcome(1, f"i{self.incarnation}", "agent", opens=tuple(held)))

    def check_greeting(self, hello: wire.Hello) -> None:
        running = {(one.call, one.n) for one in hello.running}
        unacked = {(one.call, one.n): one.state for one in hello.unacked}
        for key, attempt in self.known.items():
            if attempt.state is State.RUNNING:
                assert key in running, "what runs must not look lost"
        for key, state in self.ended.items():
            if key not in self.acked:
                assert unacked.get(key) == state or key in running, "an end that nobody acked must be told again"
        for key in self.disproved - self.acked:
            assert unacked.get(key) == "not_started", "a proof outlives its connection"

    @rule(restarted=st.booleans())
    def break_and_come_back(self, restarted: bool) -> None:
        """The connection breaks, some moments pass or not, and the same sidecar or its successor is there."""
        self.link.up = False
        self.channel.lost()
        self.note_revoked()
        self.incarnation += restarted
        self.connect(restarted)

    @rule()
    def break_for_long(self) -> None:
        """Every timer passes before anyone is back."""
        self.link.up = False
        self.channel.lost()
        self.note_revoked()
        self.pass_time()
        self.incarnation += 1
        self.connect(restarted=True)

    @rule()
    def pass_time(self) -> None:
        timers, self.link.timers = self.link.timers, []
        for timer in timers:
            if not timer.cancelled:
                timer.action(*timer.args)
        self.note_revoked()

    def note_revoked(self) -> None:
        for key, attempt in self.known.items():
            if attempt.state is State.REVOKED:
                self.disproved.add(key)

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(target=exchanges)
    def open(self) -> Patient:
        exchange = Patient(self.channel, Work("local.work", {}, run="r"))
        refused = self.channel.open(exchange)
        assert refused is None
        self.all.append(exchange)
        return exchange

    @rule(target=attempts, exchange=exchanges, again=st.booleans(), report=st.booleans())
    def execute(self, exchange: Patient, again: bool, report: bool) -> Key:
        """An order for a new attempt of a call, or the same one told twice."""
        call, n = f"call-{exchange.ref}", max(exchange.attempts, default=0) + (not again)
        key = (call, max(1, n))
        fresh = key not in self.known
        on_ok = "report" if report else "await"
        before = len(self.link.posted)
        self.channel.receive(
            wire.Execute(exchange.ref, *key, start_by_ms=1000, timeout_ms=1000, on_ok=on_ok)  # type: ignore[arg-type]
        )
        attempt = exchange.attempts.get(key[1])
        if fresh and attempt is not None:
            self.known[key] = attempt
        told = [
            one.state
            for one in self.link.posted[before:]
            if isinstance(one, wire.Finished) and (one.call, one.n) == key
        ]
        if fresh and attempt is None:
            assert told == ["not_started"], "an order that is not followed is answered"
            self.disproved.add(key)
            self.acked.discard(key)
        if key in self.ended:
            assert set(told) <= {self.ended[key]}, "an end is never taken back"
        return key

    @rule(key=attempts)
    def begin(self, key: Key) -> None:
        attempt = self.known.get(key)
        if attempt is None:
            return
        exchange = attempt.exchange
        assert isinstance(exchange, Patient)
        if self.channel.begin(attempt):
            assert key not in exchange.began, "a function begins once"
            assert key not in self.disproved, "what was proven not to begin has begun"
            exchange.began.append(key)

    @rule(key=attempts, worked=st.booleans())
    def end(self, key: Key, worked: bool) -> None:
        attempt = self.known.get(key)
        if attempt is None or attempt.state is not State.RUNNING:
            return
        if worked:
            attempt.exchange.returned(attempt, key)
        else:
            attempt.exchange.raised(attempt, OSError("no"))
        self.ended[key] = "returned" if worked else "raised"
        self.acked.discard(key)

    @rule(key=attempts)
    def abort(self, key: Key) -> None:
        before = len(self.link.posted)
        attempt = self.known.get(key)
        running = attempt is not None and attempt.state is State.RUNNING
        self.channel.receive(wire.Abort(*key, reason="killed"))
        (answer,) = [one for one in self.link.posted[before:] if isinstance(one, wire.Aborted)]
        assert (answer.state == "running") == running
        if answer.state == "not_started" and attempt is not None:
            assert attempt.state is State.REVOKED
            self.disproved.add(key)
        if answer.state == "done":
            assert key in self.ended or key in self.disproved or key in self.acked

    @rule(key=attempts)
    def ack(self, key: Key) -> None:
        """The gateway acks what it was told last of this attempt."""
        told = [one for one in self.link.posted if isinstance(one, wire.Finished) and (one.call, one.n) == key]
        if told:
            self.channel.receive(wire.Ack(*key, told[-1].state))
            if self.ended.get(key, "not_started") == told[-1].state:
                self.acked.add(key)

    @rule(exchange=consumes(exchanges), ok=st.booleans())
    def close(self, exchange: Patient, ok: bool) -> None:
        """The gateway's answer; with a value only of an attempt that returned."""
        call = f"call-{exchange.ref}"
        good = [n for n in exchange.attempts if self.ended.get((call, n)) == "returned"]
        if ok and good:
            self.channel.receive(wire.Closed(exchange.ref, call, "ok", use=good[-1]))
        else:
            told = problem(Code.UPSTREAM_FAILED, "failed")
            self.channel.receive(wire.Closed(exchange.ref, call, "definite", problem=told))

    @rule(exchange=exchanges)
    def leave(self, exchange: Patient) -> None:
        """The caller goes away without an answer."""
        if not exchange.answered:
            self.channel.caller_left(exchange)
            exchange.resolve(Unsent())
            self.note_revoked()

    # ── always ───────────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def one_answer_at_most(self) -> None:
        for exchange in self.all:
            assert len(exchange.answers) <= 1

    @invariant()
    def a_value_is_the_functions_own(self) -> None:
        for exchange in self.all:
            for answer in exchange.answers:
                if isinstance(answer, Value):
                    assert answer.value in exchange.began

    def teardown(self) -> None:
        """Whatever was under way: with no sidecar ever again and every function ended, each call is answered."""
        self.link.up = False
        self.channel.lost()
        self.pass_time()
        for key, attempt in self.known.items():
            if attempt.state is State.RUNNING:
                attempt.exchange.returned(attempt, key)
        self.pass_time()
        for exchange in self.all:
            assert len(exchange.answers) == 1, "a caller waits for ever"


TestChannelMachine = ChannelMachine.TestCase
TestChannelMachine.settings = settings(max_examples=150, stateful_step_count=50)

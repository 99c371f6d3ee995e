"""What people command of agents as a state machine: people, automation, heartbeats, a ledger that fails or hangs, and
SIGKILL, all in any order.

Kept: what a person was answered stands, over restarts too, until a person lifts it. Automation changes nothing that
anybody has commanded. A word never loosens another. What is observed never changes what is commanded, and restores
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import hypothesis.strategies as st
import looptime
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider import clock
from outrider.agents import Agents, Lifecycle, stored
from outrider.agents.commanded import NEXT, Command, State, Switch, state_of
from outrider.agents.lifecycle import LIFT_WAIT_S, RETRY_S
from outrider.agents.observed import TICK_S
from outrider.errors import Refused
from outrider.policy.plans import Limits
from outrider.wire import Hello
from tests.support.kill_kit import ScriptedLedger, Wall

T = TypeVar("T")
AGENTS = ("ann", "bob")
STRICTER = [State.OPEN, State.CORDONED, State.PAUSED, State.DRAINING, State.RETIRED]
HELLO = Hello(protocol=1, agent="ann", framework="x", instance="i", session_key="k" * 16)


class LifecycleMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop(start=0, idle_timeout=5)
        self.wall = Wall()
        self.real_wall, clock.wall = clock.wall, self.wall
        self.ledger = ScriptedLedger()
        self.stands = dict.fromkeys(AGENTS, State.OPEN)  # what was answered to people
        self.before = dict.fromkeys(AGENTS, State.OPEN)  # what a pause gives back
        self.automated: set[str] = set()
        self.unwritten: set[str] = set()  # in force, and not acknowledged as durable
        self.asked_to_lift: set[str] = set()  # told that it could not be written, which may be written later
        self.flights = dict.fromkeys(AGENTS, 0)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.run(self._start())

    async def _start(self) -> None:
        self.agents = Agents(limits=Limits, emit=lambda *_: None)
        self.life = Lifecycle(
            self.agents,
            self.ledger,  # type: ignore[arg-type]
            under_way=lambda name: self.flights[name],
            stop=lambda name, why: self.flights.__setitem__(name, 0),
        )
        self.life.restore(self.ledger.read(stored.SWITCHES))
        self.connected = False

    # ── people ──

    @rule(agent=st.sampled_from(AGENTS), command=st.sampled_from([one for one in Command if one is not Command.RETIRE]))
    def order(self, agent: str, command: Command) -> None:
        self._order(agent, command)

    @precondition(lambda self: State.RETIRED not in self.stands.values())
    @rule(agent=st.sampled_from(AGENTS))
    def retire(self, agent: str) -> None:
        self._order(agent, Command.RETIRE)

    def _order(self, agent: str, command: Command) -> None:
        was = self.stands[agent]
        lifts = command in (Command.UNCORDON, Command.RESUME)
        try:
            switch = self.run(self.life.command(agent, command, "a reason", "ann", 10.0))
        except Refused as refusal:
            known = NEXT.get((was, command))
            assert known is None or (
                lifts and (self.ledger.mode != "ok" or agent in self.unwritten | self.asked_to_lift)
            )
            if refusal.code == "ledger_unavailable" and self.ledger.mode == "hang":
                self.asked_to_lift.add(agent)
            return
        following = state_of(switch)
        expected = self.before[agent] if command is Command.RESUME else NEXT[was, command]
        assert following is expected
        assert lifts or STRICTER.index(following) >= STRICTER.index(was), "a word never loosens another"
        if command is Command.PAUSE and was is not State.PAUSED:
            self.before[agent] = was
        elif following is not State.PAUSED:
            self.before[agent] = State.OPEN
        self.stands[agent] = following
        self.automated.discard(agent)
        if switch is not None and not switch.durable:
            assert self.ledger.mode != "ok"
            self.unwritten.add(agent)
        elif switch is not None:
            self.unwritten.discard(agent)

    # ── automation ──

    @rule(agent=st.sampled_from(AGENTS))
    def automate(self, agent: str) -> None:
        async def pause() -> bool:
            return self.life.automate(agent, "paused", "it runs away")

        took = self.run(pause())
        assert took is (self.stands[agent] is State.OPEN)
        if took:
            self.stands[agent], self.before[agent] = State.PAUSED, State.OPEN
            self.automated.add(agent)
            self.unwritten.add(agent)

    # ── what is observed ──

    @rule()
    def connects(self) -> None:
        async def connect() -> None:
            self.agents.connected(HELLO, "s-1")

        self.run(connect())
        self.connected = True
        assert self._observed() in ("ready", "degraded")

    @rule()
    def breaks(self) -> None:
        self.agents.disconnected("s-1", orderly=False)
        self.connected = False

    @precondition(lambda self: self.connected)
    @rule(silent_s=st.sampled_from([5, 15, 60]))
    def is_silent_and_comes_back(self, silent_s: int) -> None:
        self.agents.heartbeat("s-1")
        self.run(self._pass(1))
        self.run(self._pass(silent_s))
        assert self._observed() == ("ready" if silent_s < 12 else "degraded" if silent_s < 30 else "lost")
        self.agents.heartbeat("s-1")
        self.run(self._pass(1))
        assert self._observed() == "ready"

    @precondition(lambda self: self.connected)
    @rule(stood_s=st.sampled_from([10.0, 3600.0]))
    def the_sidecar_stands_still(self, stood_s: float) -> None:
        async def stand() -> None:
            await asyncio.sleep(stood_s)
            self.agents.tick()

        self.agents.heartbeat("s-1")
        self.run(self._pass(1))
        self.run(stand())
        assert self._observed() == "ready"

    @rule(jump_s=st.sampled_from([-1e6, 1e6]))
    def the_wall_clock_jumps(self, jump_s: float) -> None:
        self.wall.now += jump_s

    def _observed(self) -> str | None:
        row = next(row for row in self.agents.snapshot() if row["name"] == "ann")
        return row["observed"]  # type: ignore[no-any-return]

    # ── the disk, and the end of the process ──

    @rule(mode=st.sampled_from(["fail", "hang", "raise"]))
    def the_disk_fails(self, mode: str) -> None:
        if self.ledger.mode == "ok":
            self.ledger.mode = mode

    @rule()
    def the_disk_is_well(self) -> None:
        self.run(self._mend())

    async def _mend(self) -> None:
        self.ledger.mend()
        await self._pass(2 * RETRY_S + TICK_S)
        await asyncio.sleep(LIFT_WAIT_S)
        self._take_over_late_lifts()
        self.unwritten.clear()

    def _take_over_late_lifts(self) -> None:
        """A lift that was told as not yet written is written, and then it is in force."""
        for agent in self.asked_to_lift:
            now = state_of(self.life.get(agent))
            assert now in (self.stands[agent], self.before[agent], State.OPEN)
            if now is not self.stands[agent]:
                self.automated.discard(agent)
                self.before[agent] = State.OPEN
            self.stands[agent] = now
        self.asked_to_lift.clear()

    @rule()
    def killed_and_started_again(self) -> None:
        """SIGKILL: what was acknowledged as durable is there; what was not may be, or may not."""
        self.ledger.forget_held()
        self.ledger.mode = "ok"
        for task in tuple(self.life._tasks):
            task.cancel()
        self.run(asyncio.sleep(1.0))
        self.run(self._start())
        for agent in AGENTS:
            if agent in self.unwritten or agent in self.asked_to_lift:
                now = self.life.get(agent)
                self.stands[agent] = state_of(now)
                self.before[agent] = State.OPEN if now is None else now.before
                self.automated.discard(agent)
                if now is not None and now.automated:
                    self.automated.add(agent)
        self.unwritten.clear()
        self.asked_to_lift.clear()
        self.flights = dict.fromkeys(AGENTS, 0)

    @rule(agent=st.sampled_from(AGENTS))
    def a_call_begins(self, agent: str) -> None:
        if self.stands[agent] is State.OPEN:
            self.flights[agent] += 1

    @rule(seconds=st.sampled_from([1, 20]))
    def time_passes(self, seconds: int) -> None:
        self.run(self._pass(seconds))

    async def _pass(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            await asyncio.sleep(TICK_S)
            self.agents.tick()
            self.life.tend()

    # ── what always holds ──

    @invariant()
    def what_was_answered_stands(self) -> None:
        if not hasattr(self, "life"):
            return
        for agent, state in self.stands.items():
            if agent not in self.asked_to_lift:
                switch = self.life.get(agent)
                assert state_of(switch) is state, agent
                assert switch is None or switch.automated is (agent in self.automated)

    @invariant()
    def the_registry_says_the_same(self) -> None:
        if not hasattr(self, "life"):
            return
        for agent in AGENTS:
            entry = self.agents.get(agent)
            switch: Switch | None = None if entry is None else entry.switch
            assert state_of(switch) is state_of(self.life.get(agent))

    def teardown(self) -> None:
        if hasattr(self, "life"):
            self.run(self._mend())
            self._settled()
        clock.wall = self.real_wall
        self.loop.close()

    def _settled(self) -> None:
        """At last the disk says what is in force, and a drain that had its time is done."""
        self.run(self._pass(30))
        rows = {row["agent"]: row for row in self.ledger.read(stored.SWITCHES)}
        for agent, state in self.stands.items():
            assert rows.get(agent, {"state": "open"})["state"] == state.value
            if state is State.DRAINING:
                assert rows[agent]["drained_at"] is not None and self.flights[agent] == 0


TestLifecycle = LifecycleMachine.TestCase
TestLifecycle.settings = settings(max_examples=60, stateful_step_count=40)

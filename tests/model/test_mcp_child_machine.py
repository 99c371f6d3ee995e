"""The supervision of a child as a state machine: calls, crashes, hangs, slow starts and the passing of time, in any
order, over the product's keeper and its transports' life in virtual time.

Kept: never two processes at once. After a crash nothing is started before its wait is over, and then the next who asks
gets one. The wait is 0 for the first crash in a row and then 10 s, doubling, at most 5 minutes. After the end of the
upstream nothing is started, ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import hypothesis.strategies as st
import looptime
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider import clock
from outrider.policy.plans import McpUpstream
from outrider.upstreams.mcp.child import NotStarted
from outrider.upstreams.mcp.keeper import Keeper
from outrider.upstreams.mcp.supervision import FIRST_WAIT_S, GOOD_S, LONGEST_WAIT_S
from outrider.upstreams.mcp.transport import McpFailure, Phase

T = TypeVar("T")


class FakeChild:
    """A process that exists, and nothing else of one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid


class ChildMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop(start=0, idle_timeout=5)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        self.keeper = Keeper("up", McpUpstream(command=("x",)), self._spawn)  # type: ignore[arg-type]
        self.running: FakeChild | None = None
        self.ready = False
        self.ready_at = 0.0
        self.crashes = 0
        self.not_before = 0.0
        self.closed = False
        self.broken = False
        self.spawned = 0

    async def _spawn(self, command: Sequence[str], env: Mapping[str, str], cwd: str) -> FakeChild:
        assert self.running is None, "two processes at once"
        assert not self.closed, "started after the end"
        assert clock.monotonic() >= self.not_before, "started before the wait was over"
        self.spawned += 1
        await asyncio.sleep(0.1)
        if self.broken:
            raise NotStarted("no such file")
        self.running = FakeChild(self.spawned)
        return self.running

    def _crashed(self, now: float) -> None:
        self.running, self.ready = None, False
        self.crashes += 1
        waits = [0.0, *(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**n) for n in range(40))]
        self.not_before = now + waits[self.crashes - 1]

    # ── what happens ──

    @precondition(lambda self: self.running is None)
    @rule(broken=st.booleans())
    def somebody_calls(self, broken: bool) -> None:
        self.run(self._call(broken))

    async def _call(self, broken: bool) -> None:
        self.broken = broken
        may = not self.closed and clock.monotonic() >= self.not_before
        left_s, spawned = self.not_before - clock.monotonic(), self.spawned
        try:
            child = await self.keeper.start()
        except McpFailure as failure:
            assert failure.phase is Phase.CONNECT
            assert not may or broken
            if may:
                self._crashed(clock.monotonic())
            elif not self.closed:
                assert failure.retry_after_s is not None and abs(failure.retry_after_s - left_s) < 0.01
                assert self.spawned == spawned
        else:
            assert may and not broken and child is self.running

    @precondition(lambda self: self.running is None and not self.closed)
    @rule()
    def a_caller_leaves_while_it_starts(self) -> None:
        self.run(self._interrupted())

    async def _interrupted(self) -> None:
        self.broken = False
        may = clock.monotonic() >= self.not_before
        starting = asyncio.ensure_future(self.keeper.start())
        await asyncio.sleep(0.05)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if may:
            self._crashed(clock.monotonic())

    @precondition(lambda self: self.running is not None and not self.ready and not self.closed)
    @rule()
    def it_answers(self) -> None:
        self.run(self._answers())

    async def _answers(self) -> None:
        self.keeper.ready()
        self.ready, self.ready_at = True, clock.monotonic()

    @precondition(lambda self: self.running is not None)
    @rule()
    def it_is_gone(self) -> None:
        self.run(self._gone())

    async def _gone(self) -> None:
        now = clock.monotonic()
        if self.ready and now - self.ready_at >= GOOD_S:
            self.crashes = 0
        self.keeper.gone("exited with code 1")
        self._crashed(now)

    @precondition(lambda self: self.running is not None)
    @rule()
    def somebody_wants_another_beside_it(self) -> None:
        self.run(self._waits())

    async def _waits(self) -> None:
        waiting = asyncio.ensure_future(self.keeper.start())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    @rule(seconds=st.sampled_from([0.5, 9.0, 10.0, 60.0, 301.0, GOOD_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @precondition(lambda self: not self.closed)
    @rule(dice=st.integers(0, 9))
    def the_upstream_is_not_used_any_more(self, dice: int) -> None:
        if dice:
            return  # seldom: little happens afterwards
        self.run(self._close())

    async def _close(self) -> None:
        self.closed = True
        self.keeper.close()

    # ── what holds ──

    @invariant()
    def people_are_told_the_truth(self) -> None:
        if hasattr(self, "keeper"):
            self.run(self._told())

    async def _told(self) -> None:
        told = self.keeper.snapshot()
        assert told["pid"] == (self.running.pid if self.running is not None else None)
        assert told["restarts"] == max(0, self.spawned - 1)
        if self.closed:
            assert told["state"] == "closed"
        elif self.running is not None:
            assert told["state"] == ("up" if self.ready else "starting")
        else:
            assert told["state"] == ("waiting" if self.crashes else "idle") and told["crashes"] == self.crashes

    def teardown(self) -> None:
        self.loop.close()


TestChild = ChildMachine.TestCase

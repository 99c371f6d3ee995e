"""The bulkhead with real tasks on a real loop, stepped by hand, cancelled at every point of their way."""

from __future__ import annotations

import asyncio

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from outrider.domains.bulkhead import Bulkhead, Place, Slot
from outrider.policy import plans

LIMITS = (plans.Bulkhead(1, 2), plans.Bulkhead(2, 3), plans.Bulkhead(3, 0), plans.Bulkhead(5, 6))


class Work:
    """One attempt: waits for its slot, holds it until told, releases it."""

    def __init__(self, number: int, machine: BulkheadMachine) -> None:
        self.number = number
        self.machine = machine
        self.finish = asyncio.Event()
        self.slot: Slot | None = None
        self.place: Place | None = None

    async def run(self) -> str:
        bulkhead = self.machine.bulkhead
        slot = bulkhead.try_acquire()
        if slot is None:
            self.place = bulkhead.enqueue()
            if self.place is None:
                return "full"
            self.machine.queued.append(self.number)
            slot = await self.place
            self.machine.served.append(self.number)
        self.slot = slot
        try:
            await self.finish.wait()
        finally:
            slot.release()
            slot.release()  # idempotent
        return "done"


class BulkheadMachine(RuleBasedStateMachine):
    @initialize(limits=st.sampled_from(LIMITS))
    def begin(self, limits: plans.Bulkhead) -> None:
        self.loop = asyncio.new_event_loop()
        self.bulkhead = Bulkhead(limits)
        self.held_before = 0
        self.work: list[Work] = []
        self.tasks: list[asyncio.Task[str]] = []
        self.queued: list[int] = []
        self.served: list[int] = []

    def step(self) -> None:
        """One turn of the loop: everything that is ready runs once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    @rule()
    def loop_turns(self) -> None:
        self.step()

    @rule(turn=st.booleans())
    def attempt_comes(self, turn: bool) -> None:
        work = Work(len(self.work), self)
        self.work.append(work)
        self.tasks.append(self.loop.create_task(work.run()))
        if turn:
            self.step()

    @rule(which=st.integers(0, 1000), turn=st.booleans())
    def attempt_ends(self, which: int, turn: bool) -> None:
        holding = [work for work in self.work if work.slot is not None and work.slot.held]
        if holding:
            holding[which % len(holding)].finish.set()
        if turn:
            self.step()

    @rule(which=st.integers(0, 1000), turn=st.booleans())
    def attempt_is_cancelled(self, which: int, turn: bool) -> None:
        """Also in the very turn in which its place was served."""
        alive = [task for task in self.tasks if not task.done()]
        if alive:
            alive[which % len(alive)].cancel()
        if turn:
            self.step()

    @rule(which=st.integers(0, 1000))
    def slot_is_released_and_its_successor_cancelled_at_once(self, which: int) -> None:
        holding = [work for work in self.work if work.slot is not None and work.slot.held]
        waiting = [work for work in self.work if work.place is not None and not work.place.done()]
        if holding and waiting:
            slot = holding[which % len(holding)].slot
            assert slot is not None
            slot.release()
            self.tasks[waiting[0].number].cancel()

    @rule(limits=st.sampled_from(LIMITS))
    def policy_changes(self, limits: plans.Bulkhead) -> None:
        self.bulkhead.configure(limits)

    @invariant()
    def bounds_hold(self) -> None:
        """Invariant 14: never more in flight than allowed when each slot was given; nobody waits beside a free slot."""
        if not hasattr(self, "bulkhead"):
            return
        holding = sum(work.slot is not None and work.slot.held for work in self.work)
        handed = sum(
            work.place is not None and work.place.done() and not work.place.cancelled() and work.place.result().held
            for work in self.work
            if work.slot is None
        )
        assert self.bulkhead.held == holding + handed
        assert self.bulkhead.held <= max(self.held_before, self.bulkhead.settings.max_concurrent)
        self.held_before = self.bulkhead.held
        waiting = [work for work in self.work if work.place is not None and not work.place.done()]
        assert self.bulkhead.waiting == len(waiting) <= max(limits.max_queue for limits in LIMITS)
        assert not waiting or self.bulkhead.held >= self.bulkhead.settings.max_concurrent, "no lost wake-up"
        assert self.served == sorted(self.served), "first come, first served"

    def teardown(self) -> None:
        """Invariant 20: when all have ended, nothing is held and nobody waits."""
        if not hasattr(self, "bulkhead"):
            return
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            self.loop.run_until_complete(asyncio.wait(self.tasks))
        assert (self.bulkhead.held, self.bulkhead.waiting) == (0, 0)
        self.loop.close()


TestBulkheadMachine = BulkheadMachine.TestCase

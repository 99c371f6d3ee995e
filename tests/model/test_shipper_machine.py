"""The exporters' queue as a state machine: whatever the collector does, and whenever, every item is delivered once or
counted once, in order, and nobody waits."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider.telemetry.shipping import Shipper
from tests.support.eventually import eventually

MAX_QUEUE, MAX_BATCH = 12, 4


class ShipperMachine(RuleBasedStateMachine):
    """A collector that takes, refuses, breaks or hangs, at every point."""

    def __init__(self) -> None:
        super().__init__()
        self.put: list[int] = []
        self.taken: list[int] = []
        self.lost: Counter[str] = Counter()
        self.answer: bool | None = True
        self.gate = threading.Event()
        self.gate.set()
        self.stopped = False
        self.lock = threading.Lock()
        self.shipper: Shipper[int] = Shipper(
            "traces", self.send, self.drop, max_queue=MAX_QUEUE, max_batch=MAX_BATCH, schedule_s=0.001
        )

    def send(self, batch: Sequence[int]) -> bool:
        assert len(batch) <= MAX_BATCH
        self.gate.wait(30)
        if self.answer is None:
            raise RuntimeError("the exporter broke")
        if self.answer:
            self.taken += batch
        return self.answer

    def drop(self, reason: str, count: int) -> None:
        with self.lock:
            self.lost[reason] += count

    @rule(count=st.integers(1, 6))
    def call_ends(self, count: int) -> None:
        """So many spans at once."""
        new = list(range(len(self.put), len(self.put) + count))
        self.put += new
        self.shipper.put(new)

    @rule(answer=st.sampled_from([True, False, None]))
    def collector_changes(self, answer: bool | None) -> None:
        self.answer = answer

    @rule()
    def collector_hangs(self) -> None:
        self.gate.clear()

    @rule()
    def collector_goes_on(self) -> None:
        self.gate.set()

    @precondition(lambda self: self.gate.is_set() and not self.stopped)
    @rule()
    def time_passes(self) -> None:
        """What is queued has left, whether somebody put a full batch or not."""
        assert eventually(self.settled, within_s=5, every_s=0.001)

    @precondition(lambda self: not self.stopped)
    @rule(gives_up=st.booleans())
    def stop(self, gives_up: bool) -> None:
        """In good order, or with a collector that hangs."""
        self.stopped = True
        self.shipper.stop()
        self.shipper.join(0.0 if gives_up else 0.01)

    def settled(self) -> bool:
        return len(self.taken) + sum(self.lost.values()) == len(self.put)

    @invariant()
    def nothing_comes_twice_or_out_of_order(self) -> None:
        taken = list(self.taken)
        assert taken == sorted(set(taken))

    @invariant()
    def the_queue_is_bounded(self) -> None:
        assert len(self.shipper._queue) <= MAX_QUEUE

    def teardown(self) -> None:
        """In the end everything is accounted for."""
        self.gate.set()
        self.shipper.stop()
        self.shipper.join(10)
        assert eventually(self.settled, within_s=5, every_s=0.001), (self.taken, self.lost, len(self.put))


TestShipper = ShipperMachine.TestCase
TestShipper.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)

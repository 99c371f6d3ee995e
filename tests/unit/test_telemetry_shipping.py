"""The exporters' queue never makes anybody wait, never grows without bound, and loses nothing uncounted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from outrider import __version__
from outrider.telemetry.environment import Target
from outrider.telemetry.otlp import MetricSender, SpanSender, resource
from outrider.telemetry.shipping import FAILED, QUEUE_FULL, STOPPED, Shipper
from outrider.telemetry.snapshot import Family, Snapshot
from outrider.telemetry.traces import Event, Span
from tests.support.eventually import eventually
from tests.support.otlp_receiver import Receiver


class Sink:
    """Takes batches when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.lost: Counter[str] = Counter()
        self.open = threading.Event()
        self.open.set()
        self.answer = True

    def send(self, batch: Sequence[int]) -> bool:
        self.open.wait(30)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer:
            self.batches.append(list(batch))
        return self.answer

    def drop(self, reason: str, count: int) -> None:
        self.lost[reason] += count

    @property
    def sent(self) -> list[int]:
        return [item for batch in self.batches for item in batch]


@pytest.fixture
def sink() -> Iterator[Sink]:
    found = Sink()
    yield found
    found.open.set()


def shipper(sink: Sink, **more: Any) -> Shipper[int]:
    limits = {"max_queue": 8, "max_batch": 4, "schedule_s": 60.0, **more}
    return Shipper("traces", sink.send, sink.drop, **limits)


def test_a_full_batch_leaves_at_once_and_a_smaller_one_in_its_time(sink: Sink) -> None:
    """In order, none twice."""
    late = shipper(sink)
    late.put([1, 2, 3])
    late.put([4, 5])
    assert eventually(lambda: sink.sent == [1, 2, 3, 4]), "the fifth waits"
    late.stop()
    late.join(10)
    assert sink.batches == [[1, 2, 3, 4], [5]] and not sink.lost
    soon = shipper(sink, schedule_s=0.01)
    soon.put([6])
    assert eventually(lambda: sink.sent == [1, 2, 3, 4, 5, 6])
    soon.stop()


def test_what_the_queue_cannot_hold_is_dropped_whole_and_counted(sink: Sink) -> None:
    """Half a trace is worse than none."""
    sink.open.clear()
    slow = shipper(sink)
    slow.put([1, 2, 3, 4])
    assert eventually(lambda: not slow._queue), "the first batch is on its way"
    slow.put([5, 6, 7, 8, 9, 10])
    slow.put([11, 12, 13])
    assert sink.lost == {QUEUE_FULL: 3}
    slow.put([11, 12])
    sink.open.set()
    slow.stop()
    slow.join(10)
    assert sink.sent == list(range(1, 13))


@pytest.mark.parametrize("answer", [False, RuntimeError("boom")])
def test_what_is_not_taken_is_counted_and_the_thread_goes_on(sink: Sink, answer: Any) -> None:
    """Whether it was refused or a bug."""
    sink.answer = answer
    found = shipper(sink)
    found.put([1, 2, 3, 4])
    assert eventually(lambda: sink.lost[FAILED] == 4)
    sink.answer = True
    found.put([5, 6, 7, 8])
    assert eventually(lambda: sink.sent == [5, 6, 7, 8])
    found.stop()


def test_the_end_waits_as_long_as_it_says_and_counts_what_stays_behind(sink: Sink) -> None:
    """A collector that never answers holds nobody up."""
    sink.open.clear()
    stuck = shipper(sink)
    stuck.put([1, 2, 3, 4])
    assert eventually(lambda: not stuck._queue)
    stuck.put([5, 6])
    began = time.monotonic()
    stuck.stop()
    stuck.join(0.1)
    assert time.monotonic() - began < 10
    assert sink.lost[STOPPED] == 2
    stuck.put([7])
    assert sink.lost[STOPPED] == 3


def test_every_item_is_sent_or_counted_whatever_happens(sink: Sink) -> None:
    """Under a collector that now takes, now refuses, now hangs."""
    found = shipper(sink, schedule_s=0.001)
    for number in range(2000):
        sink.answer = number % 7 != 0
        found.put([number])
    found.stop()
    found.join(10)
    assert len(sink.sent) + sum(sink.lost.values()) == 2000
    assert sink.sent == sorted(set(sink.sent))


# ── what OTLP says of it ─────────────────────────────────────────────────────────────────────────────────────────────


def span(**more: Any) -> Span:
    fields: dict[str, Any] = {
        "trace_id": "1" * 32,
        "span_id": "2" * 16,
        "parent_id": "",
        "parent_is_remote": True,
        "tracestate": "",
        "name": "n",
        "is_client": True,
        "start_ns": 1,
        "end_ns": 2,
        "attributes": {},
    }
    return Span(**{**fields, **more})


def test_hostile_text_costs_no_batch() -> None:
    """Half a pair of surrogates cannot be said in protobuf; it must not take the others with it."""
    bad = "a\ud800\x00\x1b[2J\u202e"
    spans = [
        span(name=bad, attributes={"x": bad, "n": 1, "f": 0.5, "b": True}, error=bad, tracestate="=,,==;x"),
        span(span_id="3" * 16, events=[Event(bad.replace("\ud800", ""), 5, {"y": bad})]),
    ]
    with Receiver() as receiver:
        send = SpanSender(Target(f"{receiver.url}/v1/traces"), resource("i"), lambda count: None)
        assert send(spans)
        first, second = receiver.spans
        send.close()
    assert first.name == bad.replace("\ud800", "?") and first.attributes["x"] == first.name
    assert (first.attributes["n"], first.attributes["f"], first.attributes["b"]) == (1, 0.5, True)
    assert second.events[0][1] == {"y": first.name}
    assert first.resource["service.version"] == __version__


def test_a_snapshot_with_hostile_labels_is_said() -> None:
    """Empty labels are left out, as Prometheus has them."""
    families = [Family("m", "M.", "counter", "1", ("a", "b"), [(("x\udfff", ""), 3)])]
    with Receiver() as receiver:
        send = MetricSender(Target(f"{receiver.url}/v1/metrics"), resource("i"), lambda count: None)
        assert send([Snapshot(1, 2, families)])
        (point,) = receiver.metrics()["m"].sum.data_points
        send.close()
    assert {one.key: one.value.string_value for one in point.attributes} == {"a": "x?"}
    assert point.as_int == 3

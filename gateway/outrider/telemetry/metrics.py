"""Counters, histograms and gauges: plain dictionaries and lists that the hot path adds to; their text for Prometheus.

Every metric is bounded: past ``MAX_SERIES`` label sets the rest is counted under the label value ``overflow``, so that
no client makes this grow. Gauges are read when asked for, from whoever knows.

Text format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4). The same numbers go out by
OTLP (``push``): both read ``samples()``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_SERIES = 2000
"""Label sets of one metric."""
MAX_LABEL = 120
"""Characters of a label value; a longer one counts as overflow."""
OVERFLOW = "overflow"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CLOSED = frozenset({"outcome", "code", "result", "state", "kind", "version", "signal", "reason"})
"""Labels whose values are words of ours."""

Labels = tuple[str, ...]
Reading = Iterable[tuple[Labels, float]]


class Buckets(NamedTuple):
    """One series of a histogram: how many in each bucket (the last is all above the bounds), and their sum."""

    counts: tuple[int, ...]
    total: float


Sample = tuple[Labels, float | Buckets]


class Counter:
    """A number that only grows, for each set of labels."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._values: dict[Labels, int] = {}

    def add(self, labels: Labels, amount: int = 1) -> None:
        """``labels`` are values in the order of the declaration."""
        try:
            self._values[labels] += amount
        except KeyError:
            labels = _bounded(self.labels, labels, len(self._values))
            self._values[labels] = self._values.get(labels, 0) + amount

    def samples(self) -> list[Sample]:
        return list(self._values.items())


class Histogram:
    """How long things took: counts by bucket, their number and their sum, for each set of labels."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...] = BUCKETS_S) -> None:
        self.name, self.text, self.labels, self.bounds = name, text, labels, bounds
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, labels: Labels, seconds: float) -> None:
        """One more that took so long."""
        series = self._series.get(labels)
        if series is None:
            labels = _bounded(self.labels, labels, len(self._series))
            series = self._series.setdefault(labels, ([0] * (len(self.bounds) + 1), [0.0]))
        series[0][bisect_left(self.bounds, seconds)] += 1
        series[1][0] += seconds

    def samples(self) -> list[Sample]:
        return [(labels, Buckets(tuple(counts), total[0])) for labels, (counts, total) in self._series.items()]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that somebody else knows. ``read`` is asked at each scrape and gives label values and the number."""

    name: str
    text: str
    labels: Labels
    read: Callable[[], Reading]
    kind: str = "gauge"

    def samples(self) -> list[Sample]:
        seen: dict[Labels, float] = {}
        for values, value in self.read():
            labels = _bounded(self.labels, values, len(seen))
            seen[labels] = seen.get(labels, 0) + value
        return list(seen.items())


Metric = Counter | Histogram | Gauge


def _bounded(names: Labels, values: Labels, present: int) -> Labels:
    """The label set as it is, or ``overflow`` for all that a client can make up."""
    if present < MAX_SERIES and all(len(value) <= MAX_LABEL for value in values):
        return values
    return tuple(value if name in CLOSED else OVERFLOW for name, value in zip(names, values, strict=True))


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(metric: Metric, samples: list[Sample]) -> Iterator[str]:
    """The metric as Prometheus reads it."""
    yield f"# HELP {metric.name} {metric.text}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in samples:
        if isinstance(value, Buckets):
            assert isinstance(metric, Histogram)
            yield from _histogram(metric, labels, value)
        else:
            yield _line(metric.name, metric.labels, labels, value)


def _histogram(metric: Histogram, labels: Labels, buckets: Buckets) -> Iterator[str]:
    names, so_far = (*metric.labels, "le"), 0
    for bound, count in zip((*metric.bounds, float("inf")), buckets.counts, strict=True):
        so_far += count
        yield _line(f"{metric.name}_bucket", names, (*labels, _number(bound)), so_far)
    yield _line(f"{metric.name}_sum", metric.labels, labels, buckets.total)
    yield _line(f"{metric.name}_count", metric.labels, labels, so_far)


def _line(name: str, labels: Labels, values: Labels, number: float) -> str:
    inside = ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))
    return f"{name}{{{inside}}} {_number(number)}" if inside else f"{name} {_number(number)}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))

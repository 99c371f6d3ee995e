"""All numbers of one moment, as they leave by OTLP. Taken on the event loop, which owns them; sent by a thread."""

from __future__ import annotations

from dataclasses import dataclass, field

from outrider.telemetry import semconv
from outrider.telemetry.metrics import Histogram, Labels, Metric, Sample

CONVENTIONAL = {
    "outrider_tool_duration_seconds": (
        semconv.EXECUTE_TOOL_DURATION,
        {"tool": semconv.TOOL_NAME, "code": semconv.ERROR_TYPE},
        {semconv.OPERATION_NAME: semconv.EXECUTE_TOOL},
    )
}
"""Metrics that the conventions have a name for: by OTLP they go by it. Everything else keeps the name that it has for
Prometheus, so that one dashboard reads both."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``constant`` are attributes of every series."""

    name: str
    text: str
    kind: str
    unit: str
    labels: Labels
    samples: list[Sample]
    bounds: tuple[float, ...] = ()
    constant: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``since_ns`` is when counting began."""

    since_ns: int
    at_ns: int
    families: list[Family]

    @property
    def points(self) -> int:
        return sum(len(family.samples) for family in self.families)


def family_of(metric: Metric, samples: list[Sample]) -> Family:
    """The metric under the name by which it leaves."""
    name, labels, constant = CONVENTIONAL.get(metric.name, (metric.name, {}, {}))
    return Family(
        name=name,
        text=metric.text,
        kind=metric.kind,
        unit=_unit(metric.name),
        labels=tuple(labels.get(label, label) for label in metric.labels),
        samples=samples,
        bounds=metric.bounds if isinstance(metric, Histogram) else (),
        constant=constant,
    )


def _unit(name: str) -> str:
    if name.endswith("_seconds"):
        return "s"
    return "By" if name.endswith("_bytes") else "1"

"""Which numbers this process keeps, and what calls and attempts add to them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from outrider import __version__, clock
from outrider.calls import Call, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.telemetry import semconv
from outrider.telemetry.metrics import OVERFLOW, Counter, Gauge, Histogram, Labels, Metric, Reading, Sample, lines
from outrider.telemetry.shipping import REASONS
from outrider.telemetry.snapshot import Snapshot, family_of
from outrider.telemetry.traces import Traces

FAILURES = frozenset({Code.UPSTREAM_FAILED, Code.OUTCOME_UNKNOWN})
"""Codes that are the tool's failure; every other one is Outrider's own refusal."""

log = logging.getLogger("outrider.telemetry")


class Telemetry:
    """The counters of this process. ``traces`` is None where calls are not traced."""

    def __init__(self) -> None:
        self.traces: Traces | None = None
        self._since_ns = int(clock.wall() * 1e9)
        self._calls = Counter("outrider_calls_total", "Calls that ended.", ("agent", "tool", "outcome"))
        self._attempts = Counter("outrider_attempts_total", "Attempts that ended.", ("upstream", "outcome"))
        self._refusals = Counter("outrider_refusals_total", "Calls that Outrider refused or ended.", ("code",))
        self._observed = Counter(
            "outrider_observed_refusals_total", "What a policy that only observes would have refused.", ("code",)
        )
        self._reloads = Counter("outrider_policy_reloads_total", "Policy changes, loaded or rejected.", ("result",))
        self._call_s = Histogram("outrider_call_duration_seconds", "From arrival to answer.", ("upstream",))
        self._attempt_s = Histogram("outrider_attempt_duration_seconds", "From sending to its outcome.", ("upstream",))
        self._tool_s = Histogram(
            "outrider_tool_duration_seconds",
            "From arrival to answer, for each tool.",
            ("tool", "code"),
            semconv.EXECUTE_TOOL_BUCKETS_S,
        )
        self._dropping = threading.Lock()  # the exporters' threads count too
        self._dropped = {(signal, reason): 0 for signal in ("traces", "metrics") for reason in REASONS}
        self._metrics: list[Metric] = [
            self._calls,
            self._attempts,
            self._refusals,
            self._observed,
            self._reloads,
            self._call_s,
            self._attempt_s,
            self._tool_s,
            Gauge("outrider_build_info", "Which Outrider this is; always 1.", ("version",), _build),
        ]
        self.gauge(
            "outrider_telemetry_dropped_total",
            "Spans and data points that were not delivered.",
            ("signal", "reason"),
            lambda: list(self._dropped.items()),
            kind="counter",
        )

    def on_call_finished(self, call: Call, outcome: Outcome, took_s: float, attempts: int) -> None:
        """A call ended. A tool that does not exist is not named: its name is whatever the caller made up."""
        code = outcome.code
        tool = call.tool if code is not Code.UNKNOWN_TOOL else OVERFLOW
        self._calls.add((call.agent.name, tool, outcome.kind.value))
        self._call_s.observe((tool.partition(".")[0],), took_s)
        self._tool_s.observe((tool, code.value if code is not None else ""), took_s)
        if code is not None and code not in FAILURES:
            self._refusals.add((code.value,))

    def on_attempt(self, upstream: str, outcome: OutcomeKind, took_s: float) -> None:
        """An attempt ended."""
        self._attempts.add((upstream, outcome.value))
        self._attempt_s.observe((upstream,), took_s)

    def on_observed(self, code: Code | None) -> None:
        """A policy that only observes would have refused."""
        self._observed.add(((code or Code.INTERNAL).value,))

    def on_policy(self, loaded: bool) -> None:
        """A policy change was taken over, or rejected."""
        self._reloads.add(("ok" if loaded else "rejected",))

    def on_dropped(self, signal: str, reason: str, count: int) -> None:
        """Telemetry was lost; from any thread."""
        with self._dropping:
            self._dropped[signal, reason] += count

    def gauge(self, name: str, text: str, labels: Labels, read: Callable[[], Reading], kind: str = "gauge") -> None:
        """Show what somebody else knows. ``kind`` is ``counter`` for a number that only grows."""
        self._metrics.append(Gauge(name, text, labels, read, kind))

    def names(self) -> list[tuple[str, str, Labels, str]]:
        """Every metric as (name, kind, labels, text): the documentation is checked against it."""
        return [(metric.name, metric.kind, metric.labels, metric.text) for metric in self._metrics]

    def render_metrics(self) -> bytes:
        """Everything in Prometheus' text format."""
        text = [line for metric, samples in self._read() for line in lines(metric, samples)]
        return ("\n".join(text) + "\n").encode("utf-8", "replace")

    def snapshot(self) -> Snapshot:
        """Everything, for OTLP."""
        found = [family_of(metric, samples) for metric, samples in self._read()]
        return Snapshot(self._since_ns, int(clock.wall() * 1e9), found)

    def _read(self) -> Iterator[tuple[Metric, list[Sample]]]:
        """A metric that cannot be read is left out; the others are not."""
        for metric in self._metrics:
            try:
                samples = metric.samples()
            except Exception:
                log.exception("metric %s cannot be read", metric.name)
                continue
            yield metric, samples


def _build() -> Reading:
    return [((__version__,), 1)]

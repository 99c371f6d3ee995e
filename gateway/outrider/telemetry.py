"""Metrics for Prometheus and one OpenTelemetry span a call.

The hot path only adds to plain dictionaries and lists; text is made when somebody asks. Every metric is bounded: past
``MAX_SERIES`` label sets the rest is counted under the label value ``overflow``, so that no client makes this grow.
Gauges are read when asked for, from whoever knows (``gauge``).

Text format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from outrider import __version__
from outrider.calls import Call, Outcome, OutcomeKind
from outrider.errors import Code

MAX_SERIES = 2000
"""Label sets of one metric."""
MAX_LABEL = 120
"""Characters of a label value; a longer one counts as overflow."""
OVERFLOW = "overflow"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CLOSED = frozenset({"outcome", "code", "result", "state", "kind", "version"})
"""Labels whose values are words of ours."""
FAILURES = frozenset({Code.UPSTREAM_FAILED, Code.OUTCOME_UNKNOWN})
"""Codes that are the tool's failure; every other one is Outrider's own refusal."""

Labels = tuple[str, ...]
Reading = Iterable[tuple[Labels, float]]

log = logging.getLogger("outrider.telemetry")


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

    def lines(self) -> Iterator[str]:
        for labels, value in self._values.items():
            yield _line(self.name, self.labels, labels, value)


class Histogram:
    """How long things took: counts by bucket, their number and their sum, for each set of labels."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, labels: Labels, seconds: float) -> None:
        """One more that took so long."""
        series = self._series.get(labels)
        if series is None:
            labels = _bounded(self.labels, labels, len(self._series))
            series = self._series.setdefault(labels, ([0] * (len(BUCKETS_S) + 1), [0.0]))
        series[0][bisect_left(BUCKETS_S, seconds)] += 1
        series[1][0] += seconds

    def lines(self) -> Iterator[str]:
        for labels, (counts, total) in self._series.items():
            yield from self._one(labels, counts, total[0])

    def _one(self, labels: Labels, counts: list[int], total: float) -> Iterator[str]:
        names, so_far = (*self.labels, "le"), 0
        for bound, count in zip((*BUCKETS_S, float("inf")), counts, strict=True):
            so_far += count
            yield _line(f"{self.name}_bucket", names, (*labels, _number(bound)), so_far)
        yield _line(f"{self.name}_sum", self.labels, labels, total)
        yield _line(f"{self.name}_count", self.labels, labels, so_far)


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that somebody else knows. ``read`` is asked at each scrape and gives label values and the number."""

    name: str
    text: str
    labels: Labels
    read: Callable[[], Reading]
    kind: str = "gauge"

    def lines(self) -> Iterator[str]:
        seen: dict[Labels, float] = {}
        for values, value in self.read():
            labels = _bounded(self.labels, values, len(seen))
            seen[labels] = seen.get(labels, 0) + value
        for labels, value in seen.items():
            yield _line(self.name, self.labels, labels, value)


def _bounded(names: Labels, values: Labels, present: int) -> Labels:
    """The label set as it is, or ``overflow`` for all that a client can make up."""
    if present < MAX_SERIES and all(len(value) <= MAX_LABEL for value in values):
        return values
    return tuple(value if name in CLOSED else OVERFLOW for name, value in zip(names, values, strict=True))


def _line(name: str, labels: Labels, values: Labels, number: float) -> str:
    inside = ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))
    return f"{name}{{{inside}}} {_number(number)}" if inside else f"{name} {_number(number)}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


class Telemetry:
    """The counters of this process, and its tracer where one was set up before this was made."""

    def __init__(self) -> None:
        self._calls = Counter("outrider_calls_total", "Calls that ended.", ("agent", "tool", "outcome"))
        self._attempts = Counter("outrider_attempts_total", "Attempts that ended.", ("upstream", "outcome"))
        self._refusals = Counter("outrider_refusals_total", "Calls that Outrider refused or ended.", ("code",))
        self._observed = Counter(
            "outrider_observed_refusals_total", "What a policy that only observes would have refused.", ("code",)
        )
        self._reloads = Counter("outrider_policy_reloads_total", "Policy changes, loaded or rejected.", ("result",))
        self._call_s = Histogram("outrider_call_duration_seconds", "From arrival to answer.", ("upstream",))
        self._attempt_s = Histogram("outrider_attempt_duration_seconds", "From sending to its outcome.", ("upstream",))
        self._metrics: list[Counter | Histogram | Gauge] = [
            self._calls,
            self._attempts,
            self._refusals,
            self._observed,
            self._reloads,
            self._call_s,
            self._attempt_s,
            Gauge("outrider_build_info", "Which Outrider this is; always 1.", ("version",), _build),
        ]
        self._tracer = _tracer()

    # ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────

    def on_call_finished(self, call: Call, outcome: Outcome, took_s: float, attempts: int) -> None:
        """A call ended. A tool that does not exist is not named: its name is whatever the caller made up."""
        code = outcome.code
        tool = call.tool if code is not Code.UNKNOWN_TOOL else OVERFLOW
        self._calls.add((call.agent.name, tool, outcome.kind.value))
        self._call_s.observe((tool.partition(".")[0],), took_s)
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

    def gauge(self, name: str, text: str, labels: Labels, read: Callable[[], Reading], kind: str = "gauge") -> None:
        """Show what somebody else knows. ``kind`` is ``counter`` for a number that only grows."""
        self._metrics.append(Gauge(name, text, labels, read, kind))

    def names(self) -> list[tuple[str, str, Labels, str]]:
        """Every metric as (name, kind, labels, text): the documentation is checked against it."""
        return [(metric.name, metric.kind, metric.labels, metric.text) for metric in self._metrics]

    def render_metrics(self) -> bytes:
        """Everything in Prometheus' text format. A gauge that cannot be read is left out; the others are not."""
        lines: list[str] = []
        for metric in self._metrics:
            try:
                samples = list(metric.lines())
            except Exception:
                log.exception("metric %s cannot be read", metric.name)
                continue
            lines += (f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}", *samples)
        return ("\n".join(lines) + "\n").encode("utf-8", "replace")

    # ── traces ───────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, call: Call) -> Span | None:
        """The span of a call, a child of the caller's. None, at no cost, where nobody set up a tracer.

        Names: OpenTelemetry's semantic conventions for generative AI, status development, as of 2026-08
        (https://github.com/open-telemetry/semantic-conventions-genai, execute-tool)."""
        if self._tracer is None:
            return None
        parent = _propagator.extract({"traceparent": call.traceparent}) if call.traceparent else None
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.tool,
            "gen_ai.tool.call.id": call.caller_ref or call.id,
            "gen_ai.agent.name": call.agent.name,
            "gen_ai.conversation.id": call.session,
            "outrider.call.id": call.id,
            "outrider.run.id": call.run,
        }
        return self._tracer.start_span(
            f"execute_tool {call.tool}",
            context=parent,
            kind=SpanKind.INTERNAL,
            attributes={name: value for name, value in attributes.items() if value},
        )

    def end(self, span: Span | None, outcome: Outcome, attempts: int) -> None:
        """The span covers the logical call with all its attempts."""
        if span is None:
            return
        span.set_attribute("outrider.outcome", outcome.kind.value)
        span.set_attribute("outrider.attempts", attempts)
        if outcome.rule:
            span.set_attribute("outrider.rule", outcome.rule)
        if not outcome.ok:
            span.set_attribute("error.type", (outcome.code or Code.INTERNAL).value)
            span.set_status(Status(StatusCode.ERROR, outcome.detail[:200]))
        span.end()


_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent_from(text: str) -> str:
    """A caller's ``traceparent`` where it is one (W3C Trace Context, section 3.2), else nothing: it is sent on as a
    header, and what is malformed is to be ignored."""
    return text if text and _TRACEPARENT.fullmatch(text) else ""


def traceparent_of(span: Span | None) -> str:
    """What is sent on so that the upstream's spans hang below ours; empty where there is no span."""
    if span is None:
        return ""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent", "")


_propagator = TraceContextTextMapPropagator()


def _tracer() -> trace.Tracer | None:
    """Asked once: a provider that does nothing is none."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer("outrider", __version__)


def _build() -> Reading:
    return [((__version__,), 1)]

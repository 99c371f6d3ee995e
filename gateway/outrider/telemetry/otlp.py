"""OTLP through OpenTelemetry's own exporters. Imported only where something is exported, and used on the exporters'
threads: this is the one place that knows the SDK.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Gauge as OtlpGauge
from opentelemetry.sdk.metrics.export import Histogram as OtlpHistogram
from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event as OtlpEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from outrider import __version__
from outrider.telemetry import semconv
from outrider.telemetry.environment import Signal, Target
from outrider.telemetry.metrics import Buckets, Sample
from outrider.telemetry.snapshot import Family, Snapshot
from outrider.telemetry.traces import Span

Kept = TypeVar("Kept")
Made = TypeVar("Made")
Rejected = Callable[[int], None]
_SCOPE: Final = InstrumentationScope(semconv.SCOPE, __version__)
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
BREATHES_EVERY: Final = 4
BREATH_S: Final = 0.000_05
"""Tried in one run on a busy machine: of a hundred calls the slowest took 99 ms with it, 127 ms without, at 32 at once;
20 and 33 ms at four at once."""
SELDOM_S: Final = 60.0


def resource(instance: str) -> Resource:
    """Who sends this: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what we say of ourselves."""
    ours = {"service.name": "outrider", "service.version": __version__, "service.instance.id": instance}
    return Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())


class _Gently(Sequence[Made], Generic[Kept, Made]):
    """What the exporter wants, made one by one while it encodes it, with a breath in between: a thread that computes
    for long keeps the event loop from the interpreter for milliseconds at a time."""

    def __init__(self, kept: Sequence[Kept], make: Callable[[Kept], Made]) -> None:
        self._kept = kept
        self._make = make

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        found = self._kept[index]
        return _Gently(found, self._make) if isinstance(index, slice) else self._make(found)

    def __iter__(self) -> Iterator[Made]:
        for number, one in enumerate(self._kept):
            if number % BREATHES_EVERY == 0 and number:
                time.sleep(BREATH_S)
            yield self._make(one)


# ── traces ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class SpanSender:
    """``send`` of the spans' shipper."""

    def __init__(self, target: Target, about: Resource, rejected: Rejected) -> None:
        self._exporter: SpanExporter = _span_exporter(target, rejected)
        self._about = about

    def __call__(self, spans: Sequence[Span]) -> bool:
        return self._exporter.export(_Gently(spans, self._readable)) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        state = TraceState.from_header([span.tracestate]) if span.tracestate else None
        context = SpanContext(int(span.trace_id, 16), int(span.span_id, 16), False, _SAMPLED, state)
        parent = None
        if span.parent_id:
            parent = SpanContext(context.trace_id, int(span.parent_id, 16), span.parent_is_remote, _SAMPLED)
        return ReadableSpan(
            name=unicode(span.name),
            context=context,
            parent=parent,
            resource=self._about,
            attributes=_clean(span.attributes),
            events=[OtlpEvent(one.name, _clean(one.attributes), one.at_ns) for one in span.events],
            kind=SpanKind.CLIENT if span.is_client else SpanKind.INTERNAL,
            status=Status() if span.error is None else Status(StatusCode.ERROR, unicode(span.error)),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=_SCOPE,
        )


def unicode(text: str) -> str:
    """Without halves of surrogate pairs: one of them would cost the whole batch."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _clean(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: unicode(value) if type(value) is str else value for name, value in attributes.items()}


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class MetricSender:
    """``send`` of the metrics' shipper: one snapshot at a time."""

    def __init__(self, target: Target, about: Resource, rejected: Rejected) -> None:
        self._exporter: MetricExporter = _metric_exporter(target, rejected)
        self._timeout_ms = target.timeout_s * 1000
        self._about = about

    def __call__(self, snapshots: Sequence[Snapshot]) -> bool:
        return all(
            self._exporter.export(self._data(one), timeout_millis=self._timeout_ms) is MetricExportResult.SUCCESS
            for one in snapshots
        )

    def close(self) -> None:
        self._exporter.shutdown()

    def _data(self, snapshot: Snapshot) -> MetricsData:
        found = [_metric(family, snapshot) for family in snapshot.families if family.samples]
        return MetricsData([ResourceMetrics(self._about, [ScopeMetrics(_SCOPE, found, "")], "")])


def _metric(family: Family, snapshot: Snapshot) -> OtlpMetric:
    points: Any = _Gently(family.samples, partial(_point, family, snapshot))
    data: Any
    if family.kind == "histogram":
        data = OtlpHistogram(points, _CUMULATIVE)
    elif family.kind == "counter":
        data = Sum(points, _CUMULATIVE, is_monotonic=True)
    else:
        data = OtlpGauge(points)
    return OtlpMetric(family.name, family.text, family.unit, data)


def _point(family: Family, snapshot: Snapshot, sample: Sample) -> HistogramDataPoint | NumberDataPoint:
    labels, value = sample
    names = zip(family.labels, labels, strict=True)
    attributes = {name: unicode(label) for name, label in names if label} | family.constant
    if not isinstance(value, Buckets):
        return NumberDataPoint(attributes, snapshot.since_ns, snapshot.at_ns, value)
    nothing = cast(float, None)  # least and greatest are optional on the wire, and nobody keeps them
    return HistogramDataPoint(
        attributes,
        snapshot.since_ns,
        snapshot.at_ns,
        count=sum(value.counts),
        sum=value.total,
        bucket_counts=value.counts,
        explicit_bounds=family.bounds,
        min=nothing,
        max=nothing,
    )


# ── exporters ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _span_exporter(target: Target, rejected: Rejected) -> SpanExporter:
    _speak_seldom("trace_exporter")
    if target.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(endpoint=target.endpoint, timeout=target.timeout_s)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=target.endpoint, timeout=target.timeout_s, session=_session("traces", rejected))


def _metric_exporter(target: Target, rejected: Rejected) -> MetricExporter:
    _speak_seldom("metric_exporter")
    if target.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as Grpc

        return Grpc(endpoint=target.endpoint, timeout=target.timeout_s)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter(endpoint=target.endpoint, timeout=target.timeout_s, session=_session("metrics", rejected))


def _session(signal: Signal, rejected: Rejected) -> Any:
    """A session that reads the answers, which the exporters do not: a redirect delivers nothing, and a collector may
    take a request and refuse a part of it."""
    import requests

    def read(answer: requests.Response, *_: Any, **__: Any) -> None:
        if answer.is_redirect or 300 <= answer.status_code < 400:
            raise requests.HTTPError(f"the collector answers {answer.status_code}; redirects are not followed")
        if answer.ok and (count := _refused(signal, answer.content)):
            rejected(count)

    session = requests.Session()
    session.hooks["response"].append(read)
    return session


def _refused(signal: Signal, body: bytes) -> int:
    """``partial_success`` of an answer; one that cannot be read says nothing."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        if signal == "traces":
            return int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans)
        return int(ExportMetricsServiceResponse.FromString(body).partial_success.rejected_data_points)
    except Exception:  # protobuf's own, which has no types
        return 0


class Seldom(logging.Filter):
    """One record in a while: the exporters speak of every try."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created < self._quiet_until:
            return False
        self._quiet_until = record.created + SELDOM_S
        return True


def _speak_seldom(exporter: str) -> None:
    for way in ("http", "grpc"):
        logger = logging.getLogger(f"opentelemetry.exporter.otlp.proto.{way}.{exporter}")
        if not any(isinstance(one, Seldom) for one in logger.filters):
            logger.addFilter(Seldom())

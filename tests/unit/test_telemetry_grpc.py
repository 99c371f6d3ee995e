"""OTLP over gRPC, where its exporter is installed (CrewAI brings it): spans and numbers arrive as over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from outrider.telemetry.environment import Target
from outrider.telemetry.otlp import MetricSender, SpanSender, resource
from outrider.telemetry.snapshot import Family, Snapshot
from tests.unit.test_telemetry_shipping import span

grpc = pytest.importorskip("grpc")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")


@pytest.fixture
def received() -> Iterator[tuple[str, list[Any]]]:
    """A collector's address, and what it was sent."""
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    found: list[Any] = []

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, context: Any) -> Any:
            found.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, context: Any) -> Any:
            found.append(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", found
    server.stop(None).wait(10)


def test_spans_and_numbers_arrive_over_grpc(received: tuple[str, list[Any]]) -> None:
    """With the same senders."""
    endpoint, found = received
    target = Target(endpoint, "grpc", 10.0)
    spans = SpanSender(target, resource("i"), lambda count: None)
    assert spans([span(name="over grpc")])
    numbers = MetricSender(target, resource("i"), lambda count: None)
    assert numbers([Snapshot(1, 2, [Family("m", "M.", "gauge", "1", (), [((), 3)])])])
    spans.close()
    numbers.close()
    assert found[0].resource_spans[0].scope_spans[0].spans[0].name == "over grpc"
    assert found[1].resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0].as_int == 3


def test_a_collector_that_is_not_there_takes_nothing(received: tuple[str, list[Any]]) -> None:
    """Within the time that it was given."""
    sender = SpanSender(Target("http://127.0.0.1:1", "grpc", 0.3), resource("i"), lambda count: None)
    assert not sender([span()])
    sender.close()

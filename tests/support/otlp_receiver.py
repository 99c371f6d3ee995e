"""A collector: a real OTLP/HTTP server in threads, which decodes what it is sent and answers as it is told."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT"}


class Received:
    """A span as it arrived."""

    def __init__(self, span: Span, resource: dict[str, Any]) -> None:
        self.name, self.kind = span.name, KINDS[span.kind]
        self.trace_id, self.id, self.parent_id = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
        self.tracestate = span.trace_state
        self.attributes = values(span.attributes)
        self.events = [(event.name, values(event.attributes)) for event in span.events]
        self.event_times = [event.time_unix_nano for event in span.events]
        self.start_ns, self.end_ns = span.start_time_unix_nano, span.end_time_unix_nano
        self.is_error, self.status = span.status.code == 2, span.status.message
        self.resource = resource


class Receiver:
    """``status`` and ``headers`` are answered. ``refuses``: so many spans of each request it says it did not take."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.refuses = 0
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._spans: list[Received] = []
        self._metrics: list[ExportMetricsServiceRequest] = []
        self._hang = threading.Event()
        self._hang.set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Receiver:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self.down()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listen; after ``down``, on the same port."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def hang(self) -> None:
        """Take requests and answer none of them."""
        self._hang.clear()

    def resume(self) -> None:
        self._hang.set()

    # ── what came ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def spans(self) -> list[Received]:
        return list(self._spans)

    def trace(self, trace_id: str) -> list[Received]:
        return [span for span in self._spans if span.trace_id == trace_id]

    def metrics(self) -> dict[str, Any]:
        """The newest value of every metric: name → protobuf ``Metric``."""
        return {metric.name: metric for request in list(self._metrics) for metric in _metrics_in(request)}

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        self.requests.append((path, headers))
        self._hang.wait(120)
        if self.status != 200:
            return self.status, b""
        if path.endswith("/v1/traces"):
            return 200, self._take_spans(ExportTraceServiceRequest.FromString(body))
        assert path.endswith("/v1/metrics"), path
        self._metrics.append(ExportMetricsServiceRequest.FromString(body))
        return 200, ExportMetricsServiceResponse().SerializeToString()

    def _take_spans(self, request: ExportTraceServiceRequest) -> bytes:
        for one in request.resource_spans:
            resource = values(one.resource.attributes)
            self._spans += [Received(span, resource) for scope in one.scope_spans for span in scope.spans]
        answer = ExportTraceServiceResponse()
        if self.refuses:
            answer.partial_success.rejected_spans = self.refuses
            answer.partial_success.error_message = "too many"
        return answer.SerializeToString()


def _metrics_in(request: ExportMetricsServiceRequest) -> Iterator[Any]:
    for one in request.resource_metrics:
        for scope in one.scope_metrics:
            yield from scope.metrics


def values(attributes: Any) -> dict[str, Any]:
    """Protobuf's key-value list as a dictionary."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status, answer = receiver.take(self.path, dict(self.headers), body)
            try:
                self._answer(status, answer)
            except OSError:
                self.close_connection = True  # who asked has left

        def _answer(self, status: int, answer: bytes) -> None:
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    return Handler

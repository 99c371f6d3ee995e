"""Trace context (W3C ``traceparent`` and ``tracestate``): of the running span, and of one that is the sidecar's."""

from __future__ import annotations

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


def running() -> tuple[str, str]:
    """``traceparent`` (``00-<trace>-<span>-<flags>``) and ``tracestate``, empty when no span is current."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return "", ""
    parent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"
    return parent, span.trace_state.to_header() if span.trace_state else ""


def enter(traceparent: str) -> None:
    """Have the spans of a function hang below the sidecar's attempt, in a context that is the attempt's own.

    Where a span of this process is being recorded it stays the current one: the function may add to it, and it is of
    the same trace."""
    if not traceparent or trace.get_current_span().is_recording():
        return
    context.attach(_propagator.extract({"traceparent": traceparent}))

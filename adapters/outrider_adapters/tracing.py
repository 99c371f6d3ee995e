"""The trace context of the running span, as W3C ``traceparent``."""

from __future__ import annotations

from opentelemetry import trace


def traceparent() -> str:
    """``00-<trace>-<span>-<flags>``, empty when no span is current."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

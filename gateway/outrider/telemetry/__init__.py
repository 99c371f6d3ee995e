"""Numbers and traces: what this process tells those who watch it.

metrics      counters, histograms, gauges, their text      instruments   which ones there are (``Telemetry``)
context      traceparent and tracestate                    traces        a call's trace, as plain data
semconv      the names                                     environment   the ``OTEL_*`` variables
snapshot     all numbers of a moment                       shipping      an exporter's queue and thread
otlp         the SDK's exporters, imported where used      exporting     starts and ends them
"""

from outrider.telemetry.context import traceparent_from, tracestate_from
from outrider.telemetry.instruments import Telemetry
from outrider.telemetry.metrics import CONTENT_TYPE, Reading
from outrider.telemetry.traces import Ending, Trace

__all__ = ["CONTENT_TYPE", "Ending", "Reading", "Telemetry", "Trace", "traceparent_from", "tracestate_from"]

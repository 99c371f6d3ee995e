"""The exporters of this process: started where the environment asks for them, and ended in good order and in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from outrider import clock
from outrider.errors import Misconfigured
from outrider.telemetry.environment import Exports, shown
from outrider.telemetry.instruments import Telemetry
from outrider.telemetry.shipping import REFUSED, Shipper
from outrider.telemetry.snapshot import Snapshot
from outrider.telemetry.traces import Span, Traces

if TYPE_CHECKING:
    from outrider.telemetry.otlp import MetricSender, SpanSender

FLUSH_S: Final = 2.0
"""How long the end of the process waits for what is still to be delivered."""

log = logging.getLogger("outrider.telemetry")


class Exporting:
    """What leaves this process. Nothing of the SDK is imported before ``start``, and nothing where all is off."""

    def __init__(self, exports: Exports, telemetry: Telemetry, instance: str) -> None:
        """``instance`` tells this process from others."""
        self._exports = exports
        self._telemetry = telemetry
        self._instance = instance
        self._spans: Shipper[Span] | None = None
        self._snapshots: Shipper[Snapshot] | None = None
        self._senders: list[SpanSender | MetricSender] = []
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. On the event loop. Raises Misconfigured where the exporter is not installed."""
        if self._exports.off:
            return
        try:
            from outrider.telemetry import otlp
        except ImportError as missing:
            hint = "pip install 'outrider[gateway]', or set OTEL_SDK_DISABLED=true."
            raise Misconfigured(f"OTEL_* ask for an exporter that is not installed ({missing}): {hint}") from None
        about = otlp.resource(self._instance)
        if self._exports.traces is not None:
            rejected = partial(self._telemetry.on_dropped, "traces", REFUSED)
            self._start_traces(otlp.SpanSender(self._exports.traces, about, rejected))
            log.info("traces are exported", extra={"endpoint": shown(self._exports.traces.endpoint)})
        if self._exports.metrics is not None:
            rejected = partial(self._telemetry.on_dropped, "metrics", REFUSED)
            self._start_metrics(otlp.MetricSender(self._exports.metrics, about, rejected))
            log.info("metrics are exported", extra={"endpoint": shown(self._exports.metrics.endpoint)})

    def _start_traces(self, sender: SpanSender) -> None:
        exports = self._exports
        self._senders.append(sender)
        self._spans = Shipper(
            "traces",
            sender,
            partial(self._telemetry.on_dropped, "traces"),
            max_queue=exports.max_queue,
            max_batch=exports.max_batch,
            schedule_s=exports.schedule_s,
        )
        self._telemetry.traces = Traces(exports.sampler, self._spans.put, content=exports.content)

    def _start_metrics(self, sender: MetricSender) -> None:
        self._senders.append(sender)
        # a second snapshot never waits behind the first: the next one says all that this one would have
        self._snapshots = Shipper(
            "metrics",
            sender,
            partial(self._telemetry.on_dropped, "metrics"),
            max_queue=1,
            max_batch=1,
            schedule_s=self._exports.interval_s,
            size=lambda snapshot: snapshot.points,
        )
        self._ticking = asyncio.get_running_loop().create_task(self._tick(self._snapshots))

    async def _tick(self, snapshots: Shipper[Snapshot]) -> None:
        while True:
            await asyncio.sleep(self._exports.interval_s)
            snapshots.put([self._telemetry.snapshot()])

    async def stop(self) -> None:
        """Deliver what is there, at most two seconds long."""
        self._telemetry.traces = None
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
        if self._snapshots is not None:
            self._snapshots.put([self._telemetry.snapshot()])
        shippers = [one for one in (self._spans, self._snapshots) if one is not None]
        for one in shippers:
            one.stop()
        until = clock.monotonic() + FLUSH_S
        for one in shippers:
            await asyncio.to_thread(one.join, max(0.0, until - clock.monotonic()))
        for sender in self._senders:
            sender.close()

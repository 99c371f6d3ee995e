"""Sends telemetry away on a thread of its own: nothing here makes a call wait, grows without bound, or goes missing
without being counted.

    put ──► queue (bounded) ──► thread: in batches, when one is full or its time has come ──► send
             full: dropped, counted                                          not taken: dropped, counted

The thread is a daemon: a collector that never answers holds up neither the calls nor the end of the process.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Dropped = Callable[[str, int], None]

QUEUE_FULL: Final = "queue_full"
FAILED: Final = "export_failed"
REFUSED: Final = "refused"
STOPPED: Final = "shutdown"
REASONS: Final = (QUEUE_FULL, FAILED, REFUSED, STOPPED)

log = logging.getLogger("outrider.telemetry")


class Shipper(Generic[Item]):
    """One signal's way out."""

    def __init__(
        self,
        signal: str,
        send: Callable[[Sequence[Item]], bool],
        dropped: Dropped,
        *,
        max_queue: int,
        max_batch: int,
        schedule_s: float,
        size: Callable[[Item], int] = lambda item: 1,
    ) -> None:
        """``send`` delivers a batch, however long that takes, and says whether it was taken. ``dropped(reason, count)``
        is called from any thread. ``size`` is what an item counts for there."""
        self._signal = signal
        self._send = send
        self._dropped = dropped
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._schedule_s = schedule_s
        self._size = size
        self._queue: deque[Item] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._gave_up = False
        self._delivers = True
        self._thread = threading.Thread(target=self._work, name=f"outrider-{signal}", daemon=True)
        self._thread.start()

    def put(self, items: Sequence[Item]) -> None:
        """Take all of them or none: half a trace is worse than none. Never waits. From the event loop's thread only."""
        queue = self._queue
        if self._stopping or len(queue) + len(items) > self._max_queue:
            self._drop(STOPPED if self._stopping else QUEUE_FULL, items)
            return
        queue.extend(items)
        if len(queue) >= self._max_batch and not self._wake.is_set():
            self._wake.set()

    def stop(self) -> None:
        """Take nothing more and send what is queued. Returns at once; ``join`` waits."""
        self._stopping = True
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the last batch, so long; what is queued after that is given up."""
        self._thread.join(timeout_s)
        self._gave_up = True
        self._drop(STOPPED, self._batch(len(self._queue)))

    # ── on its thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while not self._stopping:
            full = self._wake.wait(self._schedule_s)
            self._wake.clear()
            self._ship(at_least=self._max_batch if full and not self._stopping else 1)
        self._ship(at_least=1)

    def _ship(self, at_least: int) -> None:
        while len(self._queue) >= at_least and not self._gave_up:
            batch = self._batch(self._max_batch)
            if not batch:
                return
            taken = self._try(batch)
            if not taken:
                self._drop(STOPPED if self._gave_up else FAILED, batch)
            self._tell(taken)

    def _try(self, batch: Sequence[Item]) -> bool:
        try:
            return self._send(batch)
        except Exception:
            log.exception("%s could not be sent", self._signal)
            return False

    def _batch(self, most: int) -> list[Item]:
        found: list[Item] = []
        while len(found) < most:
            try:
                found.append(self._queue.popleft())
            except IndexError:  # the other thread was faster
                break
        return found

    def _drop(self, reason: str, items: Sequence[Item]) -> None:
        if count := sum(map(self._size, items)):
            self._dropped(reason, count)

    def _tell(self, delivers: bool) -> None:
        """Once when it begins, once when it is over: every batch of an outage would bury the log."""
        if delivers and not self._delivers:
            log.info("%s are delivered again", self._signal)
        elif self._delivers and not delivers:
            log.warning("%s cannot be delivered and are dropped; calls go on", self._signal)
        self._delivers = delivers

"""The only place that asks for the time, and the ids that carry it.

``monotonic`` is the event loop's time, so that a loop with a virtual clock governs every wait, window and
timeout of the gateway. ``wall`` is UTC for people and for the ledger; no decision inside a process rests on it alone.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime


def monotonic() -> float:
    """Seconds on the running event loop's clock, or on the system's monotonic clock where no loop runs.

    uvloop counts on the system's monotonic clock too, but tells whole milliseconds, once for each turn of the loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return time.monotonic()
    return loop.time() if isinstance(loop, asyncio.BaseEventLoop) else time.monotonic()


def wall() -> float:
    """Seconds since the Unix epoch, UTC."""
    return time.time()


def stamp(seconds: float | None = None) -> str:
    """RFC 3339 in UTC with microseconds, for example ``2026-11-22T15:04:05.000001Z``."""
    moment = datetime.fromtimestamp(wall() if seconds is None else seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


_POOL_BYTES = 4096
_pool = b""  # random bytes of the system, fetched many at a time: a system call for each id would be most of its cost
_VARIANTS = "89ab"


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    global _pool
    if len(_pool) < 10:
        _pool = os.urandom(_POOL_BYTES)
    random_hex, _pool = _pool[:10].hex(), _pool[10:]
    time_hex = f"{int(wall() * 1000):012x}"
    variant = _VARIANTS[int(random_hex[0], 16) & 3]
    return f"{time_hex[:8]}-{time_hex[8:]}-7{random_hex[1:4]}-{variant}{random_hex[4:7]}-{random_hex[7:19]}"


def _forget_pool() -> None:
    global _pool
    _pool = b""


os.register_at_fork(after_in_child=_forget_pool)

"""The only place that asks for the time, and the ids that carry it.

``monotonic`` is the event loop's time, so that a loop with a virtual clock governs every wait, window and
timeout of the gateway. ``wall`` is UTC for people and for the ledger; no decision inside a process rests on it alone.
"""

from __future__ import annotations

import asyncio
import secrets
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


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    milliseconds = int(wall() * 1000) & 0xFFFFFFFFFFFF
    random_bits = secrets.randbits(74)
    value = milliseconds << 80 | 0x7 << 76 | (random_bits >> 62) << 64 | 0b10 << 62 | random_bits & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

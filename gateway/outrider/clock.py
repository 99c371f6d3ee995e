"""The only place that asks for the time, and the ids that carry it.

``monotonic`` is the event loop's time, so that a loop with a virtual clock governs every wait, window and
timeout of the gateway. ``wall`` is UTC for people and for the ledger; no decision inside a process rests on it alone.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path


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


BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
"""Linux: names the boot, so that monotonic times of the process before this one can be compared with ours."""


def boot_id() -> str:
    """Empty where the system does not tell: monotonic times of an earlier process are then never compared."""
    try:
        return BOOT_ID_FILE.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


_POOL_BYTES = 4096
_pool = b""  # random bytes of the system, fetched many at a time: a system call for each use would be most of its cost
_taken = 0
_VARIANTS = "89ab"


def random_bytes(size: int) -> bytes:
    """Unguessable bytes, at most 4096, each given out once."""
    global _pool, _taken
    begin = _taken
    _taken = begin + size
    if _taken > len(_pool):
        _pool = os.urandom(_POOL_BYTES)
        begin, _taken = 0, size
    return _pool[begin:_taken]


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    random_hex = random_bytes(10).hex()
    time_hex = f"{int(wall() * 1000):012x}"
    variant = _VARIANTS[int(random_hex[0], 16) & 3]
    return f"{time_hex[:8]}-{time_hex[8:]}-7{random_hex[1:4]}-{variant}{random_hex[4:7]}-{random_hex[7:19]}"


class Ids:
    """UUIDv7s for one writer's own records, at a third of the cost: 48 bits of milliseconds, 42 random bits that stay,
    and a counter of 32 (RFC 9562, section 6.2, method 1, with the counter at the end). Unique, not unguessable."""

    def __init__(self) -> None:
        text = new_id()
        self._middle = text[13:28]  # version, 12 random bits, variant, 14 and 16 more
        self._count = 0
        self._ms = -1
        self._time = ""

    def next(self, ms: int) -> str:
        """The next one, at ``ms`` milliseconds since the epoch."""
        if ms != self._ms:
            self._ms = ms
            time_hex = f"{ms:012x}"
            self._time = f"{time_hex[:8]}-{time_hex[8:]}"
        self._count = (self._count + 1) & 0xFFFFFFFF
        return f"{self._time}{self._middle}{self._count:08x}"


def ask_the_system() -> None:
    """Have ``monotonic`` be the system's clock, unasked which loop runs: for a process whose one loop counts on it."""
    globals()["monotonic"] = time.monotonic


def _forget_pool() -> None:
    global _pool, _taken
    _pool, _taken = b"", 0


os.register_at_fork(after_in_child=_forget_pool)

"""Waiting for another process, bounded."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool], within_s: float = 10.0, every_s: float = 0.05) -> bool:
    """Whether ``holds()`` became true in time. For what another process does in its own time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(every_s)
    return holds()

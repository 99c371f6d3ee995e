"""Waiting for other processes, within bounds that a slow machine does not reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from outrider import clock

PATIENCE_S = 30.0
LOOK_S = 0.01
T = TypeVar("T")


def wait_for(look: Callable[[], T | None], what: str, within_s: float = PATIENCE_S) -> T:
    """What ``look()`` gives as soon as that is true. Raises AssertionError, which says what did not come."""
    until = clock.monotonic() + within_s
    while not (found := look()):
        assert clock.monotonic() < until, f"within {within_s:g} s {what} did not come"
        time.sleep(LOOK_S)
    return found

"""What is observed of an agent: ready, degraded or lost. A table, and a clock that stands still while the sidecar did.

    ready      its process is connected and its heartbeats come
    degraded   heartbeats are late, its connection broke, or half of its last calls failed
    lost       nothing was heard of it for ``limits.suspectFor``

Silence is counted in the sidecar's own running time. A sidecar that was stopped (SIGSTOP, a suspended machine) heard
nobody because it did not listen: such a gap counts for nothing, and everybody gets a fresh period after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

TICK_S = 1.0
"""How often the observer looks."""
GAP_S = 3.0
"""A tick later than this: we stood still."""
LATE_S = 12.0
"""Silence of a connected process after which its heartbeats are late; it sends one every 5 s."""
RECENT_CALLS = 20
FAILING_CALLS = 10
"""So many failures among the last ``RECENT_CALLS`` calls that were tried, and the agent is degraded."""
RECENT_S = 300.0
"""Calls longer ago than this say nothing about now."""


class Observed(StrEnum):
    READY = "ready"
    DEGRADED = "degraded"
    LOST = "lost"


class Sign(StrEnum):
    """What the observer notices of one process."""

    HEARD = "heard"  # it connected, or a heartbeat came
    LATE = "late"
    BROKE = "broke"  # its connection ended without goodbye
    SILENT = "silent"  # for limits.suspectFor


NEXT: Mapping[tuple[Observed, Sign], Observed] = {
    (Observed.READY, Sign.HEARD): Observed.READY,
    (Observed.READY, Sign.LATE): Observed.DEGRADED,
    (Observed.READY, Sign.BROKE): Observed.DEGRADED,
    (Observed.READY, Sign.SILENT): Observed.LOST,
    (Observed.DEGRADED, Sign.HEARD): Observed.READY,
    (Observed.DEGRADED, Sign.LATE): Observed.DEGRADED,
    (Observed.DEGRADED, Sign.BROKE): Observed.DEGRADED,
    (Observed.DEGRADED, Sign.SILENT): Observed.LOST,
    (Observed.LOST, Sign.HEARD): Observed.READY,
    (Observed.LOST, Sign.LATE): Observed.LOST,
    (Observed.LOST, Sign.BROKE): Observed.LOST,
    (Observed.LOST, Sign.SILENT): Observed.LOST,
}
"""Whole: the same session restores itself, and nothing else does."""


class OwnTime:
    """How long this sidecar has been running, without the gaps in which it stood still."""

    __slots__ = ("_last", "ran")

    def __init__(self, now: float) -> None:
        self._last = now
        self.ran = 0.0

    def tick(self, now: float) -> bool:
        """Go on to monotonic ``now``. True: there was a gap, which does not count."""
        passed = now - self._last
        self._last = now
        gap = passed > GAP_S or passed < 0
        self.ran += TICK_S if gap else passed
        return gap


def sign_of(silent_s: float, connected: bool, lost_after_s: float) -> Sign:
    """What so long a silence means. A process that is connected is not lost between two of its heartbeats, however
    short ``limits.suspectFor`` is."""
    if silent_s >= (max(lost_after_s, 2 * LATE_S) if connected else lost_after_s):
        return Sign.SILENT
    if not connected:
        return Sign.BROKE
    return Sign.LATE if silent_s >= LATE_S else Sign.HEARD


class Recent:
    """The last calls of one agent that were tried, as bits: 1 failed."""

    __slots__ = ("_at", "_bits")

    def __init__(self) -> None:
        self._bits = 0
        self._at = 0.0

    def note(self, failed: bool, now: float) -> None:
        """One more ended; ``now`` is the sidecar's own running time."""
        if now - self._at > RECENT_S:
            self._bits = 0
        self._at = now
        self._bits = (self._bits << 1 | failed) & (1 << RECENT_CALLS) - 1

    def failing(self, now: float) -> bool:
        return now - self._at <= RECENT_S and self._bits.bit_count() >= FAILING_CALLS

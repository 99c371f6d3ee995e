"""What became of the calls of the last quarter of an hour, second by second: the history that a page shows when it is
opened. One list of counts for each second, in a ring; the hot path adds one to one number."""

from __future__ import annotations

from outrider.calls import Outcome, OutcomeKind

SECONDS = 900
WORDS = ("ok", "saved", "failed", "unknown", "refused")
"""The columns. ``saved``: ok, and only by a second attempt or a fallback. ``refused``: nothing was ever sent."""
OK, SAVED, FAILED, UNKNOWN, REFUSED = range(len(WORDS))

_COLUMN = {
    OutcomeKind.SUSPENDED: OK,
    OutcomeKind.DEFINITE: FAILED,
    OutcomeKind.NOT_EXECUTED: FAILED,
    OutcomeKind.UNKNOWN: UNKNOWN,
}

Counts = list[int]


class Pulse:
    """Counts of calls that ended. ``now`` is monotonic seconds."""

    def __init__(self) -> None:
        self._ring: list[Counts] = [[0] * len(WORDS) for _ in range(SECONDS)]
        self._second = 0
        self._slot = self._ring[0]

    def ended(self, outcome: Outcome, attempts: int, now: float) -> None:
        """One more call ended."""
        second = int(now)
        if second > self._second:
            self._turn(second)
        if outcome.kind is OutcomeKind.OK:
            self._slot[SAVED if attempts > 1 or outcome.degraded else OK] += 1
        else:
            self._slot[_COLUMN[outcome.kind] if attempts else REFUSED] += 1

    def history(self, now: float) -> list[Counts]:
        """Every second that is over, oldest first; the one that still counts is left out."""
        self.ended_before(now)
        at = self._second % SECONDS
        return [list(counts) for counts in (*self._ring[at + 1 :], *self._ring[:at])]

    def ended_before(self, now: float) -> int:
        """The last second that is over."""
        second = int(now)
        if second > self._second:
            self._turn(second)
        return self._second - 1

    def _turn(self, second: int) -> None:
        """Begin a second; those in which nothing ended hold nothing."""
        for late in range(max(self._second + 1, second - SECONDS + 1), second + 1):
            self._ring[late % SECONDS] = [0] * len(WORDS)
        self._second = second
        self._slot = self._ring[second % SECONDS]

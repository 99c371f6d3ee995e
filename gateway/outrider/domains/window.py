"""A count over the last seconds, in buckets: bounded memory, whatever the rate."""

from __future__ import annotations

from collections import deque
from math import floor

BUCKETS = 10
"""A window is this many buckets, so its edge is exact to a tenth of its span."""


class Window:
    """Counts what happened in the last ``span_s`` seconds. ``now`` never goes back.

    The edge falls inside one bucket. ``at_most`` leaves that bucket out (it covers nine tenths of the span or more,
    never more than the span), ``at_least`` takes it in (the span or more): who compares two counts picks for each
    the side that refuses in doubt."""

    __slots__ = ("_buckets", "_total", "_width_s", "span_s")

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self._width_s = span_s / BUCKETS
        self._buckets: deque[list[int]] = deque()  # [index, count], oldest first, at most BUCKETS + 1
        self._total = 0  # of all buckets

    def add(self, now: float, count: int = 1) -> None:
        """Count ``count`` things that happen now."""
        index = floor(now / self._width_s)
        buckets = self._buckets
        self._total += count
        if buckets and buckets[-1][0] >= index:
            buckets[-1][1] += count
            return
        buckets.append([index, count])
        self._forget(index)

    def at_most(self, now: float) -> int:
        """What happened in the last ``span_s`` seconds, perhaps a bucket too few."""
        index = floor(now / self._width_s)
        self._forget(index)
        buckets = self._buckets
        if buckets and buckets[0][0] == index - BUCKETS:
            return self._total - buckets[0][1]
        return self._total

    def at_least(self, now: float) -> int:
        """What happened in the last ``span_s`` seconds, perhaps a bucket too many."""
        self._forget(floor(now / self._width_s))
        return self._total

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self._total = 0

    def resized(self, span_s: float, *, late: bool = False) -> Window:
        """The same counts in a window of another span. ``late`` moves what cannot be placed exactly to the later
        side, so that ``at_least`` stays true; otherwise to the earlier, so that ``at_most`` does."""
        other = Window(span_s)
        for index, count in self._buckets:
            edge = index + 1 if late else index
            other.add(edge * self._width_s, count)
        return other

    def _forget(self, index: int) -> None:
        """Drop what no window that ends in bucket ``index`` or later can hold."""
        buckets, oldest = self._buckets, index - BUCKETS
        while buckets and buckets[0][0] < oldest:
            self._total -= buckets.popleft()[1]

"""Percentiles of how long things took, in bounded memory: counts by buckets that are 2 % wide."""

from __future__ import annotations

import math
from collections import Counter

_WIDTH = math.log(1.02)
_SMALLEST_MS = 0.01


class Sketch:
    """Any number of durations. A percentile is the upper bound of its bucket, so at most 2 % too long."""

    __slots__ = ("_buckets", "count", "longest_ms")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.longest_ms = 0.0

    def add(self, ms: float) -> None:
        """One more that took so long. What is no duration is left out."""
        if not 0.0 <= ms < 1e12:
            return
        self.count += 1
        self.longest_ms = max(self.longest_ms, ms)
        self._buckets[math.ceil(math.log(max(ms, _SMALLEST_MS)) / _WIDTH)] += 1

    def percentile_ms(self, share: float) -> float:
        """The duration that this share (0.99, say) did not exceed; 0 where nothing was seen."""
        left = math.ceil(self.count * share)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(math.exp(bucket * _WIDTH), self.longest_ms)
        return 0.0

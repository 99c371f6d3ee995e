"""A token bucket: how many attempts a second an upstream is sent. Pure; ``now`` is handed in."""

from __future__ import annotations

from typing import Any

from outrider.policy.plans import RateLimit

MAX_DRAIN_S = 3600.0
"""However long a ``Retry-After`` is, the bucket opens again after this: one mistaken header must not shut an upstream
until the sidecar is restarted."""

ROUNDING = 1e-6
"""A caller that slept ``wait_s`` exactly must find its token in spite of floating point."""


class TokenBucket:
    """Refills at ``rate_per_s`` up to ``burst``; one token an attempt. It starts full.

    ``now`` is monotonic seconds and never goes back. ``settings.on_limit`` says what a caller does about an empty
    bucket; the bucket itself never waits. Raises ValueError for a rate or a burst that could never give a token."""

    __slots__ = ("_drained_until", "_filled_at", "_settings", "_tokens")

    def __init__(self, settings: RateLimit) -> None:
        _check(settings)
        self._settings = settings
        self._tokens = float(settings.burst)
        self._filled_at = float("-inf")  # full since ever
        self._drained_until = float("-inf")

    @property
    def settings(self) -> RateLimit:
        return self._settings

    def configure(self, settings: RateLimit, now: float) -> None:
        """Another rate or burst; the tokens that are there stay, but none above the new burst."""
        _check(settings)
        self._fill(now)
        self._settings = settings
        self._tokens = min(self._tokens, float(settings.burst))

    def wait_s(self, now: float) -> float:
        """Seconds until a token can be taken; 0: now."""
        self._fill(now)
        drained_s = max(0.0, self._drained_until - now)
        missing = 1.0 - self._tokens
        if missing <= ROUNDING:
            return drained_s
        return drained_s + missing / self._settings.rate_per_s

    def take(self, now: float) -> bool:
        """Take one token. False: there is none, and nothing was taken."""
        if self.wait_s(now) > 0.0:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True

    def refund(self, now: float) -> None:
        """Put a token back that was taken for an attempt that was then not sent. Lost while the bucket is drained."""
        self._fill(now)
        if now >= self._drained_until:
            self._tokens = min(float(self._settings.burst), self._tokens + 1.0)

    def drain(self, now: float, for_s: float) -> None:
        """The upstream asked for ``for_s`` seconds of quiet (``Retry-After``): no caller gets a token before.

        Afterwards at most one token is there and the rest refills at the usual rate, so that the callers that wait do
        not all fall on it at once. A shorter request than one already in force changes nothing."""
        self._fill(now)
        until = now + min(max(0.0, for_s), MAX_DRAIN_S)
        if until <= max(now, self._drained_until):
            return
        since = max(now, self._filled_at)
        self._tokens = min(1.0, self._tokens + (until - since) * self._settings.rate_per_s)
        self._filled_at = until
        self._drained_until = until

    def is_full(self, now: float) -> bool:
        """Whether it is as a new one would be."""
        self._fill(now)
        return now >= self._drained_until and self._tokens >= self._settings.burst - ROUNDING

    def tokens(self, now: float) -> float:
        """What can be taken now: 0 while drained, else up to ``burst``."""
        self._fill(now)
        return 0.0 if now < self._drained_until else self._tokens

    def _fill(self, now: float) -> None:
        if now <= self._filled_at:
            return
        grown = self._tokens + (now - self._filled_at) * self._settings.rate_per_s
        self._tokens = min(float(self._settings.burst), grown)
        self._filled_at = now

    def snapshot(self, now: float) -> dict[str, Any]:
        """What people and metrics see; JSON types only."""
        return {
            "rate_per_s": self._settings.rate_per_s,
            "burst": self._settings.burst,
            "on_limit": self._settings.on_limit,
            "tokens": round(self.tokens(now), 3),
            "drained_for_s": round(max(0.0, self._drained_until - now), 3),
        }


def _check(settings: RateLimit) -> None:
    if settings.rate_per_s <= 0.0 or settings.burst < 1:
        raise ValueError("a token bucket needs a rate above 0 and a burst of at least 1")

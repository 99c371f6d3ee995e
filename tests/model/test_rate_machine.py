"""The token bucket against the list of everything it let through."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from outrider.domains.rate import TokenBucket
from outrider.policy.plans import RateLimit

LIMITS = (RateLimit(2.0, 4), RateLimit(0.5, 1), RateLimit(4.0, 2), RateLimit(1.0, 8, on_limit="reject"))
QUARTERS = st.integers(0, 30).map(lambda quarters: quarters / 4)
TOLERANCE = 1e-5


class RateMachine(RuleBasedStateMachine):
    @initialize(limit=st.sampled_from(LIMITS))
    def begin(self, limit: RateLimit) -> None:
        self.now = 100.0
        self.limit = limit
        self.bucket = TokenBucket(limit)
        self.sent: list[float] = []  # since the last change of settings
        self.quiet_until = 0.0

    @rule(by=QUARTERS)
    def time_passes(self, by: float) -> None:
        self.now += by

    @rule()
    def attempt_is_sent(self) -> None:
        """Invariant 15: so many sends in any span of time, never more; none while the upstream asked for quiet."""
        wait_s = self.bucket.wait_s(self.now)
        before = self.bucket.tokens(self.now)
        taken = self.bucket.take(self.now)
        assert taken is (wait_s == 0.0)
        if not taken:
            assert self.bucket.tokens(self.now) == before
            return
        assert self.now >= self.quiet_until - TOLERANCE
        assert abs(before - self.bucket.tokens(self.now) - 1.0) <= TOLERANCE
        self.sent.append(self.now)
        for first, moment in enumerate(self.sent):
            many = len(self.sent) - first
            assert many <= self.limit.burst + self.limit.rate_per_s * (self.now - moment) + TOLERANCE

    @rule()
    def attempt_waits_its_time(self) -> None:
        """Who sleeps as long as the bucket says finds a token."""
        self.now += self.bucket.wait_s(self.now)
        assert self.bucket.wait_s(self.now) <= TOLERANCE
        self.now += TOLERANCE
        self.attempt_is_sent()

    @rule()
    def attempt_was_not_sent(self) -> None:
        if self.sent and self.sent[-1] == self.now:
            self.bucket.refund(self.now)
            self.sent.pop()

    @rule(for_s=QUARTERS)
    def upstream_asks_for_quiet(self, for_s: float) -> None:
        before = self.bucket.tokens(self.now)
        self.bucket.drain(self.now, for_s)
        self.quiet_until = max(self.quiet_until, self.now + for_s)
        assert self.bucket.tokens(self.now) <= before
        assert self.bucket.wait_s(self.now) >= for_s - TOLERANCE
        if for_s > 0:
            assert self.bucket.tokens(self.quiet_until) <= 1.0 + TOLERANCE or self.quiet_until > self.now + for_s

    @rule(limit=st.sampled_from(LIMITS))
    def policy_changes(self, limit: RateLimit) -> None:
        """A change creates no tokens and keeps the upstream's request for quiet."""
        before = self.bucket.tokens(self.now)
        self.bucket.configure(limit, self.now)
        self.limit = limit
        self.sent = []
        assert self.bucket.tokens(self.now) <= min(before, limit.burst)
        assert self.bucket.wait_s(self.now) >= self.quiet_until - self.now - TOLERANCE

    @invariant()
    def never_negative_and_never_above_burst(self) -> None:
        if hasattr(self, "bucket"):
            assert 0.0 <= self.bucket.tokens(self.now) <= self.limit.burst


TestRateMachine = RateMachine.TestCase

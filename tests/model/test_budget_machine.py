"""The retry budget against the exact counts of everything that happened."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from outrider.domains.budget import Reservation, RetryBudget
from outrider.domains.window import BUCKETS
from outrider.policy import plans

SETTINGS = (
    plans.RetryBudget(ratio=0.2, window_s=10, min_retries=2),
    plans.RetryBudget(ratio=0.5, window_s=10, min_retries=0),
    plans.RetryBudget(ratio=0.0, window_s=10, min_retries=3),
    plans.RetryBudget(ratio=1.0, window_s=10, min_retries=1),
)


class BudgetMachine(RuleBasedStateMachine):
    sleeping = Bundle("sleeping")

    @initialize(settings=st.sampled_from(SETTINGS))
    def begin(self, settings: plans.RetryBudget) -> None:
        self.now = 500.0
        self.settings = settings
        self.budget = RetryBudget(settings)
        self.calls: list[float] = []
        self.retries: list[float] = []
        self.reserved = 0

    def within(self, moments: list[float], span_s: float) -> int:
        return sum(moment > self.now - span_s for moment in moments)

    def allowance(self, span_s: float) -> float:
        return self.settings.min_retries + self.settings.ratio * self.within(self.calls, span_s)

    @rule(by=st.integers(0, 12).map(lambda quarters: quarters / 4))
    def time_passes(self, by: float) -> None:
        self.now += by

    @rule(count=st.integers(1, 6))
    def calls_are_made(self, count: int) -> None:
        for _ in range(count):
            self.budget.note_call(self.now)
            self.calls.append(self.now)

    @rule(target=sleeping)
    def retry_is_decided(self) -> Reservation | None:
        """Never over budget by the exact count, and never refused for more than the window's rounding."""
        span_s = self.settings.window_s
        spent = self.within(self.retries, span_s) + self.reserved
        reservation = self.budget.reserve(self.now)
        if reservation is not None:
            assert spent + 1 <= self.allowance(span_s) + 1
            assert spent < self.allowance(span_s)
            self.reserved += 1
        else:
            width_s = span_s / BUCKETS
            assert self.within(self.retries, span_s + width_s) + self.reserved >= self.allowance(span_s - width_s)
        return reservation

    @rule(reservation=consumes(sleeping), again=st.booleans())
    def retry_starts(self, reservation: Reservation | None, again: bool) -> None:
        """Invariant 10: at each start of a retry, retries and reservations are within the share of calls."""
        if reservation is None:
            return
        self.reserved -= 1
        if reservation.start(self.now):
            spent = self.within(self.retries, self.settings.window_s) + self.reserved
            assert spent < self.allowance(self.settings.window_s)
            self.retries.append(self.now)
        if again:
            assert reservation.start(self.now) is False

    @rule(reservation=consumes(sleeping), times=st.integers(1, 3))
    def retry_is_cancelled(self, reservation: Reservation | None, times: int) -> None:
        if reservation is None:
            return
        self.reserved -= 1
        for _ in range(times):
            reservation.cancel()

    @rule(settings=st.sampled_from(SETTINGS))
    def policy_changes(self, settings: plans.RetryBudget) -> None:
        self.budget.configure(settings)
        self.settings = settings

    @invariant()
    def counts_are_true_and_memory_is_bounded(self) -> None:
        if not hasattr(self, "budget"):
            return
        assert self.budget.reserved == self.reserved >= 0
        snapshot = self.budget.snapshot(self.now)
        span_s = self.settings.window_s
        assert snapshot["calls"] <= self.within(self.calls, span_s)
        assert snapshot["retries"] >= self.within(self.retries, span_s)
        assert len(self.budget._calls._buckets) <= BUCKETS + 1


TestBudgetMachine = BudgetMachine.TestCase

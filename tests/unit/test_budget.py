"""The retry budget, promise by promise."""

from __future__ import annotations

import json

from outrider.domains.budget import RetryBudget
from outrider.policy import plans

SETTINGS = plans.RetryBudget(ratio=0.2, window_s=60.0, min_retries=2)


def test_the_floor_is_free() -> None:
    """A quiet upstream may always be retried a little."""
    budget = RetryBudget(SETTINGS)
    assert [budget.reserve(0.0) is not None for _ in range(3)] == [True, True, False]


def test_calls_pay_for_retries() -> None:
    """Ten calls pay for two retries beside the floor."""
    budget = RetryBudget(SETTINGS)
    for _ in range(10):
        budget.note_call(0.0)
    assert sum(budget.reserve(0.0) is not None for _ in range(10)) == 4


def test_sleeping_retries_count_at_once() -> None:
    """All that decide at the same moment share one budget, though none has started."""
    budget = RetryBudget(plans.RetryBudget(ratio=0.0, min_retries=1))
    first = budget.reserve(0.0)
    assert first is not None
    assert budget.reserve(0.0) is None
    first.cancel()
    assert budget.reserve(0.0) is not None


def test_a_started_retry_counts_for_a_window() -> None:
    """It is free again when the window has passed, not before."""
    budget = RetryBudget(plans.RetryBudget(ratio=0.0, window_s=60.0, min_retries=1))
    reservation = budget.reserve(0.0)
    assert reservation is not None
    assert reservation.start(1.0)
    assert budget.reserve(60.9) is None
    assert budget.reserve(67.0) is not None


def test_a_retry_whose_calls_left_the_window_is_not_sent() -> None:
    """Decided while calls paid for it, due when they no longer do: over budget at its start."""
    budget = RetryBudget(plans.RetryBudget(ratio=1.0, window_s=10.0, min_retries=0))
    budget.note_call(0.0)
    reservation = budget.reserve(1.0)
    assert reservation is not None
    assert reservation.start(20.0) is False
    assert budget.reserved == 0


def test_a_reservation_is_used_once() -> None:
    """Cancelling after the start, or twice, gives nothing back a second time."""
    budget = RetryBudget(SETTINGS)
    reservation = budget.reserve(0.0)
    assert reservation is not None
    assert reservation.start(0.0)
    reservation.cancel()
    reservation.cancel()
    assert reservation.start(0.0) is False
    assert budget.reserved == 0
    assert budget.snapshot(0.0)["retries"] == 1


def test_a_reload_keeps_the_counts() -> None:
    """Another ratio and another window, the same past."""
    budget = RetryBudget(SETTINGS)
    for second in range(30):
        budget.note_call(float(second))
    reservation = budget.reserve(30.0)
    assert reservation is not None
    reservation.start(30.0)
    kept = budget.reserve(30.0)
    assert kept is not None
    budget.configure(plans.RetryBudget(ratio=0.5, window_s=120.0, min_retries=0))
    shown = budget.snapshot(30.0)
    assert (shown["calls"], shown["retries"], shown["reserved"]) == (30, 1, 1)
    budget.configure(plans.RetryBudget(ratio=0.5, window_s=10.0, min_retries=0))
    assert budget.snapshot(31.0)["calls"] <= 10
    assert budget.snapshot(31.0)["retries"] == 1


def test_a_snapshot_is_json() -> None:
    """The control plane shows it as it is."""
    assert json.loads(json.dumps(RetryBudget(SETTINGS).snapshot(0.0)))["allowance"] == 2.0

"""The history of calls, second by second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.calls import Outcome, OutcomeKind
from outrider.pulse import FAILED, OK, REFUSED, SAVED, SECONDS, UNKNOWN, WORDS, Pulse

GOOD = Outcome(OutcomeKind.OK)


@pytest.mark.parametrize(
    ("outcome", "attempts", "column"),
    [
        (GOOD, 1, OK),
        (GOOD, 2, SAVED),
        (Outcome(OutcomeKind.OK, degraded=True), 1, SAVED),
        (Outcome(OutcomeKind.OK, degraded=True), 0, SAVED),
        (Outcome(OutcomeKind.SUSPENDED), 1, OK),
        (Outcome(OutcomeKind.DEFINITE), 1, FAILED),
        (Outcome(OutcomeKind.NOT_EXECUTED), 3, FAILED),
        (Outcome(OutcomeKind.NOT_EXECUTED), 0, REFUSED),
        (Outcome(OutcomeKind.DEFINITE), 0, REFUSED),
        (Outcome(OutcomeKind.UNKNOWN), 1, UNKNOWN),
    ],
)
def test_each_end_counts_in_one_column(outcome: Outcome, attempts: int, column: int) -> None:
    """What was never sent is refused, what was saved is not merely ok."""
    pulse = Pulse()
    pulse.ended(outcome, attempts, 10.5)
    assert pulse.history(11.0)[-1] == [int(n == column) for n in range(len(WORDS))]


def test_the_second_that_still_counts_is_not_shown() -> None:
    """It would be told twice, with two numbers."""
    pulse = Pulse()
    pulse.ended(GOOD, 1, 100.2)
    assert sum(map(sum, pulse.history(100.9))) == 0
    assert (pulse.ended_before(100.9), pulse.ended_before(101.0)) == (99, 100)
    assert pulse.history(101.0)[-1] == [1, 0, 0, 0, 0]


@given(st.lists(st.integers(0, 3 * SECONDS), min_size=1, max_size=40), st.integers(0, 2 * SECONDS))
def test_the_history_is_what_a_plain_list_of_ends_says(moments: list[int], rest: int) -> None:
    """Over gaps of any length."""
    pulse, moments = Pulse(), sorted(moments)
    for moment in moments:
        pulse.ended(GOOD, 1, moment + 0.5)
    now = moments[-1] + rest + 1
    history = [counts[OK] for counts in pulse.history(now)]
    assert len(history) == SECONDS - 1
    assert history == [moments.count(second) for second in range(now - SECONDS + 1, now)]

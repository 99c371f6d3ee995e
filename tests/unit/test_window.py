"""A count over the last seconds: which side of its edge it errs on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outrider.domains.window import BUCKETS, Window

STEPS = st.lists(st.integers(0, 30).map(lambda eighths: eighths / 8), max_size=60)


@given(steps=STEPS, span_s=st.sampled_from([0.5, 1.0, 10.0, 60.0]))
def test_one_count_never_exceeds_and_the_other_never_misses(steps: list[float], span_s: float) -> None:
    """``at_most`` ≤ the exact count of the span ≤ ``at_least``, and both are exact to one bucket."""
    window, now, moments = Window(span_s), 1000.0, []
    width_s = span_s / BUCKETS
    for step in steps:
        now += step
        window.add(now)
        moments.append(now)

        def within(seconds: float, now: float = now) -> int:
            return sum(moment > now - seconds for moment in moments)

        assert within(span_s - width_s) <= window.at_most(now) <= within(span_s)
        assert within(span_s) <= window.at_least(now) <= within(span_s + 2 * width_s)
        assert len(window._buckets) <= BUCKETS + 1


def test_a_resized_window_keeps_what_still_fits() -> None:
    """Shrunk it forgets what is too old, grown it keeps all."""
    window = Window(60.0)
    for second in range(60):
        window.add(float(second))
    assert window.resized(120.0).at_least(59.0) == 60
    assert 6 <= window.resized(10.0).at_most(59.0) <= 10
    assert window.resized(10.0, late=True).at_least(59.0) >= 10


def test_a_cleared_window_is_empty() -> None:
    """Nothing of before counts."""
    window = Window(1.0)
    window.add(5.0, 3)
    assert window.at_least(5.0) == 3
    window.clear()
    assert window.at_least(5.0) == 0

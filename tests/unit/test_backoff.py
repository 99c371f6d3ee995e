"""How long a retry sleeps."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from outrider.domains.backoff import ceiling_s, delay_s, parse_retry_after, retry_after_delay_s
from outrider.policy.plans import Retry

RETRIES = st.builds(
    Retry,
    initial_s=st.floats(0.0, 100.0),
    multiplier=st.floats(1.0, 10.0),
    max_s=st.floats(0.0, 1000.0),
)
NOW = datetime(2026, 11, 22, 15, 4, 5, tzinfo=UTC)


@given(index=st.integers(1, 10_000), retry=RETRIES, random=st.floats(0.0, 1.0, exclude_max=True))
@example(index=5000, retry=Retry(), random=0.999)
def test_a_sleep_is_between_zero_and_its_ceiling(index: int, retry: Retry, random: float) -> None:
    """Invariant 9: the sleep is in [0, min(max, initial * multiplier^(r-1))], however often is retried."""
    slept = delay_s(index, retry, lambda: random)
    assert 0.0 <= slept <= retry.max_s
    if index < 50:
        assert slept <= retry.initial_s * retry.multiplier ** (index - 1)


def test_the_ceiling_doubles_up_to_the_maximum() -> None:
    """The defaults: 0.2, 0.4, 0.8, … never above 5 s."""
    assert [ceiling_s(index, Retry()) for index in range(1, 8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_jitter_is_full() -> None:
    """The whole span down to zero is used."""
    assert delay_s(1, Retry(), lambda: 0.0) == 0.0
    assert delay_s(1, Retry(), lambda: 0.5) == pytest.approx(0.1)


def test_retry_indices_count_from_one() -> None:
    """Index 0 would be the call itself."""
    with pytest.raises(ValueError, match="counts from 1"):
        delay_s(0, Retry(), lambda: 0.5)


@given(asked_s=st.floats(0.0, 1e6), random=st.floats(0.0, 1.0, exclude_max=True))
def test_retry_after_is_never_early_and_hardly_late(asked_s: float, random: float) -> None:
    """Invariant 9: never before what the upstream asked for, at most a tenth and a second after it."""
    slept = retry_after_delay_s(asked_s, lambda: random)
    assert asked_s <= slept <= asked_s + min(1.0, 0.1 * asked_s)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("  7 ", 7.0),
        ("1.5", 1.5),
        (format_datetime(NOW.replace(second=35), usegmt=True), 30.0),
        ("Sun, 22 Nov 2026 15:04:15 GMT", 10.0),
        ("Sunday, 22-Nov-26 15:04:15 GMT", 10.0),
        ("Sun Nov 22 15:04:15 2026", 10.0),
        ("Sun, 22 Nov 2026 15:00:00 GMT", 0.0),
    ],
)
def test_both_forms_of_retry_after_are_read(header: str, seconds: float) -> None:
    """Delay-seconds and all three HTTP-date forms; a moment that has passed is now."""
    assert parse_retry_after(header, NOW.timestamp()) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "-1",
        "soon",
        "1e3",
        "nan",
        "inf",
        "٣",
        "12 apples",
        "9" * 5000,
        "Sun, 99 Nov 2026 15:04:15 GMT",
        "0x10",
    ],
)
def test_what_names_no_time_is_ignored(header: str | None) -> None:
    """A negative or unreadable value leaves the usual backoff in force."""
    assert parse_retry_after(header, NOW.timestamp()) is None


@given(st.text(max_size=60))
def test_no_header_raises(header: str) -> None:
    """An upstream cannot break a call with a header."""
    seconds = parse_retry_after(header, NOW.timestamp())
    assert seconds is None or seconds >= 0.0

"""The token bucket, promise by promise."""

from __future__ import annotations

import json

import pytest

from outrider.domains.rate import MAX_DRAIN_S, TokenBucket
from outrider.policy.plans import RateLimit


def bucket(rate_per_s: float = 2.0, burst: int = 4) -> TokenBucket:
    return TokenBucket(RateLimit(rate_per_s, burst))


def test_it_starts_full_and_gives_a_burst() -> None:
    """Four at once, then one every half second."""
    made = bucket()
    assert [made.take(0.0) for _ in range(5)] == [True, True, True, True, False]
    assert made.wait_s(0.0) == 0.5
    assert made.take(0.5)


def test_it_never_holds_more_than_the_burst() -> None:
    """A long pause saves nothing up."""
    made = bucket()
    made.take(0.0)
    assert made.tokens(1e9) == 4.0


def test_who_waited_as_told_finds_a_token() -> None:
    """In spite of floating point, at any clock and rate."""
    for rate_per_s in (0.1, 3.0, 7.0, 333.3):
        made, now = bucket(rate_per_s, 1), 1_234_567.891
        for _ in range(200):
            now += made.wait_s(now)
            assert made.take(now)


def test_a_token_not_used_is_put_back() -> None:
    """But never above the burst."""
    made = bucket()
    made.take(0.0)
    made.refund(0.0)
    made.refund(0.0)
    assert made.tokens(0.0) == 4.0


def test_retry_after_stops_every_caller_and_none_returns_early() -> None:
    """Ten seconds of quiet; then one call, and the usual rate after it."""
    made = bucket()
    made.drain(0.0, 10.0)
    assert made.wait_s(0.0) == 10.0
    assert not made.take(9.99)
    assert made.take(10.0)
    assert made.wait_s(10.0) == 0.5


def test_a_drain_creates_no_tokens() -> None:
    """An empty, slow bucket has not filled up when the quiet ends."""
    made = bucket(0.01, 1)
    made.take(0.0)
    made.drain(0.0, 1.0)
    assert made.wait_s(1.0) == pytest.approx(99.0)


def test_a_token_put_back_during_the_quiet_is_lost() -> None:
    """What was taken before the upstream asked for quiet does not add to what it gets after."""
    made = bucket()
    made.take(0.0)
    made.drain(0.0, 10.0)
    made.refund(1.0)
    assert made.take(10.0)
    assert not made.take(10.0)


def test_a_new_rate_counts_from_its_reload_on() -> None:
    """The time before it refilled at the old rate."""
    made = bucket(1.0, 100)
    for _ in range(100):
        made.take(0.0)
    made.configure(RateLimit(100.0, 100), 1.0)
    assert made.tokens(1.0) == 1.0


def test_the_longest_request_for_quiet_holds() -> None:
    """A shorter one that comes later does not cut it short."""
    made = bucket()
    made.drain(0.0, 10.0)
    made.drain(1.0, 2.0)
    assert made.wait_s(1.0) == 9.0
    made.drain(1.0, 20.0)
    assert made.wait_s(1.0) == 20.0


@pytest.mark.parametrize(("asked_s", "granted_s"), [(1e12, MAX_DRAIN_S), (-5.0, 0.0), (float("nan"), 0.0)])
def test_a_mistaken_header_does_not_shut_an_upstream(asked_s: float, granted_s: float) -> None:
    """The quiet is bounded, and nonsense is none."""
    made = bucket()
    made.drain(0.0, asked_s)
    assert made.wait_s(0.0) == granted_s


def test_a_reload_keeps_tokens_and_quiet() -> None:
    """A higher burst is not filled at once, a lower one cuts."""
    made = bucket()
    made.take(0.0)
    made.configure(RateLimit(2.0, 100, on_limit="reject"), 0.0)
    assert made.tokens(0.0) == 3.0
    assert made.settings.on_limit == "reject"
    made.configure(RateLimit(2.0, 1), 0.0)
    assert made.tokens(0.0) == 1.0
    made.drain(0.0, 5.0)
    made.configure(RateLimit(100.0, 50), 1.0)
    assert made.wait_s(1.0) == 4.0


@pytest.mark.parametrize(("rate_per_s", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_limit_that_never_gives_a_token_is_an_error(rate_per_s: float, burst: int) -> None:
    """Such a bucket would wait for ever."""
    with pytest.raises(ValueError, match="rate above 0"):
        TokenBucket(RateLimit(rate_per_s, burst))


def test_a_snapshot_is_json() -> None:
    """The control plane shows it as it is."""
    made = bucket()
    made.drain(0.0, 5.0)
    shown = json.loads(json.dumps(made.snapshot(1.0)))
    assert (shown["tokens"], shown["drained_for_s"]) == (0.0, 4.0)

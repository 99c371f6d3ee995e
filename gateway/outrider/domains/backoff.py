"""How long a retry sleeps: full jitter, or what the upstream asked for. Pure; randomness is handed in."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

from outrider.policy.plans import Retry

Rng = Callable[[], float]
"""A number from [0, 1), like ``random.random``."""

RETRY_AFTER_SPREAD = 0.1
RETRY_AFTER_SPREAD_MAX_S = 1.0
"""Callers that were told the same ``Retry-After`` come back spread over a tenth of it, at most a second."""

_DELAY_SECONDS = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?")
"""RFC 9110 allows whole seconds only; servers send fractions too, and ignoring those would retry early."""


def ceiling_s(retry_index: int, retry: Retry) -> float:
    """The longest sleep before retry ``retry_index`` (1 is the first): ``min(max, initial * multiplier^(index-1))``."""
    if retry_index < 1:
        raise ValueError("retry_index counts from 1")
    try:
        return min(retry.max_s, retry.initial_s * retry.multiplier ** (retry_index - 1))
    except OverflowError:
        return retry.max_s


def delay_s(retry_index: int, retry: Retry, rng: Rng) -> float:
    """Seconds to sleep before retry ``retry_index`` (1 is the first): uniform over ``[0, ceiling_s]``.

    Full jitter, as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): of the usual forms it makes the
    fewest calls collide."""
    return rng() * ceiling_s(retry_index, retry)


def retry_after_delay_s(retry_after_s: float, rng: Rng) -> float:
    """Seconds to sleep when the upstream named ``retry_after_s``: never less, and a little more so that callers
    that were all told the same do not return at once."""
    asked = max(0.0, retry_after_s)
    return asked + rng() * min(RETRY_AFTER_SPREAD_MAX_S, RETRY_AFTER_SPREAD * asked)


def parse_retry_after(header: str | None, now_wall: float) -> float | None:
    """Seconds from now that a ``Retry-After`` header names (RFC 9110, section 10.2.3), None when it names none.

    Takes delay-seconds and HTTP-date (``now_wall`` is epoch seconds). A moment that has passed is 0. A negative or
    unreadable value is None: the header is ignored, the usual backoff holds."""
    text = (header or "").strip()
    if _DELAY_SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        # An HTTP-date is GMT by definition; asctime form carries no zone at all.
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return max(0.0, aware.timestamp() - now_wall)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None

"""What is guessed from what was seen: effects, timeouts, limits, breakers; each with the reason it is guessed by."""

from __future__ import annotations

import math
import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from outrider.policy.plans import Plan, Retry, Timeouts
from outrider.policy.units import format_duration
from outrider.suggest.seen import Place, Tool

MIN_SAMPLES = 20
"""Fewer attempts than this say nothing about the slowest."""
DEFAULT_TIMEOUTS = Timeouts(total_s=120.0, per_try_s=30.0, connect_s=2.0)
"""For what was seen too seldom: patient enough for most tools, and an end."""
LEAST_S = 1.0

_READERS = frozenset(
    {"get", "list", "search", "find", "read", "fetch", "lookup", "look", "describe", "show", "count", "view", "browse",
     "retrieve", "peek"}
)  # fmt: skip
_WRITERS = frozenset(
    {"add", "append", "cancel", "create", "delete", "deploy", "drop", "execute", "insert", "kill", "merge", "modify",
     "move", "pay", "refund", "remove", "rename", "replace", "reset", "restart", "revoke", "run", "save", "send",
     "set", "stop", "submit", "truncate", "update", "upload", "upsert", "write"}
)  # fmt: skip
"""Wherever they stand in a name."""
_FIRST_WRITERS = frozenset(
    {"apply", "approve", "archive", "assign", "book", "buy", "charge", "clear", "close", "commit", "edit", "email",
     "grant", "invite", "make", "notify", "open", "order", "patch", "post", "publish", "push", "put", "reject",
     "schedule", "sell", "start", "store", "transfer"}
)  # fmt: skip
"""Where they begin a name, or follow an "and": elsewhere they may be nouns, as in ``get_order``."""
_JOINS = frozenset({"and", "or", "then"})
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_BY_METHOD = {
    "GET": "read", "HEAD": "read", "PUT": "idempotent", "DELETE": "idempotent", "POST": "write", "PATCH": "write",
}  # fmt: skip
_NICE_S = (1, 2, 3, 5, 8, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1800, 3600)


@dataclass(frozen=True, slots=True)
class Guess:
    """A value as a policy writes it, and why."""

    value: Any
    why: str


def effect(operation: str, method: str, declares: Set[str] = frozenset()) -> Guess:
    """What repeating the tool would do. ``method`` is that of its HTTP template, empty where it has none that is
    written, ``declares`` what its own annotations claim. In doubt a write: a write is never repeated once it may have
    run."""
    if method:
        return Guess(_BY_METHOD[method], f"its method is {method}")
    words = [word.lower() for word in _WORD.findall(operation)]
    if writer := next((word for word in words if word in _WRITERS), ""):
        return Guess("write", f"'{writer}' in its name")
    if len(declares) == 1:
        (claim,) = declares
        return Guess(claim, f"its own annotations say {claim}")
    if declares:
        return Guess("write", "its own annotations say now this, now that")
    firsts = [word for n, word in enumerate(words) if n == 0 or words[n - 1] in _JOINS]
    if writer := next((word for word in firsts if word in _FIRST_WRITERS), ""):
        return Guess("write", f"'{writer}' in its name")
    if firsts and firsts[0] in _READERS:
        return Guess("read", f"its name begins with '{firsts[0]}'")
    return Guess("write", "its name does not tell; a write is never repeated once it may have run")


def per_try(tool: Tool, in_force_s: float, default_s: float) -> Guess | None:
    """How long one attempt may take; None where the default will do."""
    longest_s = tool.took.longest_ms / 1000
    if tool.took.count < MIN_SAMPLES:
        if 2 * longest_s <= default_s and not tool.cut:
            return None
        wanted_s = max(2 * longest_s, in_force_s if tool.cut else 0.0)
        why = f"twice the longest ({_ms(tool.took.longest_ms)}) of only {tool.took.count} attempts"
    else:
        p99_ms = tool.took.percentile_ms(0.99)
        wanted_s = max(LEAST_S, 3 * p99_ms / 1000, 1.5 * longest_s)
        longest = _ms(tool.took.longest_ms)
        why = f"3 x p99 ({_ms(p99_ms)}) or 1.5 x the longest ({longest}) of {tool.took.count} attempts"
    if tool.cut:
        wanted_s = max(wanted_s, in_force_s)
        why += f"; {tool.cut} were cut short by a timeout, so not less than the {format_duration(in_force_s)} in force"
    return Guess(format_duration(nice(wanted_s)), why)


def total_s(tool: Tool, per_try_s: float, plan: Plan) -> float:
    """Enough for all attempts with the longest waits, for a place in the queue, and for what was seen."""
    retry = plan.retry
    asked_s = retry.retry_after_max_s if "retry.retryAfter.max" in plan.sources else 0.0
    wanted_s = max(
        worst_case_s(per_try_s, retry),
        1.5 * tool.whole.longest_ms / 1000,
        plan.upstream.domain.bulkhead.max_wait_s + per_try_s,
        plan.timeouts.total_s if tool.overdue else 0.0,
        asked_s,
    )
    return nice(wanted_s + 0.001)


def worst_case_s(per_try_s: float, retry: Retry) -> float:
    """All attempts with the longest waits between them."""
    waits = (min(retry.max_s, retry.initial_s * retry.multiplier**n) for n in range(retry.max_attempts - 1))
    return retry.max_attempts * per_try_s + sum(waits)


def nice(seconds: float) -> float:
    """The next number that a person would write."""
    found = next((step for step in _NICE_S if step >= seconds), None)
    return float(found if found is not None else 3600 * math.ceil(seconds / 3600))


def max_concurrent(place: Place, in_force: int) -> Guess | None:
    """Slots: twice what was needed; None where what is in force is enough."""
    short = place.refused.get("overloaded", 0)
    needed = 2 * max(place.most_at_once, in_force if short else 0)
    if needed <= in_force:
        return None
    why = f"twice the {place.most_at_once} that ran at once"
    return Guess(needed, why + (f"; {short} calls found no slot" if short else ""))


def rate_limit(place: Place) -> Guess | None:
    """Three times the busiest second: a runaway is held, what was seen is not."""
    if place.attempts < MIN_SAMPLES or not place.most_a_second:
        return None
    rate = 3 * place.most_a_second
    why = f"3 x the busiest second ({place.most_a_second} attempts) of {place.attempts}"
    return Guess([{"rate": f"{min(rate, 999_999)}/s", "burst": min(2 * rate, 999_999), "onLimit": "wait"}], why)


def breaker(place: Place) -> Guess | None:
    """Where failures cluster: open as soon as a cluster shows, and look again a few times while one lasts."""
    if not place.clusters:
        return None
    open_s = min(60.0, max(2.0, nice(place.longest_cluster_s / 4)))
    why = (
        f"{place.clusters} time(s) {5} or more failures in a row, at most {place.longest_run}, for up to "
        f"{place.longest_cluster_s:.0f} s"
    )
    return Guess({"consecutiveFailures": 5, "openFor": format_duration(open_s)}, why)


def took(tool: Tool) -> str:
    """What was measured, for a comment."""
    if not tool.took.count:
        return "no attempt was answered"
    half, most = tool.took.percentile_ms(0.5), tool.took.percentile_ms(0.99)
    return f"p50 {_ms(half)}, p99 {_ms(most)}, longest {_ms(tool.took.longest_ms)} of {tool.took.count} attempts"


def _ms(ms: float) -> str:
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.1f} s"

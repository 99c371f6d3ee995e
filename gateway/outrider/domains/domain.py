"""Fault domains: what shares a breaker, a bulkhead, a retry budget and rate limits.

A domain is an upstream; for ``local``, whose far end is each agent's own process, it is one (agent, tool). Only the
latter can be made to grow by a client, so only those are bounded: idle ones are evicted, and where none is idle
newcomers share one overflow domain.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

from outrider import clock
from outrider.calls import Call
from outrider.domains.backoff import Rng
from outrider.domains.breaker import Breaker, OnTransition, State
from outrider.domains.budget import RetryBudget
from outrider.domains.bulkhead import Bulkhead, Place, Slot
from outrider.domains.rate import TokenBucket
from outrider.policy.plans import DomainSettings, Plan

__all__ = ["OVERFLOW", "Domain", "Domains", "Place", "Slot"]

LOCAL = "local"
OVERFLOW = "local/*"
"""Key of the shared domain; no (agent, tool) can have it, because theirs have a second slash."""

EVICTION_SCAN = 32
"""How many of the longest unused domains are looked at for an idle one: the search must not slow a call down."""

OnDomainTransition = Callable[[str, State, State], None]
Lookup = Callable[[str], DomainSettings | None]


class Domain:
    """One fault domain. ``key`` is what people see; the parts hold the state."""

    __slots__ = ("__weakref__", "breaker", "buckets", "budget", "bulkhead", "key", "upstream")

    def __init__(
        self,
        key: str,
        upstream: str,
        settings: DomainSettings,
        *,
        on_transition: OnTransition | None = None,
        rng: Rng = random.random,
    ) -> None:
        self.key = key
        self.upstream = upstream
        self.breaker = Breaker(settings.breaker, on_transition=on_transition, rng=rng)
        self.bulkhead = Bulkhead(settings.bulkhead)
        self.budget = RetryBudget(settings.retry_budget)
        self.buckets = tuple(TokenBucket(limit) for limit in settings.rate_limits)

    def configure(self, settings: DomainSettings, now: float) -> None:
        """Other settings, the same state. Rate limits are matched by their place in the list."""
        self.breaker.configure(settings.breaker)
        self.bulkhead.configure(settings.bulkhead)
        self.budget.configure(settings.retry_budget)
        kept = self.buckets[: len(settings.rate_limits)]
        for bucket, limit in zip(kept, settings.rate_limits, strict=False):
            bucket.configure(limit, now)
        self.buckets = kept + tuple(TokenBucket(limit) for limit in settings.rate_limits[len(kept) :])

    # --- all rate limits at once

    def rate_wait_s(self, now: float) -> float:
        """Seconds until every bucket has a token; 0: now."""
        return max([bucket.wait_s(now) for bucket in self.buckets]) if self.buckets else 0.0

    def rate_rejects(self, now: float) -> bool:
        """Whether a bucket that is empty now is one that rejects instead of making callers wait."""
        return bool(self.buckets) and any(
            bucket.settings.on_limit == "reject" and bucket.wait_s(now) > 0.0 for bucket in self.buckets
        )

    def take_tokens(self, now: float) -> bool:
        """A token from every bucket, or from none."""
        if self.rate_wait_s(now) > 0.0:
            return False
        for bucket in self.buckets:
            bucket.take(now)
        return True

    def refund_tokens(self, now: float) -> None:
        """What ``take_tokens`` took was not used: nothing was sent."""
        for bucket in self.buckets:
            bucket.refund(now)

    def drain(self, now: float, for_s: float) -> None:
        """The upstream asked for quiet: every caller waits, not only the one that was told."""
        for bucket in self.buckets:
            bucket.drain(now, for_s)

    def is_idle(self, now: float) -> bool:
        """Whether a fresh domain in its place would behave the same, but for counts of the breaker and the budget."""
        return (
            self.breaker.peek(now) is None
            and self.breaker.state is State.CLOSED
            and self.bulkhead.held == 0
            and self.bulkhead.waiting == 0
            and self.budget.reserved == 0
            and all(bucket.is_full(now) for bucket in self.buckets)
        )

    def snapshot(self, now: float) -> dict[str, Any]:
        """For the control plane; JSON types only."""
        return {
            "key": self.key,
            "upstream": self.upstream,
            "breaker": self.breaker.snapshot(now),
            "bulkhead": self.bulkhead.snapshot(),
            "retry_budget": self.budget.snapshot(now),
            "rate_limits": [bucket.snapshot(now) for bucket in self.buckets],
        }


class Domains:
    """Every fault domain of a sidecar.

    ``max_domains`` bounds those of ``local``. An evicted one that is still referenced (by a call in its backoff, say)
    is found again under its key, so that two calls never hold different domains of the same key. The references
    themselves are the count of its users, which nobody can forget to lower."""

    def __init__(
        self, max_domains: int, *, on_transition: OnDomainTransition | None = None, rng: Rng = random.random
    ) -> None:
        self._max_domains = max_domains
        self._on_transition = on_transition
        self._rng = rng
        self._lookup: Lookup = lambda upstream: None
        self._upstreams: dict[str, Domain] = {}  # bounded by the policy
        self._local: OrderedDict[str, Domain] = OrderedDict()  # longest unused first
        self._alive: WeakValueDictionary[str, Domain] = WeakValueDictionary()  # evicted ones still in use too
        self._overflow: Domain | None = None

    def get(self, plan: Plan, call: Call) -> Domain:
        """The fault domain of a call. Hold on to it for the call's life."""
        name = plan.upstream.name
        if name != LOCAL:
            return self._upstreams.get(name) or self._make_upstream(plan)
        key = local_key(call.agent.name, plan.tool)
        domain = self._local.get(key)
        if domain is not None:
            self._local.move_to_end(key)
            return domain
        return self._admit(key, plan.upstream.domain, clock.monotonic())

    def _make_upstream(self, plan: Plan) -> Domain:
        name = plan.upstream.name
        domain = self._upstreams[name] = self._alive.get(name) or self._new(name, name, plan.upstream.domain)
        return domain

    def _admit(self, key: str, settings: DomainSettings, now: float) -> Domain:
        domain = self._alive.get(key)
        if len(self._local) >= self._max_domains and not self._evict_idle(now):
            return domain or self._shared(settings)
        domain = self._local[key] = domain or self._new(key, LOCAL, settings)
        return domain

    def _evict_idle(self, now: float) -> bool:
        """Make room by forgetting the longest unused idle domain. Those found busy count as used."""
        for _ in range(min(EVICTION_SCAN, len(self._local))):
            key, domain = next(iter(self._local.items()))
            if domain.is_idle(now):
                del self._local[key]
                return True
            self._local.move_to_end(key)
        return False

    def _shared(self, settings: DomainSettings) -> Domain:
        if self._overflow is None:
            self._overflow = self._new(OVERFLOW, LOCAL, settings)
        return self._overflow

    def _new(self, key: str, upstream: str, settings: DomainSettings) -> Domain:
        newest = self._lookup(upstream)  # a call may still carry the plan of an older policy
        domain = Domain(
            key,
            upstream,
            settings if newest is None else newest,
            on_transition=self._reporter(key),
            rng=self._rng,
        )
        self._alive[key] = domain
        return domain

    def _reporter(self, key: str) -> OnTransition | None:
        report = self._on_transition
        return None if report is None else lambda old, new: report(key, old, new)

    def find(self, key: str) -> Domain | None:
        """The domain of a key as ``snapshot`` shows it."""
        return self._alive.get(key)

    def probe_succeeded(self, upstream: str, now: float) -> None:
        """A health probe of an upstream succeeded."""
        domain = self._upstreams.get(upstream)
        if domain is not None:
            domain.breaker.probe_succeeded(now)

    def reconfigure(self, lookup: Lookup, max_domains: int | None = None) -> None:
        """A new policy is in force. ``lookup(upstream's name)`` returns its settings, None if it is gone.

        State stays. A domain of an upstream that is gone is forgotten once it is idle, by the next call of this."""
        now = clock.monotonic()
        self._lookup = lookup
        self._max_domains = self._max_domains if max_domains is None else max_domains
        for domain in list(self._alive.values()):
            settings = lookup(domain.upstream)
            if settings is not None:
                domain.configure(settings, now)
            elif domain.is_idle(now):
                self._upstreams.pop(domain.key, None)
        while len(self._local) > self._max_domains and self._evict_idle(now):
            pass

    def __iter__(self) -> Iterator[Domain]:
        """Every domain, upstreams first, then those of ``local`` in the order of their keys."""
        yield from (self._upstreams[name] for name in sorted(self._upstreams))
        yield from (self._local[key] for key in sorted(self._local))
        if self._overflow is not None:
            yield self._overflow

    def __len__(self) -> int:
        return len(self._upstreams) + len(self._local) + (self._overflow is not None)

    def snapshot(self, now: float) -> list[dict[str, Any]]:
        """For the control plane; JSON types only."""
        return [domain.snapshot(now) for domain in self]


def local_key(agent: str, tool: str) -> str:
    """``local/{agent}/{tool}``, with the agent's slashes escaped so that no two pairs share a key."""
    return f"{LOCAL}/{agent.replace('%', '%25').replace('/', '%2F')}/{tool}"

"""Fault domains: who shares one, how many there are, what a reload keeps."""

from __future__ import annotations

import gc
import json

import pytest

from outrider.calls import Agent, Call
from outrider.domains.breaker import Permit, State, Verdict
from outrider.domains.domain import EVICTION_SCAN, OVERFLOW, Domain, Domains, local_key
from outrider.policy import plans
from outrider.policy.plans import DomainSettings, Plan, RateLimit, Upstream

TRIPPY = DomainSettings(breaker=plans.Breaker(consecutive_failures=1))


def call(tool: str, agent: str = "scout") -> Call:
    return Call(id="0", tool=tool, args={}, agent=Agent(agent))


def plan(tool: str, settings: DomainSettings = TRIPPY) -> Plan:
    name = tool.partition(".")[0]
    return Plan(tool, Upstream(name, domain=settings))


def got(domains: Domains, tool: str, agent: str = "scout", settings: DomainSettings = TRIPPY) -> Domain:
    return domains.get(plan(tool, settings), call(tool, agent))


def trip(domain: Domain, now: float = 0.0) -> None:
    permit = domain.breaker.acquire(now)
    assert isinstance(permit, Permit)
    domain.breaker.record(permit, now, Verdict.FAILURE)


def test_an_upstream_is_one_domain_for_every_agent_and_tool() -> None:
    """What fails for one agent fails for all."""
    domains = Domains(10)
    assert got(domains, "ledger.get", "a") is got(domains, "ledger.put", "b")
    assert got(domains, "ledger.get").key == "ledger"


def test_in_process_tools_are_one_domain_per_agent_and_tool() -> None:
    """A function that fails in one agent says nothing about another's."""
    domains = Domains(10)
    mine = got(domains, "local.search", "a")
    assert mine.key == "local/a/local.search"
    assert mine is got(domains, "local.search", "a")
    assert mine is not got(domains, "local.search", "b")
    assert mine is not got(domains, "local.fetch", "a")


def test_no_two_pairs_share_a_key() -> None:
    """Slashes in an agent's name are no way into another's domain."""
    assert local_key("a/b", "c") != local_key("a", "b/c")
    assert local_key("a%2Fb", "c") != local_key("a/b", "c")
    assert local_key("*", "c") != OVERFLOW


def test_the_longest_unused_idle_domain_makes_room() -> None:
    """Bounded, and who calls often stays."""
    domains = Domains(3)
    for agent in "abc":
        got(domains, "local.search", agent)
    got(domains, "local.search", "a")
    got(domains, "local.search", "d")
    assert [domain.key.split("/")[1] for domain in domains] == ["a", "c", "d"]
    assert len(domains) == 3


def test_a_domain_with_state_is_not_evicted_and_newcomers_share_one() -> None:
    """Open breakers, held slots, drained buckets and reservations stay; beyond them there is one overflow domain."""
    limits = DomainSettings(plans.Breaker(consecutive_failures=1), rate_limits=(RateLimit(1.0, 1),))
    domains = Domains(4)
    opened, held, drained, reserved = (got(domains, "local.search", agent, limits) for agent in "abcd")
    trip(opened)
    slot = held.bulkhead.try_acquire()
    drained.drain(drained_at := 1e9, 10.0)
    reservation = reserved.budget.reserve(drained_at)
    shared = got(domains, "local.search", "e", limits)
    assert shared.key == OVERFLOW
    assert shared is got(domains, "local.other", "f", limits)
    assert slot is not None
    slot.release()
    assert got(domains, "local.search", "g", limits).key == local_key("g", "local.search")
    assert domains.find(held.key) is held, "still referenced here, so still found"
    assert reservation is not None


def test_an_evicted_domain_in_use_is_found_again() -> None:
    """Two calls never hold different domains of the same key, whatever was evicted between."""
    domains = Domains(1)
    mine = got(domains, "local.search", "a")
    got(domains, "local.search", "b")
    assert got(domains, "local.search", "a") is mine
    key = mine.key
    got(domains, "local.search", "c")
    del mine
    gc.collect()
    assert domains.find(key) is None, "and forgotten when nobody holds it"


def test_upstreams_are_never_evicted() -> None:
    """Their number is the policy's, not a client's."""
    domains = Domains(1)
    for number in range(50):
        got(domains, f"upstream{number}.get")
    assert len(domains) == 50


def test_a_reload_keeps_state_and_changes_settings() -> None:
    """Invariant 24: breaker, bulkhead, budget and buckets survive a reload."""
    before = DomainSettings(plans.Breaker(consecutive_failures=1), rate_limits=(RateLimit(1.0, 2), RateLimit(9.0, 9)))
    after = DomainSettings(plans.Breaker(open_for_s=99.0), plans.Bulkhead(1), rate_limits=(RateLimit(1.0, 5),))
    domains = Domains(10)
    domain = got(domains, "ledger.get", settings=before)
    trip(domain)
    slot = domain.bulkhead.try_acquire()
    domain.take_tokens(0.0)
    domains.reconfigure({"ledger": after}.get)
    assert domain.breaker.state is State.OPEN
    assert (domain.breaker.settings, domain.bulkhead.settings) == (after.breaker, after.bulkhead)
    assert domain.bulkhead.try_acquire() is None
    assert len(domain.buckets) == 1
    assert got(domains, "ledger.get", settings=before) is domain
    assert slot is not None


def test_a_new_domain_has_the_newest_settings() -> None:
    """Also for a call that carries the plan of an older policy."""
    domains = Domains(10)
    newest = DomainSettings(plans.Breaker(min_calls=77))
    domains.reconfigure({"ledger": newest}.get)
    assert got(domains, "ledger.get").breaker.settings == newest.breaker


def test_an_upstream_that_is_gone_is_forgotten_once_idle() -> None:
    """A person's switch on it is kept."""
    domains = Domains(10)
    got(domains, "old.get")
    got(domains, "forced.get").breaker.force_open(0.0)
    domains.reconfigure(lambda upstream: None)
    assert [domain.key for domain in domains] == ["forced"]


def test_a_lower_limit_evicts_at_the_reload() -> None:
    """The bound is the policy's of now."""
    domains = Domains(10)
    for agent in "abcdef":
        got(domains, "local.search", agent)
    domains.reconfigure(lambda upstream: TRIPPY, max_domains=2)
    assert len(domains) == 2


def test_tokens_are_taken_from_every_bucket_or_from_none() -> None:
    """Two limits: the one that is empty keeps the other whole."""
    settings = DomainSettings(rate_limits=(RateLimit(1.0, 1), RateLimit(0.1, 5, on_limit="reject")))
    domain = got(Domains(1), "ledger.get", settings=settings)
    assert domain.take_tokens(0.0)
    assert not domain.take_tokens(0.0)
    assert domain.rate_wait_s(0.0) == 1.0
    assert not domain.rate_rejects(0.0)
    assert domain.buckets[1].tokens(0.0) == 4.0
    domain.refund_tokens(0.0)
    assert domain.buckets[1].tokens(0.0) == 5.0
    domain.drain(0.0, 3.0)
    assert domain.rate_wait_s(0.0) == 3.0
    assert domain.rate_rejects(0.0)


def test_transitions_are_told_with_the_domain_s_key() -> None:
    """The ledger says which upstream it was."""
    told: list[tuple[str, State, State]] = []
    domains = Domains(10, on_transition=lambda key, old, new: told.append((key, old, new)))
    trip(got(domains, "ledger.get"))
    assert told == [("ledger", State.CLOSED, State.OPEN)]


def test_a_health_probe_half_opens_its_upstream_s_breaker() -> None:
    """And does nothing to an upstream that was never called."""
    domains = Domains(10)
    domain = got(domains, "ledger.get")
    trip(domain)
    domains.probe_succeeded("ledger", 1.0)
    domains.probe_succeeded("never_called", 1.0)
    assert domain.breaker.state is State.HALF_OPEN


def test_the_search_for_room_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many busy domains slow no call down: only so many are looked at."""
    looked: list[str] = []

    def busy(domain: Domain, now: float) -> bool:
        looked.append(domain.key)
        return False

    monkeypatch.setattr(Domain, "is_idle", busy)
    domains = Domains(1000)
    for number in range(1000):
        got(domains, "local.search", f"agent{number}")
    assert got(domains, "local.search", "newcomer").key == OVERFLOW
    assert len(looked) == EVICTION_SCAN


@pytest.mark.parametrize("tool", ["ledger.get", "local.search"])
def test_a_snapshot_is_json(tool: str) -> None:
    """The control plane shows it as it is."""
    domains = Domains(10)
    got(domains, tool, settings=DomainSettings(rate_limits=(RateLimit(1.0, 1),)))
    (shown,) = json.loads(json.dumps(domains.snapshot(1.0)))
    assert shown["upstream"] == tool.partition(".")[0]
    assert {"breaker", "bulkhead", "retry_budget", "rate_limits"} <= shown.keys()

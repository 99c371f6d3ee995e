"""The gauges of a running sidecar: who knows a number, and under which name people see it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from outrider.agents.commanded import State
from outrider.agents.observed import Observed
from outrider.peers.book import State as PeerState
from outrider.services import Services
from outrider.telemetry import Reading


def declare(services: Services, ready: Callable[[], str | None]) -> None:
    """Register every gauge. ``ready`` says why the sidecar is not ready, None when it is."""
    gauge, lag = services.telemetry.gauge, services.ledger.lag
    gauge("outrider_ready", "Whether this sidecar takes calls.", (), lambda: _one(ready() is None))
    gauge("outrider_calls_in_flight", "Calls under way.", (), lambda: _one(len(services.supervisor.flights)))
    gauge(
        "outrider_agents_connected",
        "Processes that keep a channel.",
        (),
        lambda: _one(services.agents.census().connected),
    )
    gauge("outrider_agents", "Agents by what is commanded of them.", ("commanded",), lambda: _commanded(services))
    gauge("outrider_agents_observed", "Agents by what is observed of them.", ("observed",), lambda: _observed(services))
    gauge(
        "outrider_agents_undeclared",
        "Agents that the policy does not expect.",
        (),
        lambda: _one(services.agents.census().undeclared),
    )
    gauge(
        "outrider_agents_waiting",
        "Calls that wait for paused agents.",
        (),
        lambda: _one(services.agents.census().waiting),
    )
    gauge("outrider_tools_drifted", "Tools that have drifted.", (), lambda: _one(services.agents.census().drifted))
    gauge("outrider_kills_engaged", "Kill switches engaged.", ("kind",), lambda: _kills(services))
    gauge("outrider_runs", "Runs that are known, by state.", ("state",), lambda: _runs(services))
    gauge("outrider_peers", "Other sidecars in each state.", ("state",), lambda: _peers(services))
    gauge("outrider_breakers", "Breakers in each state.", ("upstream", "state"), lambda: _breakers(services))
    gauge("outrider_upstream_ready", "Whether probes find it ready.", ("upstream",), lambda: _upstreams(services))
    gauge("outrider_policy_info", "The policy in force; always 1.", ("name", "digest"), lambda: _policy(services))
    gauge("outrider_ledger_healthy", "Whether the ledger can be written.", (), lambda: _one(services.ledger.healthy))
    gauge("outrider_ledger_queued_records", "Records not yet committed.", (), lambda: _one(lag()["queued"]))
    gauge("outrider_ledger_lag_seconds", "Age of the oldest of them.", (), lambda: _one(lag()["oldest_ms"] / 1000))
    gauge("outrider_ledger_bytes", "Size of the database.", (), lambda: _one(lag()["bytes"]))
    gauge("outrider_tasks", "Tasks of the event loop; with no calls under way it stays the same.", (), _tasks)
    for word, text in (
        ("records", "Records committed."),
        ("batches", "Transactions committed."),
        ("fsyncs", "Transactions that were forced to the disk."),
        ("failures", "Transactions that failed."),
    ):
        gauge(f"outrider_ledger_{word}_total", text, (), _counted(services, word), kind="counter")


def _counted(services: Services, word: str) -> Callable[[], Reading]:
    return lambda: _one(services.ledger.lag()[word])


def _one(value: float) -> Reading:
    return [((), float(value))]


def _tasks() -> Reading:
    return _one(len(asyncio.all_tasks()))


def _commanded(services: Services) -> Reading:
    found = services.agents.census().commanded
    return [((state.value,), found[state.value]) for state in State]


def _observed(services: Services) -> Reading:
    found = services.agents.census().observed
    return [((word.value,), found[word.value]) for word in Observed]


def _kills(services: Services) -> Reading:
    found = Counter(kill.target.kind for kill in services.kills.all())
    return [((kind,), found[kind]) for kind in ("global", "agent", "run", "tool", "upstream")]


def _runs(services: Services) -> Reading:
    found = Counter(run.state.value for run in services.runs.all())
    return [((state,), found[state]) for state in ("running", "idle", "limited", "paused")]


def _breakers(services: Services) -> Reading:
    found = Counter((domain.upstream, domain.breaker.state.value) for domain in services.domains)
    return list(found.items())


def _peers(services: Services) -> Reading:
    found = Counter(peer.state for peer in services.fleet.lines.book.told())
    return [((state.value,), found[state]) for state in (PeerState.KNOWN, PeerState.ANSWERING, PeerState.SILENT)]


def _upstreams(services: Services) -> Reading:
    return [((name,), float(known["ready"])) for name, known in services.health.snapshot().items()]


def _policy(services: Services) -> Reading:
    policy = services.policies.current
    return [((policy.name, policy.digest), 1)]

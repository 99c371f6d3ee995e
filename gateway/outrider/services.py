"""The parts of a running sidecar, as the two planes see them. A record, not a manager: the sidecar makes it once."""

from __future__ import annotations

from dataclasses import dataclass

from outrider.agents import Agents, Lifecycle
from outrider.channel import Channel
from outrider.domains.domain import Domains
from outrider.health import Health
from outrider.identity import Keeper
from outrider.kills import KillBoard
from outrider.ledger.writer import Ledger
from outrider.peers.fleet import Fleet
from outrider.pins import Pins
from outrider.policy.current import CurrentPolicy
from outrider.pulse import Pulse
from outrider.runs import Runs
from outrider.settings import Settings
from outrider.store import Store
from outrider.supervisor import Supervisor
from outrider.telemetry import Telemetry
from outrider.upstreams.drivers import Drivers


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may need."""

    settings: Settings
    store: Store
    ledger: Ledger
    policies: CurrentPolicy
    kills: KillBoard
    health: Health
    domains: Domains
    agents: Agents
    runs: Runs
    lifecycle: Lifecycle
    supervisor: Supervisor
    channel: Channel
    telemetry: Telemetry
    pulse: Pulse
    fleet: Fleet
    keeper: Keeper
    drivers: Drivers
    pins: Pins

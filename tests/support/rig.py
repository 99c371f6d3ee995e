"""The whole call path in one event loop, on virtual time, over an upstream that counts and does as it is told.

Everything is the product's own (policy, kills, domains, ledger with its database, stages, supervisor) but the driver.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from outrider import clock
from outrider.agents import Agents, Lifecycle
from outrider.agents import stored as stored_agents
from outrider.calls import Agent, Attempt, Call, Failure, Outcome, OutcomeKind, Reason
from outrider.domains.domain import Domains
from outrider.flight import Flight, Traffic
from outrider.health import Health
from outrider.kills import KillBoard
from outrider.ledger.writer import Ledger
from outrider.pins import Pins
from outrider.pipeline import compose, stages
from outrider.policy.current import CurrentPolicy
from outrider.policy.load import load
from outrider.policy.plans import Plan
from outrider.pulse import Pulse
from outrider.recorder import Recorder
from outrider.runs import Runs
from outrider.runs.stored import read_marks, read_paused
from outrider.store import Store
from outrider.supervisor import Supervisor
from outrider.telemetry import Telemetry
from outrider.unresolved import Unresolved

OK = Outcome(OutcomeKind.OK, value={"ok": True})
REFUSED = Outcome(OutcomeKind.NOT_EXECUTED, failure=Failure(Reason.CONNECT, "connection refused"))
BROKEN = Outcome(OutcomeKind.UNKNOWN, failure=Failure(Reason.RESET, "connection reset"))
BUSY = Outcome(OutcomeKind.DEFINITE, failure=Failure(Reason.STATUS, "HTTP 503", 503))
WRONG = Outcome(OutcomeKind.DEFINITE, failure=Failure(Reason.STATUS, "HTTP 404", 404))


@dataclass(frozen=True)
class Sent:
    """One sending, as the upstream saw it."""

    at: float
    call: str
    n: int
    tool: str
    key: str
    args: Mapping[str, Any]
    timeout_s: float


@dataclass
class Upstream:
    """Counts what it is sent; answers with ``answer(attempt)`` after ``takes_s(attempt)`` seconds."""

    answer: Callable[[Attempt], Outcome] = lambda attempt: OK
    takes_s: Callable[[Attempt], float] = lambda attempt: 0.01
    sent: list[Sent] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def send(self, attempt: Attempt, plan: Plan, timeout_s: float) -> Outcome:
        outcome = self.answer(attempt)
        attempt.sent = outcome.kind is not OutcomeKind.NOT_EXECUTED
        call = attempt.call
        self.sent.append(
            Sent(clock.monotonic(), call.id, attempt.n, attempt.tool, attempt.idempotency_key, call.args, timeout_s)
        )
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.takes_s(attempt))
        finally:
            self.running -= 1
        return outcome

    async def stopped(self, attempt: Attempt, plan: Plan, why: str) -> Outcome:
        return Outcome(OutcomeKind.UNKNOWN if attempt.sent else OutcomeKind.NOT_EXECUTED)

    async def close(self) -> None:
        """Nothing is held."""

    def count(self, call: str | None = None) -> int:
        return sum(call is None or sent.call == call for sent in self.sent)


class NoAdapters:
    """No process is connected."""

    def recorded(self, call_id: str, n: int) -> None:
        """Nobody waits for it."""


BASE: dict[str, Any] = {
    "apiVersion": "outrider.dev/v1alpha1",
    "kind": "Policy",
    "metadata": {"name": "rig"},
    "upstreams": {"up": {"http": {"url": "http://127.0.0.1:1"}}, "spare": {"http": {"url": "http://127.0.0.1:2"}}},
    "tools": [
        {"match": "up.read*", "effect": "read"},
        {"match": "up.write*", "effect": "write"},
        {"match": "up.keyed*", "effect": "keyed", "idempotency": {"send": {"header": "Idempotency-Key"}}},
        {"match": "spare.*", "effect": "write"},
    ],
    "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
}


class Rig:
    """``async with Rig(folder, policy) as rig: outcome = await rig.call("up.read")``."""

    def __init__(self, folder: Path, policy: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.policy_folder = folder / "policy"
        self.policy_folder.mkdir(exist_ok=True, parents=True)
        self.write_policy(policy or {})
        self.upstream = Upstream()
        self.flights: list[Flight] = []
        self._ids = itertools.count(1)

    def write_policy(self, changes: Mapping[str, Any]) -> None:
        (self.policy_folder / "policy.yaml").write_text(yaml.safe_dump({**BASE, **changes}))

    async def __aenter__(self) -> Rig:
        self.store = Store.open(self.folder / "data")
        policy = load(self.policy_folder)
        self.ledger = await Ledger.open(self.store, policy.ledger, inline=True)
        self.policies = CurrentPolicy(self.policy_folder, policy)
        self.unresolved = Unresolved(self.store.digest)
        self.unresolved.restore(self.store.read("SELECT * FROM unresolved"))
        self.kills = await KillBoard.load(self.store, self.ledger)
        self.domains = Domains(100)
        self.health = Health(policy.upstreams)
        recorder = Recorder(self.ledger, self.unresolved, "cooperative")
        self.agents = Agents(
            limits=lambda: self.policies.current.limits,
            emit=recorder.agent_changed,
            settings=lambda: self.policies.current.agents,
        )
        self.runs = Runs(limits=lambda: self.policies.current.limits, emit=recorder.run_changed)
        self.runs.restore(read_marks(self.store), read_paused(self.store))
        self.traffic = Traffic()
        self.lifecycle = Lifecycle(
            self.agents,
            self.ledger,
            under_way=lambda name: len(self.traffic.of_agent(name)),
            stop=self.traffic.stop_agent,
        )
        self.pins = Pins(self.ledger, lambda: self.policies.current)
        self.telemetry = Telemetry()
        chain = stages(
            traffic=self.traffic,
            agents=self.agents,
            lifecycle=self.lifecycle,
            kills=self.kills,
            health=self.health,
            domains=self.domains,
            unresolved=self.unresolved,
            runs=self.runs,
            recorder=recorder,
            pins=self.pins,
            newest=lambda: self.policies.current,
            driver_of=lambda upstream: self.upstream,
            on_attempt=self.telemetry.on_attempt,
        )
        self.supervisor = Supervisor(
            traffic=self.traffic,
            policies=self.policies,
            recorder=recorder,
            kills=self.kills,
            agents=self.agents,
            unresolved=self.unresolved,
            telemetry=self.telemetry,
            pulse=Pulse(),
            local=NoAdapters(),
            run=compose(chain),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.lifecycle.release_waiting()
        await self.supervisor.drain(0.0)
        await self.kills.close()
        await self.lifecycle.close()
        await self.ledger.close()
        self.store.close()

    def restore(self) -> None:
        """What the process before this one knew of agents and was commanded of them."""
        self.agents.restore(self.store.read(stored_agents.AGENTS), self.store.read(stored_agents.TOOLS))
        self.lifecycle.restore(self.store.read(stored_agents.SWITCHES))

    def start(self, tool: str, /, *, agent: str = "a", run: str = "r", deadline_ms: int | None = None,
              parent: str = "", **args: Any) -> Flight:  # fmt: skip
        """Begin a call; its answer is ``flight.answer``."""
        call_id = f"call-{next(self._ids)}"
        call = Call(call_id, tool, args, Agent(agent), run=run, deadline_ms=deadline_ms, parent=parent)
        flight = self.supervisor.submit(call)
        self.flights.append(flight)
        return flight

    async def call(self, tool: str, /, **more: Any) -> Outcome:
        """A call from beginning to end."""
        flight = self.start(tool, **more)
        assert flight.answer is not None
        return await flight.answer

    async def reload(self, changes: Mapping[str, Any]) -> None:
        self.write_policy(changes)
        self.policies.current = load(self.policy_folder)

    def events(self, *types: str) -> list[dict[str, Any]]:
        """What the ledger holds, in order, with what it was to commit a little later."""
        self.ledger._pump()
        rows = self.store.read("SELECT type, call_id, attempt, line FROM ledger ORDER BY seq")
        return [row for row in rows if not types or row["type"] in types]

"""One agent as the registry knows it, and its processes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal

from outrider import clock
from outrider.agents.commanded import State, Switch, state_of
from outrider.agents.expected import Expectations
from outrider.agents.observed import Observed, Recent
from outrider.agents.tools import KnownTool
from outrider.calls import Agent
from outrider.policy.plans import AgentSettings

IDLE_S = 3600.0
"""An agent without a process, a call in flight or any call for this long makes room for a new name."""
KEEP_TOOLS_S = 30 * 86_400.0
"""One that has declared tools stays this long: once forgotten, it could come back with others of the same names."""
MAX_GONE = 20
"""How many instances that are gone are remembered for each agent."""
MAX_RUNS = 256
"""How many runs of an agent are remembered as under way."""
RUN_OVER_S = 3600.0
"""A run that made no call for this long is over."""

_BEST_FIRST = tuple(Observed)
Presence = Literal["connected", "away", "lost", "left"]


@dataclass(slots=True, eq=False)
class Instance:
    """One process of an agent. ``session`` is its channel session's id; times are seconds since the epoch, but for
    ``heard``, which is the sidecar's own running time. ``away``: its connection broke, and it may come back."""

    agent: Agent
    instance: str
    host: str
    pid: int
    session: str
    since: float
    heard: float = 0.0
    state: Presence = "connected"
    until: float | None = None
    observed: Observed = Observed.READY
    beat: bool = False  # a heartbeat came since the observer last looked

    @property
    def watched(self) -> bool:
        """Whether anything can still be heard of it."""
        return self.state in ("connected", "away")

    def as_dict(self) -> dict[str, Any]:
        return {
            "instance": self.instance,
            "host": self.host,
            "pid": self.pid,
            "session": self.session,
            "state": self.state,
            "observed": None if self.state == "left" else self.observed.value,
            "since": clock.stamp(self.since),
            "until": None if self.until is None else clock.stamp(self.until),
        }


@dataclass(slots=True, eq=False)
class Entry:
    """One agent, or all those of the overflow. ``clear`` is the section of a policy under which nothing at all was
    found against it: what almost every call of almost every agent asks."""

    name: str
    first_seen: float
    last_seen: float
    agent: Agent = field(default_factory=Agent)
    versions: dict[str, str] = field(default_factory=dict)
    instances: OrderedDict[str, Instance] = field(default_factory=OrderedDict)
    tools: dict[str, KnownTool] = field(default_factory=dict)
    drifted: frozenset[str] = frozenset()
    recent: Recent = field(default_factory=Recent)
    runs: dict[str, float] = field(default_factory=dict)  # id → when it was last heard of; that longest ago first
    calls: int = 0
    failures: int = 0
    refused: int = 0
    in_flight: int = 0
    saved_calls: int = -1  # -1: never seen, and no row of it was written
    switch: Switch | None = None
    waiting: int = 0
    gate: asyncio.Event | None = None  # what the calls of a paused agent wait for
    clear: AgentSettings | None = None
    overflow: bool = False

    # ── what is asked for each call ──────────────────────────────────────────────────────────────────────────────

    def note_run(self, run: str, now: float) -> None:
        """A call of this run goes on."""
        runs = self.runs
        runs.pop(run, None)
        runs[run] = now
        if len(runs) > MAX_RUNS:
            del runs[next(iter(runs))]

    def under_way(self, run: str, now: float) -> bool:
        """Whether this run has made a call, and not too long ago."""
        heard = self.runs.get(run)
        return heard is not None and now - heard <= RUN_OVER_S

    # ── commanded ────────────────────────────────────────────────────────────────────────────────────────────────

    def command(self, switch: Switch | None) -> None:
        """From now on; whoever waits looks again."""
        self.switch = switch
        self.clear = None
        if self.gate is not None:
            self.gate.set()
            self.gate = None

    def changes(self) -> asyncio.Event:
        """Set when something else is commanded."""
        if self.gate is None:
            self.gate = asyncio.Event()
        return self.gate

    # ── observed ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def presence(self) -> str:
        """``connected`` while any instance is; else what became of the last one; ``seen`` if there never was one."""
        states = [instance.state for instance in self.instances.values()]
        if "connected" in states:
            return "connected"
        return states[-1] if states else "seen"

    def observed(self, ran: float) -> Observed | None:
        """The best of its processes; calls that fail make a ready agent degraded. None where it has no process that
        could be observed: it calls over HTTP only, or all have said goodbye."""
        seen = {instance.observed for instance in self.instances.values() if instance.state != "left"}
        best = next((word for word in _BEST_FIRST if word in seen), None) if seen else None
        if best in (None, Observed.READY) and self.recent.failing(ran):
            return Observed.DEGRADED
        return best

    # ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────

    def idle(self, now: float) -> bool:
        """Whether it may be forgotten."""
        busy = self.in_flight or self.switch is not None or any(one.watched for one in self.instances.values())
        return not busy and now - self.last_seen > (KEEP_TOOLS_S if self.tools else IDLE_S)

    def forget_gone(self) -> None:
        gone = [session for session, instance in self.instances.items() if not instance.watched]
        for session in gone[: max(0, len(gone) - MAX_GONE)]:
            del self.instances[session]

    def as_dict(self, expectations: Expectations, ran: float) -> dict[str, Any]:
        observed = self.observed(ran)
        state = state_of(self.switch)
        shown: dict[str, Any] = {
            "name": self.name,
            "state": self.presence,
            "standing": _standing(state, observed, self.presence),
            "commanded": {"state": State.OPEN.value} if self.switch is None else self.switch.as_dict(),
            "observed": None if observed is None else observed.value,
            "declared": None if self.overflow else expectations.declared(self.name),
            "quarantined": not self.overflow and expectations.quarantined(self.name),
            "framework": self.agent.framework,
            "versions": dict(self.versions),
            "labels": expectations.labels(self.agent),
            "owner": expectations.owner(self.agent),
            "asserted": self.agent.asserted,
            "instances": [instance.as_dict() for instance in self.instances.values()],
            "tools": sorted(self.tools),
            "drift": sorted(self.drifted),
            "calls": self.calls,
            "failures": self.failures,
            "refused": self.refused,
            "in_flight": self.in_flight,
            "waiting": self.waiting,
            "first_seen": None if self.saved_calls < 0 else clock.stamp(self.first_seen),
            "last_seen": None if self.saved_calls < 0 else clock.stamp(self.last_seen),
        }
        return shown


def _standing(state: State, observed: Observed | None, presence: str) -> str:
    """One word for people: what was commanded before what is observed before whether it is there."""
    if state is not State.OPEN:
        return state.value
    return presence if observed is None else observed.value

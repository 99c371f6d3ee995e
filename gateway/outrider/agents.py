"""Who is here: the agents seen, their instances, and what they do. Statistics for people; nothing is decided by them.

An agent is known by its name. Its instances are processes that keep a channel; an agent that calls over plain HTTP has
none and is merely ``seen``. Names come from callers, so their number is bounded: past ``limits.max_agents`` new ones
are counted together as ``overflow``, unless an agent that was idle for an hour makes room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from outrider import clock
from outrider.calls import Agent, Call, Outcome, OutcomeKind
from outrider.policy.plans import Limits
from outrider.wire import Hello

OVERFLOW = "overflow"
IDLE_S = 3600.0
"""An agent without a process, a call in flight or any call for this long makes room for a new name."""
MAX_GONE = 20
"""How many instances that are gone are remembered for each agent."""
MAX_TOOLS = 500
MAX_VERSIONS = 30
MAX_CHARS = 200

Change = Literal["connected", "lost", "left"]
Emit = Callable[[Change, Agent, dict[str, Any]], None]


@dataclass(slots=True)
class _Instance:
    """One process of an agent. ``session`` is its channel session's id; times are seconds since the epoch."""

    agent: Agent
    instance: str
    host: str
    pid: int
    session: str
    since: float
    state: Change = "connected"
    until: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "instance": self.instance,
            "host": self.host,
            "pid": self.pid,
            "session": self.session,
            "state": self.state,
            "since": clock.stamp(self.since),
            "until": None if self.until is None else clock.stamp(self.until),
        }


@dataclass(slots=True, eq=False)
class _Entry:
    """One agent, or all those of the overflow."""

    name: str
    first_seen: float
    last_seen: float
    agent: Agent = field(default_factory=Agent)
    versions: dict[str, str] = field(default_factory=dict)
    instances: OrderedDict[str, _Instance] = field(default_factory=OrderedDict)
    tools: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    failures: int = 0
    refused: int = 0
    in_flight: int = 0

    @property
    def state(self) -> str:
        """``connected`` while any instance is; else what became of the last one; ``seen`` if there never was one."""
        states = [instance.state for instance in self.instances.values()]
        if "connected" in states:
            return "connected"
        return states[-1] if states else "seen"

    def idle(self, now: float) -> bool:
        return self.in_flight == 0 and self.state != "connected" and now - self.last_seen > IDLE_S

    def forget_gone(self) -> None:
        gone = [session for session, instance in self.instances.items() if instance.state != "connected"]
        for session in gone[: max(0, len(gone) - MAX_GONE)]:
            del self.instances[session]

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "framework": self.agent.framework,
            "versions": dict(self.versions),
            "labels": dict(self.agent.labels),
            "owner": self.agent.owner,
            "asserted": self.agent.asserted,
            "instances": [instance.as_dict() for instance in self.instances.values()],
            "tools": sorted(self.tools),
            "calls": self.calls,
            "failures": self.failures,
            "refused": self.refused,
            "in_flight": self.in_flight,
            "first_seen": clock.stamp(self.first_seen),
            "last_seen": clock.stamp(self.last_seen),
        }


class Agents:
    """The registry. ``emit(change, agent, data)`` is called when an instance comes or goes: ``connected`` (``data`` has
    instance, host, pid, versions, tools, resumed), ``lost`` (the connection broke) or ``left`` (it said goodbye)."""

    def __init__(self, *, limits: Callable[[], Limits], emit: Emit) -> None:
        self._limits = limits
        self._emit = emit
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the one heard of longest ago first
        self._overflow: _Entry | None = None
        self._flying: dict[str, _Entry] = {}
        self._connected: dict[str, _Entry] = {}

    def seen(self, call: Call) -> None:
        """A call began."""
        entry = self._entry(call.agent.name)
        if entry is not self._overflow:
            entry.agent = call.agent
        entry.calls += 1
        entry.in_flight += 1
        self._flying[call.id] = entry

    def finished(self, call: Call, outcome: Outcome) -> None:
        """A call that was ``seen`` ended. ``failures`` counts what was tried and failed, ``refused`` what never ran."""
        entry = self._flying.pop(call.id, None)
        if entry is None:
            return
        entry.in_flight -= 1
        if outcome.kind is OutcomeKind.NOT_EXECUTED:
            entry.refused += 1
        elif outcome.kind in (OutcomeKind.DEFINITE, OutcomeKind.UNKNOWN):
            entry.failures += 1

    def connected(self, hello: Hello, session: str, known: Agent | None = None) -> None:
        """An instance said hello on its channel session; a known session has come back. ``known``: who its credential
        proves it to be."""
        entry = self._entry(hello.agent)
        before = entry.instances.pop(session, None)
        shown = known or Agent(hello.agent)
        agent = replace(shown, framework=hello.framework[:MAX_CHARS], instance=hello.instance[:MAX_CHARS])
        instance = _Instance(
            agent=agent,
            instance=agent.instance,
            host=hello.host[:MAX_CHARS],
            pid=hello.pid,
            session=session,
            since=clock.wall() if before is None else before.since,
        )
        entry.instances[session] = instance
        if entry is not self._overflow:
            entry.agent = agent
        entry.versions = {
            name[:MAX_CHARS]: version[:MAX_CHARS] for name, version in islice(hello.versions.items(), MAX_VERSIONS)
        }
        self._declare(entry, hello)
        self._connected[session] = entry
        self._tell("connected", entry, instance, {"versions": entry.versions, "resumed": before is not None})

    def disconnected(self, session: str, *, orderly: bool) -> None:
        """The channel session ended (``orderly``) or its connection broke."""
        entry = self._connected.pop(session, None)
        if entry is None:
            return
        instance = entry.instances.pop(session)
        instance.state = "left" if orderly else "lost"
        instance.until = entry.last_seen = clock.wall()
        entry.instances[session] = instance  # the last one gone is the last in line
        entry.forget_gone()
        self._tell(instance.state, entry, instance, {})

    def snapshot(self) -> list[dict[str, Any]]:
        """Every agent as JSON, by name; the overflow last."""
        rows = [self._entries[name].as_dict() for name in sorted(self._entries)]
        if self._overflow is not None:
            rows.append(self._overflow.as_dict())
        return rows

    def _entry(self, name: str) -> _Entry:
        now = clock.wall()
        entry = self._entries.get(name)
        if entry is None:
            entry = self._new(name, now)
        if entry is not self._overflow:
            self._entries.move_to_end(entry.name)
        entry.last_seen = now
        return entry

    def _new(self, name: str, now: float) -> _Entry:
        if len(self._entries) >= self._limits().max_agents and not self._make_room(now):
            if self._overflow is None:
                self._overflow = _Entry(OVERFLOW, now, now, Agent(OVERFLOW))
            return self._overflow
        entry = self._entries[name] = _Entry(name, now, now, Agent(name))
        return entry

    def _make_room(self, now: float) -> bool:
        """Looks at one agent only, so that a flood of names costs nothing; one that must stay goes to the end."""
        name, oldest = next(iter(self._entries.items()))
        if oldest.idle(now):
            del self._entries[name]
            return True
        self._entries.move_to_end(name)
        return False

    @staticmethod
    def _declare(entry: _Entry, hello: Hello) -> None:
        for tool in islice(hello.tools, MAX_TOOLS):
            if tool.name in entry.tools or len(entry.tools) < MAX_TOOLS:
                entry.tools[tool.name[:MAX_CHARS]] = tool.digest[:MAX_CHARS]

    def _tell(self, change: Change, entry: _Entry, instance: _Instance, more: dict[str, Any]) -> None:
        data = {"instance": instance.instance, "host": instance.host, "pid": instance.pid, **more}
        if change == "connected":
            data["tools"] = len(entry.tools)
        self._emit(change, instance.agent, data)

"""Who is here: the agents seen, their processes, the tools they declare, and what they do.

An agent is known by its name. Its instances are processes that keep a channel; an agent that calls over plain HTTP has
none and is merely ``seen``. Names come from callers, so their number is bounded: past ``limits.max_agents`` new ones
are counted together as ``overflow``, unless an agent that was idle for an hour makes room.

What must survive is written with the event that tells of it: who was seen first when, and the digests of tools.
See ``telling``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from outrider import clock
from outrider.agents import stored
from outrider.agents.census import Census
from outrider.agents.commanded import State, Switch, state_of
from outrider.agents.entry import Entry, Instance
from outrider.agents.expected import Expectations
from outrider.agents.observed import TICK_S, Observed
from outrider.agents.observer import Observer
from outrider.agents.stored import Mutation
from outrider.agents.telling import Change, Emit, Teller
from outrider.agents.tools import KnownTool, accepted, declared
from outrider.calls import Agent, Call, Outcome, OutcomeKind
from outrider.policy.plans import AgentSettings, Limits
from outrider.wire import Hello

log = logging.getLogger("outrider.agents")

OVERFLOW = "overflow"
MAX_TOOLS = 500
MAX_VERSIONS = 30
MAX_CHARS = 200
MAX_DIGEST_CHARS = 100


def _defaults() -> AgentSettings:
    return AgentSettings()


class Agents:
    """The registry. ``emit(change, agent, data, rows)`` is called when something changes: ``connected`` (``data`` has
    instance, host, pid, versions, tools, resumed), ``lost`` (nothing was heard of it for too long), ``left`` (it said
    goodbye), ``seen`` (the first call or connection ever), ``declared`` (tools), ``drifted`` (one tool)."""

    def __init__(
        self, *, limits: Callable[[], Limits], emit: Emit, settings: Callable[[], AgentSettings] = _defaults
    ) -> None:
        self._limits = limits
        self._teller = Teller(emit)
        self._settings = settings
        self._expectations = Expectations(settings())
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # the one heard of longest ago first
        self._overflow: Entry | None = None
        self._flying: dict[str, Entry] = {}
        self._connected: dict[str, Entry] = {}
        self._away: dict[str, Entry] = {}  # whose connection broke; the one longest away first
        self._observer = Observer(lambda: limits().suspect_s, self._lost)

    def restore(self, agents: Iterable[Mapping[str, Any]], tools: Iterable[Mapping[str, Any]]) -> None:
        """Take over stored rows. A row that cannot be read is left out and told in the log."""
        for row in agents:
            try:
                entry = stored.read_agent(row)
            except (ValueError, TypeError, KeyError) as fault:
                log.error("a stored agent cannot be read: %s", fault)
                continue
            self._entries[entry.name] = entry
        for row in tools:
            self._restore_tool(row)

    def _restore_tool(self, row: Mapping[str, Any]) -> None:
        entry = self._entries.get(row["agent"])
        if entry is None:
            return
        try:
            known = stored.read_tool(row)
        except (ValueError, TypeError, KeyError) as fault:  # it may have been drifted: it counts as that
            log.error("a stored tool of agent %r cannot be read: %s", entry.name, fault)
            known = KnownTool(str(row["tool"]), (), "", clock.wall(), drifted_at=clock.wall())
        self._keep(entry, known)

    # ── for each call ────────────────────────────────────────────────────────────────────────────────────────────

    def seen(self, call: Call) -> Entry:
        """A call began."""
        entry = self._entry(call.agent)
        if not entry.overflow:
            entry.agent = call.agent
        entry.calls += 1
        entry.in_flight += 1
        self._flying[call.id] = entry
        return entry

    def finished(self, call: Call, outcome: Outcome) -> None:
        """A call that was ``seen`` ended. ``failures`` counts what was tried and failed, ``refused`` what never ran."""
        entry = self._flying.pop(call.id, None)
        if entry is None:
            return
        entry.in_flight -= 1
        if outcome.kind is OutcomeKind.NOT_EXECUTED:
            entry.refused += 1
            return
        failed = outcome.kind in (OutcomeKind.DEFINITE, OutcomeKind.UNKNOWN)
        entry.failures += failed
        entry.recent.note(failed, self._observer.ran)

    def expectations(self, settings: AgentSettings) -> Expectations:
        """Whom these settings expect."""
        if self._expectations.settings is not settings:
            self._expectations = Expectations(settings)
        return self._expectations

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    def connected(self, hello: Hello, session: str, known: Agent | None = None) -> None:
        """An instance said hello on its channel session; a known session has come back. ``known``: who its credential
        proves it to be."""
        shown = known or Agent(hello.agent)
        agent = replace(shown, framework=hello.framework[:MAX_CHARS], instance=hello.instance[:MAX_CHARS])
        entry = self._entry(agent)
        self._renamed(session, entry)
        before = entry.instances.pop(session, None)
        instance = Instance(
            agent=agent,
            instance=agent.instance,
            host=hello.host[:MAX_CHARS],
            pid=hello.pid,
            session=session,
            since=clock.wall() if before is None else before.since,
        )
        entry.instances[session] = instance
        if not entry.overflow:
            entry.agent = agent
        entry.versions = {
            name[:MAX_CHARS]: version[:MAX_CHARS] for name, version in islice(hello.versions.items(), MAX_VERSIONS)
        }
        self._connected[session] = entry
        self._observer.watch(entry, instance)
        self._tell_instance("connected", entry, instance, {"versions": entry.versions, "resumed": before is not None})
        self._declare(entry, agent, ((tool.name, tool.digest) for tool in islice(hello.tools, MAX_TOOLS)))

    def _renamed(self, session: str, entry: Entry) -> None:
        """Back again. One that now calls itself otherwise has left the agent that it was."""
        former = self._away.pop(session, None)
        if former is not None and former is not entry:
            instance = former.instances[session]
            instance.state = "left"
            self._gone(former, instance)

    def disconnected(self, session: str, *, orderly: bool) -> None:
        """The channel session ended (``orderly``) or its connection broke: it may come back."""
        entry = self._connected.pop(session, None)
        if entry is None:
            return
        instance = entry.instances.pop(session)
        instance.state = "left" if orderly else "away"
        instance.until = entry.last_seen = clock.wall()
        entry.instances[session] = instance  # the last one gone is the last in line
        if orderly:
            self._gone(entry, instance)
            return
        instance.observed = Observed.DEGRADED
        self._away[session] = entry
        if len(self._away) > self._limits().max_channels:
            longest, of = next(iter(self._away.items()))
            self._lost(of, of.instances[longest])

    def heartbeat(self, session: str) -> None:
        """It is still here."""
        self._observer.heartbeat(session)

    def _gone(self, entry: Entry, instance: Instance) -> None:
        self._observer.forget(instance.session)
        entry.forget_gone()
        self._tell_instance("left" if instance.state == "left" else "lost", entry, instance, {})

    def _lost(self, entry: Entry, instance: Instance) -> None:
        """Silent for too long, or one too many of those that may come back."""
        self._away.pop(instance.session, None)
        instance.state, instance.observed = "lost", Observed.LOST
        self._gone(entry, instance)

    def tick(self) -> None:
        """Look at everybody, once a second."""
        self._observer.look()

    async def observe(self, also: Callable[[], None]) -> None:
        """Look, for ever; ``also`` is done after each look."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.tick()
                also()
            except Exception:  # the next look tries again; nobody is declared lost by a fault of ours
                log.exception("observing the agents failed")

    # ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────

    def declare(self, agent: Agent, tool: str, digest: str) -> None:
        """One tool, with the first call of it on a connection."""
        self._declare(self._entry(agent), agent, ((tool, digest),))

    def _declare(self, entry: Entry, agent: Agent, tools: Iterable[tuple[str, str]]) -> None:
        if entry.overflow:
            return
        fresh: dict[str, str] = {}
        for long_name, long_digest in tools:
            name, digest = long_name[:MAX_CHARS], long_digest[:MAX_DIGEST_CHARS]
            before = entry.tools.get(name)
            if before is None and len(entry.tools) >= MAX_TOOLS:
                continue
            known = declared(before, name, digest, clock.wall())
            if known is before:
                continue
            self._keep(entry, known)
            if known.drifted and (before is None or known.latest != before.latest):
                data = {"tool": name, "digest": known.latest, "trusted": list(known.trusted)}
                self._teller.tell("drifted", entry, agent, data, [stored.tool(entry.name, known)])
            else:
                fresh[name] = digest
        if fresh:
            rows = [stored.tool(entry.name, entry.tools[name]) for name in fresh]
            self._teller.tell("declared", entry, agent, {"tools": fresh}, rows)

    def _keep(self, entry: Entry, known: KnownTool) -> None:
        entry.tools[known.name] = known
        if known.drifted is not (known.name in entry.drifted):
            entry.drifted = entry.drifted ^ {known.name}
        entry.clear = None

    def accepted(self, name: str, tool: str, by: str, why: str) -> KnownTool:
        """What the tool would be once a person trusts it. Raises KeyError: no such agent, or no such drift."""
        known = self._entries[name].tools[tool]
        if not known.drifted:
            raise KeyError(tool)
        return accepted(known, by, why)

    def accept(self, name: str, known: KnownTool) -> bool:
        """It is written that a person trusts it. False: it has changed again meanwhile, which nobody accepted."""
        entry = self._entries[name]
        if entry.tools[known.name].latest != known.latest:
            return False
        self._keep(entry, known)
        return True

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────

    def command(self, name: str, switch: Switch | None) -> None:
        """What people command of this agent from now on, seen or not."""
        entry = self._entries.get(name)
        if entry is None:
            if switch is None:
                return
            now = clock.wall()
            entry = self._entries[name] = Entry(name, now, now, Agent(name))
        if switch is not None and switch.state is State.CORDONED:
            for run in switch.runs:
                entry.runs.setdefault(run, clock.monotonic())
        entry.command(switch)

    def get(self, name: str) -> Entry | None:
        """The agent of this name, None where it was never heard of."""
        return self._entries.get(name)

    def runs_under_way(self, name: str) -> tuple[str, ...]:
        """The runs of an agent that made a call not too long ago."""
        entry = self._entries.get(name)
        now = clock.monotonic()
        return () if entry is None else tuple(run for run in entry.runs if entry.under_way(run, now))

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────────────

    def census(self) -> Census:
        """How many there are of each kind, at a fraction of a snapshot's cost."""
        known, found = self.expectations(self._settings()), Census()
        for entry in self._entries.values():
            found.commanded[state_of(entry.switch).value] += 1
            observed = entry.observed(self._observer.ran)
            if observed is not None:
                found.observed[observed.value] += 1
            found.undeclared += known.declared(entry.name) is False
            found.waiting += entry.waiting
            found.drifted += len(entry.drifted)
        found.connected = len(self._connected)
        return found

    def snapshot(self) -> list[dict[str, Any]]:
        """Every agent as JSON, by name; the overflow last."""
        known = self.expectations(self._settings())
        rows = [self._entries[name].as_dict(known, self._observer.ran) for name in sorted(self._entries)]
        if self._overflow is not None:
            rows.append(self._overflow.as_dict(known, self._observer.ran))
        return rows

    def show(self, name: str) -> dict[str, Any]:
        """One agent with all that is known of its tools. Raises KeyError."""
        entry = self._entries[name]
        shown = entry.as_dict(self.expectations(self._settings()), self._observer.ran)
        return shown | {"tools": [entry.tools[tool].as_dict() for tool in sorted(entry.tools)]}

    # ── entries ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _entry(self, agent: Agent) -> Entry:
        now = clock.wall()
        entry = self._entries.get(agent.name)
        if entry is None:
            entry = self._new(agent, now)
        if entry.saved_calls < 0:
            self._first_seen(entry, agent, now)
        if not entry.overflow:
            self._entries.move_to_end(entry.name)
        entry.last_seen = now
        return entry

    def _new(self, agent: Agent, now: float) -> Entry:
        if len(self._entries) >= self._limits().max_agents and not self._make_room(now):
            if self._overflow is None:
                self._overflow = Entry(OVERFLOW, now, now, Agent(OVERFLOW), overflow=True, saved_calls=0)
            return self._overflow
        entry = self._entries[agent.name] = Entry(agent.name, now, now, agent)
        return entry

    def _first_seen(self, entry: Entry, agent: Agent, now: float) -> None:
        """Of an agent that people may have commanded something of before."""
        entry.first_seen, entry.agent = now, agent
        found = self.expectations(self._settings()).declared(agent.name)
        self._teller.tell("seen", entry, agent, {} if found is None else {"declared": found}, [])

    def _make_room(self, now: float) -> bool:
        """Looks at one agent only, so that a flood of names costs nothing; one that must stay goes to the end."""
        name, oldest = next(iter(self._entries.items()))
        if oldest.idle(now):
            del self._entries[name]
            self._teller.forget(oldest)
            return True
        self._entries.move_to_end(name)
        return False

    # ── telling, and writing ─────────────────────────────────────────────────────────────────────────────────────

    def _tell_instance(self, change: Change, entry: Entry, instance: Instance, more: dict[str, Any]) -> None:
        data = {"instance": instance.instance, "host": instance.host, "pid": instance.pid, **more}
        if change == "connected":
            data["tools"] = len(entry.tools)
        self._teller.tell(change, entry, instance.agent, data, [])

    def unsaved(self) -> list[Mutation]:
        """Everything that is not on disk yet: for the last event of an orderly stop."""
        return self._teller.rest(self._entries.values())

"""The tools of MCP servers, as they were when first seen, and what became of them: schemas and descriptions are what a
model acts upon, so a change of them is a change of the tool (a "rug pull", where it is meant).

The first digest seen is trusted; another one is drift until a person accepts it. What of an effect the tool's own
annotations say is kept here too, because it comes with the same list.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from outrider import clock
from outrider.agents.tools import KnownTool, accepted, declared
from outrider.calls import Effect, Outcome, OutcomeKind
from outrider.errors import Code, Refused
from outrider.flight import Flight
from outrider.ledger.record import Event, EventType
from outrider.ledger.writer import Ledger
from outrider.mcp_wire import Message
from outrider.observing import enforced
from outrider.policy.compile import MCP_METHOD
from outrider.policy.load import Policy
from outrider.policy.plans import McpUpstream, Plan
from outrider.upstreams.mcp.catalog import MAX_TOOLS, Catalog, Watch

log = logging.getLogger("outrider.pins")

MAX_TOLD = 100
"""Names in one record of the ledger."""
ROWS = "SELECT * FROM mcp_tools"
_ROW = (
    "INSERT OR REPLACE INTO mcp_tools (upstream, tool, trusted, latest, first_seen, drifted_at, accepted_by, "
    "accepted_why) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_PINNED = ("description", "inputSchema", "outputSchema", "annotations")
_encode = msgspec.json.Encoder(order="sorted", enc_hook=str).encode

Mutation = tuple[str, tuple[object, ...]]


@dataclass(slots=True)
class Known:
    """Of one upstream. ``tools`` maps names to what is pinned, ``listed`` to what the server said last; ``effects`` to
    what annotations say, as far as the policy believes them. ``read``: its list was read by this process."""

    tools: dict[str, KnownTool] = field(default_factory=dict)
    listed: Mapping[str, Message] = field(default_factory=dict)
    effects: dict[str, Effect] = field(default_factory=dict)
    read: bool = False

    @property
    def drifted(self) -> list[str]:
        return sorted(name for name, tool in self.tools.items() if tool.drifted)


class Pins:
    """``newest`` is the policy in force."""

    def __init__(self, ledger: Ledger, newest: Callable[[], Policy]) -> None:
        self._ledger = ledger
        self._newest = newest
        self._known: dict[str, Known] = {}
        self._unwritten: dict[tuple[str, str], KnownTool] = {}

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What the process before this one knew. Raises ValueError, TypeError or KeyError on a row that is none."""
        for row in rows:
            known = KnownTool(
                str(row["tool"]),
                tuple(str(digest) for digest in json.loads(row["trusted"])),
                str(row["latest"]),
                float(row["first_seen"]),
                None if row["drifted_at"] is None else float(row["drifted_at"]),
                str(row["accepted_by"]),
                str(row["accepted_why"]),
            )
            self._of(str(row["upstream"])).tools[known.name] = known

    def _of(self, upstream: str) -> Known:
        return self._known.setdefault(upstream, Known())

    # ── for drivers ──────────────────────────────────────────────────────────────────────────────────────────────

    def watch(self, upstream: str, settings: McpUpstream) -> Watch:
        """What one driver tells, and asks before it sends."""
        return Watch(partial(self.read, upstream, settings), partial(self.against, upstream, settings))

    def read(self, upstream: str, settings: McpUpstream, catalog: Catalog) -> None:
        """The server told its tools."""
        known, now = self._of(upstream), clock.wall()
        before = known.listed
        known.listed, known.read = catalog.tools, True
        known.effects = {
            name: effect
            for name, tool in catalog.tools.items()
            if (effect := effect_of(tool.get("annotations"), trusted=settings.trust_annotations)) is not None
        }
        seen: list[KnownTool] = []
        drifted: list[KnownTool] = []
        for name, tool in catalog.tools.items():
            if name in known.tools and before.get(name) == tool:
                continue
            if name not in known.tools and len(known.tools) >= MAX_TOOLS:
                continue  # where drift is refused, so is what cannot be pinned
            old = known.tools.get(name)
            new = declared(old, name, digest_of(tool), now)
            if settings.drift == "allow" and new.drifted:
                new = accepted(new, "policy", "drift: allow")
            if new is not old:
                known.tools[name] = new
                (drifted if new.drifted else seen).append(new)
        if seen:
            self._tell(EventType.TOOLS_PINNED, upstream, seen)
        if drifted:
            names = ", ".join(tool.name for tool in drifted[:10])
            log.warning("tools of %s are not what they were when first seen: %s", upstream, names)
            self._tell(EventType.TOOLS_DRIFTED, upstream, drifted)

    def against(self, upstream: str, settings: McpUpstream, name: str) -> str:
        """Why a tool must not be called, by the list just read; empty for nothing."""
        if settings.drift != "refuse" or self._newest().observes:
            return ""
        return self._why(upstream, name)

    # ── for the pipeline ─────────────────────────────────────────────────────────────────────────────────────────

    def effect(self, policy: Policy, tool: str) -> Effect | None:
        """What a tool's own annotations say of its effect, where they count and the policy says nothing."""
        group, _, name = tool.partition(".")
        known = self._known.get(group)
        if known is None:
            return None
        upstream = policy.upstreams.get(group)
        return known.effects.get(name) if upstream is not None and upstream.mcp is not None else None

    def bar(self, flight: Flight, plan: Plan, stage: str) -> Outcome | None:
        """The refusal of a tool that has drifted, where the policy refuses drift."""
        newest = self._newest()
        upstream = newest.upstreams.get(plan.upstream.name, plan.upstream)
        name = plan.tool.partition(".")[2]
        if upstream.mcp is None or upstream.mcp.drift != "refuse" or name.startswith(MCP_METHOD):
            return None
        if not self._of(upstream.name).read and name not in self._of(upstream.name).drifted:
            return None  # the driver reads the list before it sends
        why = self._why(upstream.name, name)
        if not why:
            return None
        refusal = Outcome(OutcomeKind.NOT_EXECUTED, code=Code.TOOL_DRIFTED, detail=why, stage=stage)
        return enforced(flight, refusal, by=newest)

    def _why(self, upstream: str, name: str) -> str:
        known = self._of(upstream)
        pinned = known.tools.get(name)
        if pinned is not None and pinned.drifted:
            return (
                f"The schema or description of {upstream}.{name} is not the one first seen. It is refused until a "
                f"person has looked at it: outrider upstreams accept {upstream} {name}"
            )
        if not known.read:
            return f"The tools of {upstream} could not be read, so it cannot be told whether {upstream}.{name} changed."
        if pinned is None or name not in known.listed:
            return f"{upstream}.{name} is not in the server's list of tools, so it cannot be told whether it changed."
        return ""

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self, upstream: str) -> dict[str, Any]:
        """For the control plane; JSON types only."""
        known = self._of(upstream)
        return {"pinned": len(known.tools), "drifted": [known.tools[name].as_dict() for name in known.drifted]}

    async def accept(self, upstream: str, name: str, why: str, by: str) -> list[dict[str, Any]]:
        """A person trusts what a drifted tool is now, or all of them (no name): durable, then in force. Raises
        KeyError: there is no such drift; Refused: it cannot be written, or a tool has changed again."""
        known = self._of(upstream).tools
        names = self._of(upstream).drifted
        chosen = [one for one in names if not name or one == name]
        if not chosen:
            raise KeyError(name)
        trusted = [accepted(known[one], by, why) for one in chosen]
        event = Event(type=EventType.TOOLS_ACCEPTED, upstream=upstream, actor=by, reason=why, data=_told(trusted))
        try:
            await self._ledger.append(event, durable=True, mutations=[_row(upstream, tool) for tool in trusted])
        except Exception as fault:
            text = f"The ledger cannot be written ({fault}). All stays as it was."
            raise Refused(text, {"code": Code.LEDGER_UNAVAILABLE.value}) from fault
        again = [tool.name for tool in trusted if known[tool.name].latest != tool.latest]
        known.update((tool.name, tool) for tool in trusted if tool.name not in again)
        if again:
            text = f"{', '.join(again)} of {upstream} has changed once more meanwhile. Look at it again."
            raise Refused(text, {"code": Code.CONFLICT.value})
        return [tool.as_dict() for tool in trusted]

    def _tell(self, kind: EventType, upstream: str, tools: list[KnownTool]) -> None:
        """In the ledger, with the rows that say so, and those that could not be written before."""
        rows = {**self._unwritten, **{(upstream, tool.name): tool for tool in tools}}
        self._unwritten = {}
        event = Event(type=kind, upstream=upstream, data=_told(tools))
        mutations = [_row(group, tool) for (group, _), tool in rows.items()]
        written = self._ledger.append(event, durable=True, mutations=mutations)
        written.add_done_callback(partial(self._written, rows))

    def _written(self, rows: dict[tuple[str, str], KnownTool], written: asyncio.Future[int]) -> None:
        if written.cancelled() or written.exception() is not None:
            self._unwritten = {**rows, **self._unwritten}


def digest_of(tool: Message) -> str:
    """Of what a model reads of a tool, and of what it claims to do."""
    return hashlib.sha256(_encode({key: tool[key] for key in _PINNED if key in tool})).hexdigest()[:32]


def effect_of(annotations: Any, *, trusted: bool) -> Effect | None:
    """What annotations say, None where they do not count. Who is not trusted can only say that it is worse."""
    said = annotations if isinstance(annotations, Mapping) else {}
    if trusted and said.get("readOnlyHint") is True:
        return Effect.READ
    if trusted and said.get("idempotentHint") is True:
        return Effect.IDEMPOTENT
    return Effect.WRITE if said.get("destructiveHint") is True else None


def _told(tools: list[KnownTool]) -> dict[str, Any]:
    return {"count": len(tools), "tools": {tool.name: tool.latest for tool in tools[:MAX_TOLD]}}


def _row(upstream: str, known: KnownTool) -> Mutation:
    said = (known.first_seen, known.drifted_at, known.accepted_by, known.accepted_why)
    return _ROW, (upstream, known.name, json.dumps(known.trusted), known.latest, *said)

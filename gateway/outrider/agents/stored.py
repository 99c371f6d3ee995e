"""Agents, their tools and what is commanded of them as rows of the store, and the way back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from outrider.agents.commanded import State, Switch
from outrider.agents.entry import Entry
from outrider.agents.tools import KnownTool
from outrider.calls import Agent

Mutation = tuple[str, tuple[object, ...]]

AGENTS = "SELECT * FROM agents ORDER BY last_seen"
TOOLS = "SELECT * FROM agent_tools"
SWITCHES = "SELECT * FROM agent_switches ORDER BY at"
_AGENT = (
    "INSERT OR REPLACE INTO agents (name, framework, owner, labels, versions, first_seen, last_seen, calls, failures, "
    "refused) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_TOOL = (
    "INSERT OR REPLACE INTO agent_tools (agent, tool, trusted, latest, first_seen, drifted_at, accepted_by, "
    "accepted_why) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_SWITCH = (
    'INSERT OR REPLACE INTO agent_switches (agent, state, "by", why, "at", automated, before, deadline_at, drained_at, '
    "runs) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def agent(entry: Entry) -> Mutation:
    """What is known of an agent, its statistics included."""
    who = entry.agent
    values = (entry.name, who.framework, who.owner, json.dumps(dict(who.labels)), json.dumps(entry.versions))
    return _AGENT, (*values, entry.first_seen, entry.last_seen, entry.calls, entry.failures, entry.refused)


def tool(name: str, known: KnownTool) -> Mutation:
    """One tool of the agent ``name``."""
    said = (known.first_seen, known.drifted_at, known.accepted_by, known.accepted_why)
    return _TOOL, (name, known.name, json.dumps(known.trusted), known.latest, *said)


def forgotten(name: str) -> list[Mutation]:
    """The agent made room for another one."""
    return [("DELETE FROM agents WHERE name = ?", (name,)), ("DELETE FROM agent_tools WHERE agent = ?", (name,))]


def switched(name: str, switch: Switch | None) -> Mutation:
    """What is commanded of the agent ``name`` from now on; None: nothing."""
    if switch is None:
        return "DELETE FROM agent_switches WHERE agent = ?", (name,)
    said = (switch.state.value, switch.by, switch.why, switch.at, int(switch.automated), switch.before.value)
    return _SWITCH, (name, *said, switch.deadline_at, switch.drained_at, json.dumps(switch.runs))


def read_agent(row: Mapping[str, Any]) -> Entry:
    """Raises ValueError, TypeError or KeyError on a row that says anything unexpected."""
    labels = _texts(row["labels"])
    entry = Entry(_text(row["name"]), _number(row["first_seen"]), _number(row["last_seen"]))
    entry.agent = Agent(entry.name, _text(row["framework"]), labels, _text(row["owner"]))
    entry.versions = _texts(row["versions"])
    entry.calls, entry.failures, entry.refused = (int(row[name]) for name in ("calls", "failures", "refused"))
    entry.saved_calls = entry.calls
    return entry


def read_tool(row: Mapping[str, Any]) -> KnownTool:
    """Raises like ``read_agent``."""
    return KnownTool(
        name=_text(row["tool"]),
        trusted=tuple(_text(digest) for digest in json.loads(row["trusted"])),
        latest=_text(row["latest"]),
        first_seen=_number(row["first_seen"]),
        drifted_at=None if row["drifted_at"] is None else _number(row["drifted_at"]),
        accepted_by=_text(row["accepted_by"]),
        accepted_why=_text(row["accepted_why"]),
    )


def read_switch(row: Mapping[str, Any]) -> Switch:
    """Raises like ``read_agent``. No call outlived its sidecar, so a deadline means nothing any more."""
    return Switch(
        agent=_text(row["agent"]),
        state=State(row["state"]),
        by=_text(row["by"]),
        why=_text(row["why"]),
        at=_number(row["at"]),
        automated=bool(row["automated"]),
        before=State(row["before"]),
        deadline_at=None if row["deadline_at"] is None else _number(row["deadline_at"]),
        drained_at=None if row["drained_at"] is None else _number(row["drained_at"]),
        runs=tuple(_text(run) for run in json.loads(row["runs"])),
        durable=True,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, found {type(value).__name__}")
    return value


def _texts(value: str) -> dict[str, str]:
    return {_text(name): _text(text) for name, text in json.loads(value).items()}


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"a number expected, found {value!r}"[:80])
    return float(value)

"""The rows of the page's tables, made of what the control plane lists: only what is shown, every text short and clean,
and nothing that changes by itself with time, so that a row which nothing happened to is not sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

MAX_TEXT = 300
MAX_AGENTS = 2000
MAX_CALLS = 200
MAX_DOMAINS = 100
MAX_KILLS = 200
CALM = "closed"
"""A breaker that lets every call pass."""

Row = dict[str, Any]
Table = dict[str, Row]


def text(value: object) -> str:
    """Short, and text that can be sent: agents choose some of it, and a lone surrogate is no Unicode."""
    told = "" if value is None else str(value)
    if len(told) > MAX_TEXT:
        told = told[: MAX_TEXT - 1] + "…"
    return told.encode("utf-8", "replace").decode()


def table(rows: Iterable[Row], key: str) -> Table:
    """By sidecar and key: the same agent may be at several sidecars."""
    return {f"{row['sidecar']}/{row[key]}": row for row in rows}


# ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NEEDS_A_LOOK = ("undeclared", "quarantined", "drifted", "lost", "degraded")
"""Words about an agent that a person should see first, the most urgent first."""
AGENT: Row = {
    "sidecar": "", "name": "", "state": "", "rank": 0, "words": [], "framework": "", "owner": "", "asserted": True,
    "processes": 0, "tools": 0, "calls": 0, "failures": 0, "refused": 0, "in_flight": 0, "last_seen": "",
}  # fmt: skip


def agents(listed: list[Row], home: str) -> Table:
    """Those that need a look first; what does not fit is left out at the end."""
    return first_agents(_agent(one, home) for one in listed)


def first_agents(rows: Iterable[Row]) -> Table:
    """The most urgent ones, so many."""
    return table(sorted(rows, key=lambda row: (row["rank"], row["name"]))[:MAX_AGENTS], "name")


def _agent(one: Row, home: str) -> Row:
    said = {
        "undeclared": one["declared"] is False,
        "quarantined": one["quarantined"],
        "drifted": bool(one["drift"]),
        "lost": "lost" in (one["observed"], one["state"]),
        "degraded": one["observed"] == "degraded",
    }
    words = [word for word in NEEDS_A_LOOK if said[word]]
    return {
        "sidecar": home,
        "name": text(one["name"]),
        "state": text(one["standing"]),
        "rank": NEEDS_A_LOOK.index(words[0]) if words else len(NEEDS_A_LOOK),
        "words": [word for word in words if word != one["standing"]],
        "framework": text(one["framework"]),
        "owner": text(one["owner"]),
        "asserted": one["asserted"],
        "processes": sum(instance["state"] == "connected" for instance in one["instances"]),
        "tools": len(one["tools"]),
        "calls": one["calls"],
        "failures": one["failures"],
        "refused": one["refused"],
        "in_flight": one["in_flight"],
        "last_seen": one["last_seen"],
    }


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


CALL: Row = {
    "sidecar": "", "id": "", "tool": "", "agent": "", "run": "", "attempts": 0, "sent": False, "since": "",
    "stopping": "",
}  # fmt: skip


def calls(listed: list[Row], home: str) -> Table:
    """The oldest first: those that hang are among them."""
    rows = (
        {
            "sidecar": home,
            "id": text(one["call_id"]),
            "tool": text(one["tool"]),
            "agent": text(one["agent"]),
            "run": text(one["run"]),
            "attempts": one["attempts"],
            "sent": one["sent"],
            "since": one["received_at"],
            "stopping": text(one["stopping"]),
        }
        for one in listed[:MAX_CALLS]
    )
    return table(rows, "id")


# ── upstreams ────────────────────────────────────────────────────────────────────────────────────────────────────────


UPSTREAM: Row = {
    "sidecar": "", "name": "", "kind": "", "probed": False, "ready": True, "last": "", "breaker": "", "opened": 0,
    "breakers": {}, "held": 0, "waiting": 0,
}  # fmt: skip


def upstreams(listed: list[Row], home: str) -> Table:
    """One row an upstream, and one for each of its other fault domains whose breaker does not let every call pass."""
    rows = [row for one in listed for row in _upstream(one, home)]
    return table(rows, "name")


def _upstream(one: Row, home: str) -> Iterator[Row]:
    health, domains = one["health"], one["domains"]
    states = Counter(domain["breaker"]["state"] for domain in domains)
    own = len(domains) == 1 and domains[0]["key"] == one["name"]
    yield {
        "sidecar": home,
        "name": text(one["name"]),
        "kind": one["kind"],
        "probed": one["probed"],
        "ready": health["ready"],
        "last": text(health.get("last")),
        "breaker": next(iter(states)) if own else CALM,
        "opened": domains[0]["breaker"]["times_opened"] if own else 0,
        "breakers": dict(states),
        "held": sum(domain["bulkhead"]["held"] for domain in domains),
        "waiting": sum(domain["bulkhead"]["waiting"] for domain in domains),
    }
    if not own:
        broken = [domain for domain in domains if domain["breaker"]["state"] != CALM]
        yield from (_domain(domain, home) for domain in broken[:MAX_DOMAINS])


def _domain(domain: Row, home: str) -> Row:
    return {
        "sidecar": home,
        "name": text(domain["key"]),
        "kind": "domain",
        "probed": False,
        "ready": True,
        "last": "",
        "breaker": domain["breaker"]["state"],
        "opened": domain["breaker"]["times_opened"],
        "breakers": {},
        "held": domain["bulkhead"]["held"],
        "waiting": domain["bulkhead"]["waiting"],
    }


# ── kills and events ─────────────────────────────────────────────────────────────────────────────────────────────────


KILL: Row = {
    "sidecar": "", "durable": True, "id": "", "scope": "", "reason": "", "by": "", "engaged_at": "", "expires_at": "",
}  # fmt: skip
EVENT: Row = {
    "sidecar": "", "seq": 0, "at": "", "agent": "", "attempts": 0, "told": "", "type": "", "tool": "", "outcome": "",
    "code": "", "rule": "", "actor": "", "call_id": "", "run_id": "",
}  # fmt: skip
SHAPES: dict[str, Row] = {"agents": AGENT, "calls": CALL, "upstreams": UPSTREAM, "kills": KILL, "events": EVENT}


def kills(listed: list[Row], home: str) -> Table:
    """The newest first."""
    rows = (
        {"sidecar": home, "durable": one["durable"]}
        | {word: text(one[word]) for word in ("id", "scope", "reason", "by", "engaged_at", "expires_at")}
        for one in listed[: -MAX_KILLS - 1 : -1]
    )
    return table(rows, "id")


def events(records: list[Row], home: str) -> Table:
    """Records of the ledger."""
    return table((_event(record, home) for record in records), "seq")


def _event(record: Row, home: str) -> Row:
    data = record.get("data", {})
    told = record.get("detail") or record.get("reason") or data.get("scope") or ""
    words = ("type", "tool", "outcome", "code", "rule", "actor", "call_id", "run_id")
    return {
        "sidecar": home,
        "seq": record.get("seq", 0),
        "at": text(record.get("ts")),
        "agent": text(record.get("agent", {}).get("name")),
        "attempts": data.get("attempts", 0),
        "told": text(told),
    } | {word: text(record.get(word)) for word in words}

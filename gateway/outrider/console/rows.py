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


def _table(rows: Iterable[Row], key: str) -> Table:
    """By sidecar and key: the same agent may be at several sidecars."""
    return {f"{row['sidecar']}/{row[key]}": row for row in rows}


def _home(listed: Row) -> str:
    return text(listed.get("sidecar"))


# ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NEEDS_A_LOOK = ("lost",)
"""Words about an agent that a person should see first, the most urgent first."""


def agents(listed: list[Row]) -> Table:
    """Those that need a look first; what does not fit is left out at the end."""
    rows = sorted((_agent(one) for one in listed), key=lambda row: (row["rank"], row["name"]))
    return _table(rows[:MAX_AGENTS], "name")


def _agent(one: Row) -> Row:
    words = [word for word in NEEDS_A_LOOK if word == one["state"]]
    running = [instance for instance in one["instances"] if instance["state"] == "connected"]
    return {
        "sidecar": _home(one),
        "name": text(one["name"]),
        "state": text(one["state"]),
        "rank": NEEDS_A_LOOK.index(words[0]) if words else len(NEEDS_A_LOOK),
        "framework": text(one["framework"]),
        "owner": text(one["owner"]),
        "asserted": one["asserted"],
        "processes": len(running),
        "tools": len(one["tools"]),
        "calls": one["calls"],
        "failures": one["failures"],
        "refused": one["refused"],
        "in_flight": one["in_flight"],
        "last_seen": one["last_seen"],
    }


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def calls(listed: list[Row]) -> Table:
    """The oldest first: those that hang are among them."""
    rows = (
        {
            "sidecar": _home(one),
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
    return _table(rows, "id")


# ── upstreams ────────────────────────────────────────────────────────────────────────────────────────────────────────


def upstreams(listed: list[Row]) -> Table:
    """One row an upstream, and one for each of its other fault domains whose breaker does not let every call pass."""
    rows = [row for one in listed for row in _upstream(one)]
    return _table(rows, "name")


def _upstream(one: Row) -> Iterator[Row]:
    health, domains = one["health"], one["domains"]
    states = Counter(domain["breaker"]["state"] for domain in domains)
    own = len(domains) == 1 and domains[0]["key"] == one["name"]
    yield {
        "sidecar": _home(one),
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
        yield from (_domain(one, domain) for domain in broken[:MAX_DOMAINS])


def _domain(one: Row, domain: Row) -> Row:
    return {
        "sidecar": _home(one),
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


def kills(listed: list[Row]) -> Table:
    """The newest first."""
    rows = (
        {"sidecar": _home(one), "durable": one["durable"]}
        | {word: text(one[word]) for word in ("id", "scope", "reason", "by", "engaged_at", "expires_at")}
        for one in listed[: -MAX_KILLS - 1 : -1]
    )
    return _table(rows, "id")


def events(records: list[Row]) -> Table:
    """Records of the ledger."""
    return _table((_event(record) for record in records), "seq")


def _event(record: Row) -> Row:
    data = record.get("data", {})
    told = record.get("reason") or record.get("detail") or data.get("scope") or ""
    words = ("type", "tool", "outcome", "code", "rule", "actor", "call_id", "run_id")
    return {
        "sidecar": _home(record),
        "seq": record.get("seq", 0),
        "at": text(record.get("ts")),
        "agent": text(record.get("agent", {}).get("name")),
        "attempts": data.get("attempts", 0),
        "told": text(told),
    } | {word: text(record.get(word)) for word in words}

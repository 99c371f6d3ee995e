"""What the ledger saw, in counts: read once, from the oldest record to the newest, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from outrider.suggest.sketch import Sketch

MAX_TOOLS = 1000
MAX_AGENTS = 1000
MAX_PAIRS = 10_000
MAX_OPEN = 10_000
MAX_CODES = 64
CLUSTER = 5
"""So many failures of an upstream in a row are a cluster: as many as open a breaker that nobody configured."""

UPSTREAM_FAULTS = frozenset({"connect", "reset", "timeout", "protocol"})
BREAKER_STATUSES = frozenset({500, 502, 503, 504})
OF_THE_AGENT = frozenset({"agent_undeclared", "tool_drifted", "run_limit", "runaway"})
"""What a section that is carried over goes on to refuse, whatever the rules say."""
CLAIMS = frozenset({"read", "idempotent", "write"})
BY_RULE = frozenset({"denied", "no_rule", "approval_unavailable"})

Record = Mapping[str, Any]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class Tool:
    """One tool, over all agents. ``took`` are attempts that were answered, ``whole`` calls with all their attempts."""

    name: str
    upstream: str = ""
    declares: set[str] = field(default_factory=set)  # what its own annotations claim
    calls: int = 0
    attempts: int = 0
    failed: int = 0
    cut: int = 0  # attempts that a timeout ended
    overdue: int = 0  # calls that the total deadline ended
    took: Sketch = field(default_factory=Sketch)
    whole: Sketch = field(default_factory=Sketch)
    agents: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Pair:
    """One agent at one tool. ``allowed``: how often, by which rule (empty: none, in a policy that observed)."""

    allowed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # by code, by the rules: enforced, or only observed
    other: Counter[str] = field(default_factory=Counter)  # by code, before the rules were asked or after


@dataclass(slots=True)
class Place:
    """One upstream: of `local`, one tool of one agent is a place of its own, and the busiest is kept."""

    name: str
    attempts: int = 0
    faults: int = 0
    most_at_once: int = 0
    most_a_second: int = 0
    clusters: int = 0
    longest_run: int = 0
    longest_cluster_s: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    run: int = 0
    run_began_s: float = 0.0
    second: int = 0
    in_second: int = 0
    at_once: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Seen:
    """Everything that a suggestion is made of."""

    tools: dict[str, Tool] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Pair] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    agents: set[str] = field(default_factory=set)
    calls: int = 0
    first: str = ""
    last: str = ""
    digest: str = ""  # of the policy that was in force last
    left_out: Counter[str] = field(default_factory=Counter)  # what was more than is kept
    _open: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)  # attempts: upstream, domain

    # ── what a record adds ────────────────────────────────────────────────────────────────────────────────────────

    def tool(self, name: str) -> Tool | None:
        return self._kept(
            self.tools, name, MAX_TOOLS, "records of further tools", lambda: Tool(name, name.partition(".")[0])
        )

    def pair(self, agent: str, tool: str) -> Pair | None:
        if agent not in self.agents and len(self.agents) >= MAX_AGENTS:
            self.left_out["records of further agents"] += 1
            return None
        pair = self._kept(self.pairs, (agent, tool), MAX_PAIRS, "records of further pairs of agent and tool", Pair)
        if pair is not None:
            self.agents.add(agent)
        return pair

    def place(self, name: str) -> Place | None:
        return self._kept(self.places, name, MAX_TOOLS, "records of further upstreams", lambda: Place(name))

    def _kept(self, known: dict[K, V], key: K, most: int, what: str, make: Callable[[], V]) -> V | None:
        found = known.get(key)
        if found is None:
            if len(known) >= most:
                self.left_out[what] += 1
                return None
            found = known[key] = make()
        return found


def seen(records: Iterable[Record]) -> Seen:
    """The counts of all records, oldest first."""
    found = Seen()
    for record in records:
        told = _TOLD.get(str(record.get("type", "")))
        if told is None:
            continue
        stamp = str(record.get("ts", ""))
        found.first, found.last = found.first or stamp, stamp
        told(found, record)
    return found


def _name(record: Record) -> str:
    agent = record.get("agent")
    return str(agent.get("name", "")) if isinstance(agent, dict) else ""


def _received(found: Seen, record: Record) -> None:
    found.calls += 1
    tool = found.tool(str(record.get("tool", "")))
    if tool is not None:
        tool.calls += 1
        if len(tool.agents) < MAX_AGENTS:
            tool.agents.add(_name(record))
        data = record.get("data")
        claim = data.get("declares") if isinstance(data, dict) else None
        if claim in CLAIMS:
            tool.declares.add(str(claim))


def _decided(found: Seen, record: Record) -> None:
    if record.get("decision") == "allow":
        pair = found.pair(_name(record), str(record.get("tool", "")))
        if pair is not None:
            _count(pair.allowed, str(record.get("rule", "")))


def _observed(found: Seen, record: Record) -> None:
    code = str(record.get("code", ""))
    pair = found.pair(_name(record), str(record.get("tool", "")))
    if code == "no_rule" and pair is not None:
        _count(pair.allowed, "")
    elif code in BY_RULE and pair is not None:
        _count(pair.refused, _by(record))
    elif code not in BY_RULE:
        _not_passed(found, record, code)
        if code in OF_THE_AGENT and pair is not None:
            _count(pair.other, code)


def _refused(found: Seen, record: Record) -> None:
    code = str(record.get("code", ""))
    pair = found.pair(_name(record), str(record.get("tool", "")))
    if pair is not None:
        _count(pair.refused if code in BY_RULE else pair.other, _by(record) if code in BY_RULE else code)
    _not_passed(found, record, code)


def _by(record: Record) -> str:
    code, rule = str(record.get("code", "")), str(record.get("rule", ""))
    return f"{code} by the rule '{rule}'" if rule else code


def _not_passed(found: Seen, record: Record, code: str) -> None:
    place = found.places.get(str(record.get("tool", "")).partition(".")[0])
    if place is not None:
        _count(place.refused, code)


def _started(found: Seen, record: Record) -> None:
    name = str(record.get("tool", ""))
    upstream = str(record.get("upstream", "")) or name.partition(".")[0]
    tool, place = found.tool(name), found.place(upstream)
    if tool is not None:
        tool.attempts += 1
        tool.upstream = upstream
    if place is None:
        return
    place.attempts += 1
    _busy(place, int(_seconds(record)))
    key = (str(record.get("call_id", "")), int(record.get("attempt", 0)))
    if len(found._open) < MAX_OPEN and key not in found._open:
        domain = f"{_name(record)}\0{name}" if upstream == "local" else upstream
        found._open[key] = (upstream, domain)
        place.at_once[domain] += 1
        place.most_at_once = max(place.most_at_once, place.at_once[domain])


def _busy(place: Place, second: int) -> None:
    if second != place.second:
        place.second, place.in_second = second, 0
    place.in_second += 1
    place.most_a_second = max(place.most_a_second, place.in_second)


def _ended(found: Seen, record: Record) -> None:
    opened = found._open.pop((str(record.get("call_id", "")), int(record.get("attempt", 0))), None)
    name = str(record.get("tool", ""))
    if opened is not None:
        place = found.places[opened[0]]
        place.at_once[opened[1]] -= 1
        if not place.at_once[opened[1]]:
            del place.at_once[opened[1]]
        _learn(place, record)
    tool = found.tool(name)
    if tool is None:
        return
    failure = record.get("failure")
    tool.failed += record.get("outcome") != "ok"
    tool.cut += failure == "timeout"
    if record.get("outcome") == "ok" or failure in {"status", "raised"}:
        tool.took.add(_ms(record, "took_ms"))


def _learn(place: Place, record: Record) -> None:
    """Runs of failures in a row, as a breaker would count them."""
    failure = record.get("failure")
    fault = failure in UPSTREAM_FAULTS or (failure == "status" and record.get("status") in BREAKER_STATUSES)
    now_s = _seconds(record)
    if not fault:
        place.run = 0
        return
    place.faults += 1
    place.run += 1
    if place.run == 1:
        place.run_began_s = now_s
    place.longest_run = max(place.longest_run, place.run)
    place.clusters += place.run == CLUSTER
    if place.run >= CLUSTER:
        place.longest_cluster_s = max(place.longest_cluster_s, now_s - place.run_began_s)


def _finished(found: Seen, record: Record) -> None:
    tool = found.tool(str(record.get("tool", "")))
    if tool is None:
        return
    tool.overdue += record.get("code") == "deadline_exceeded"
    if record.get("outcome") == "ok":
        tool.whole.add(_ms(record, "total_ms"))


def _loaded(found: Seen, record: Record) -> None:
    found.digest = str(record.get("policy_digest", ""))


def _began(found: Seen, record: Record) -> None:
    """A sidecar started: what the one before left open is over."""
    found._open.clear()
    for place in found.places.values():
        place.at_once.clear()


def _count(counter: Counter[str], key: str) -> None:
    if key in counter or len(counter) < MAX_CODES:
        counter[key] += 1


def _ms(record: Record, name: str) -> float:
    timing = record.get("timing")
    value = timing.get(name, 0.0) if isinstance(timing, dict) else 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def _seconds(record: Record) -> float:
    try:
        return datetime.fromisoformat(str(record.get("ts", ""))).timestamp()
    except ValueError:
        return 0.0


_TOLD = {
    "call.received": _received,
    "call.decided": _decided,
    "call.observed": _observed,
    "call.refused": _refused,
    "attempt.started": _started,
    "attempt.finished": _ended,
    "call.finished": _finished,
    "policy.loaded": _loaded,
    "sidecar.started": _began,
}

"""What must hold at the end of a soak. Each broken promise is a sentence."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.ledger.verify import verify
from tests.soak.readings import Reading

MEMORY_FACTOR = 1.25
"""How much of what was in memory after the warm-up may have come by the end: pools and caches fill, a leak goes on."""
SLACK_DESCRIPTORS = 8
"""Connections to the shop that are kept for the next call."""
SLACK_THREADS = 4
"""Helpers that the interpreter's pool keeps."""

ENDS = ("call.finished", "call.refused")


def of_readings(fresh: Reading, warm: Reading, end: Reading) -> Iterator[str]:
    """``fresh``: before the first agent. ``warm``: under load, some time after the last restart. ``end``: all left."""
    for name in ("calls", "processes", "held"):
        if getattr(end, name):
            yield f"{getattr(end, name)} {name} are left, with nobody there"
    if end.tasks > fresh.tasks:
        yield f"{end.tasks} tasks at the end, {fresh.tasks} at the beginning"
    if end.descriptors > fresh.descriptors + SLACK_DESCRIPTORS:
        yield f"{end.descriptors} descriptors at the end, {fresh.descriptors} at the beginning"
    if end.threads > fresh.threads + SLACK_THREADS:
        yield f"{end.threads} threads at the end, {fresh.threads} at the beginning"
    if end.memory_mb > warm.memory_mb * MEMORY_FACTOR:
        yield f"{end.memory_mb:.0f} MB at the end, {warm.memory_mb:.0f} MB after the warm-up"


@dataclass(frozen=True, slots=True)
class Ended:
    """A call, by the text that it alone had."""

    tool: str
    outcome: str


def of_ledger(data: Path) -> tuple[list[str], dict[str, int], dict[str, Ended]]:
    """Broken promises, counts, and every call by its text."""
    report = verify(data)
    broken = [] if report.ok else [f"the ledger does not verify: {report.first_bad}"]
    if report.open_attempts:
        broken.append(f"{report.open_attempts} attempts have no end")
    received: set[str] = set()
    ends: Counter[str] = Counter()
    calls: dict[str, Ended] = {}
    texts: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for line, args in _lines(data):
        counts[line["type"]] += 1
        if line["type"] == "call.received":
            received.add(line["call_id"])
            texts[line["call_id"]] = json.loads(args or "{}").get("text", "")
        if line["type"] in ENDS:
            ends[line["call_id"]] += 1
            calls[line["call_id"]] = Ended(line["tool"], line["outcome"])
            counts[f"ended {line['outcome']}"] += 1
    more = [call for call, number in ends.items() if number != 1]
    none = received - ends.keys()
    if more:
        broken.append(f"{len(more)} calls have more than one end: {more[:3]}")
    if none:
        broken.append(f"{len(none)} calls have no end: {sorted(none)[:3]}")
    return broken, dict(counts), {texts[call]: ended for call, ended in calls.items() if texts.get(call)}


def _lines(data: Path) -> Iterator[tuple[dict[str, Any], str | None]]:
    with sqlite3.connect(f"file:{data / 'outrider.db'}?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT line, value FROM ledger LEFT JOIN payloads ON payloads.id = 2 * ledger.seq ORDER BY ledger.seq"
        )
        for line, args in rows:
            yield json.loads(line), args


def of_effects(effects: list[str], calls: dict[str, Ended]) -> Iterator[str]:
    """``effects``: texts of what really took effect."""
    happened = Counter(effects)
    for text, count in happened.items():
        if count > 1:
            yield f"the side effect of {text} happened {count} times"
        if text in calls and calls[text].outcome == "not_executed":
            yield f"the call {text} ended not_executed, and its side effect happened"
    for text, ended in calls.items():
        if ended.outcome == "ok" and "write" in ended.tool and text not in happened:
            yield f"the call {text} of {ended.tool} ended ok, and its side effect never happened"

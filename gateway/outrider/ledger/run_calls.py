"""The calls of one run, from the ledger's tail: which call began which, and what became of each. Read-only, bounded,
and blocking, as ``query`` is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from outrider.ledger.query import MAX_SCANNED, Record
from outrider.ledger.record import EventType, decode_record
from outrider.store import open_reader

MAX_CALLS: Final = 1000
"""Calls of one run that are told, the newest."""

BEGINS: Final = EventType.CALL_RECEIVED
ENDS: Final = (EventType.CALL_FINISHED, EventType.CALL_REFUSED)


def calls_of_run(folder: Path, run_id: str) -> list[dict[str, Any]]:
    """The newest calls of the runs of this id that lie within the last records, oldest first. One without an end has
    ``outcome`` None."""
    needle = f'"run_id":{msgspec.json.encode(run_id).decode()}'
    kinds = (BEGINS, *ENDS)
    sql = (
        "SELECT line FROM ledger WHERE seq > (SELECT max(seq) FROM ledger) - ? "  # noqa: S608 - marks
        f"AND type IN ({','.join('?' * len(kinds))}) AND instr(line, ?) > 0 ORDER BY seq DESC LIMIT ?"
    )
    with open_reader(folder) as db:
        rows = db.execute(sql, (MAX_SCANNED, *kinds, needle, 2 * MAX_CALLS)).fetchall()
    return _told(run_id, (decode_record.decode(line) for (line,) in reversed(rows)))[-MAX_CALLS:]


def _told(run_id: str, records: Iterable[Record]) -> list[dict[str, Any]]:
    calls: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.get("run_id") != run_id:
            continue  # an argument's text may look like it
        if record["type"] == BEGINS:
            calls[record["call_id"]] = _begun(record)
        elif record["call_id"] in calls:
            calls[record["call_id"]].update(_ended(record))
    return list(calls.values())


def _begun(record: Record) -> dict[str, Any]:
    return {
        "call_id": record["call_id"],
        "parent": record.get("parent_call_id", ""),
        "agent": record.get("agent", {}).get("name", ""),
        "principal": record.get("principal", ""),
        "tool": record.get("tool", ""),
        "at": record["ts"],
        "outcome": None,
        "code": "",
        "detail": "",
        "attempts": None,
        "took_ms": None,
    }


def _ended(record: Record) -> dict[str, Any]:
    return {
        "outcome": record.get("outcome", ""),
        "code": record.get("code", ""),
        "detail": record.get("detail", ""),
        "attempts": record.get("data", {}).get("attempts"),
        "took_ms": record.get("timing", {}).get("total_ms"),
    }

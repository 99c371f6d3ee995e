"""What the page shows at one moment, and what changed since the one before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from outrider.console.rows import Table
from outrider.pulse import Counts

TAIL = 15
"""The seconds of calls that are told again with every change: a peer's are learnt a little later than our own."""


@dataclass(frozen=True, slots=True)
class Board:
    """``head`` is about the sidecar as a whole; each table has its rows by key. ``pulse`` is the history of calls, and
    ``second`` the monotonic one that its end is about."""

    head: dict[str, Any]
    tables: dict[str, Table]
    second: int = 0
    pulse: list[Counts] = field(default_factory=list)


def whole(board: Board) -> dict[str, Any]:
    """For a page that has nothing yet."""
    return {"head": board.head, "tables": board.tables, "second": board.second, "pulse": board.pulse}


def changes(before: Board, after: Board) -> dict[str, Any]:
    """Only what differs: ``{"head"?, "tables": {NAME: {"set": {KEY: row}, "gone": [KEY]}}, "second", "pulse"}``."""
    missed = max(TAIL, after.second - before.second)
    found: dict[str, Any] = {"tables": {}, "second": after.second, "pulse": after.pulse[-missed:]}
    if before.head != after.head:
        found["head"] = after.head
    for name, table in after.tables.items():
        if change := _changed(before.tables.get(name, {}), table):
            found["tables"][name] = change
    return found


def _changed(before: Table, after: Table) -> dict[str, Any]:
    new = {key: row for key, row in after.items() if before.get(key) != row}
    gone = [key for key in before if key not in after]
    return {"set": new, "gone": gone} if new or gone else {}

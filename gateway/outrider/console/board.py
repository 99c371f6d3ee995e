"""What the page shows at one moment, and what changed since the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outrider.console.rows import Table


@dataclass(frozen=True, slots=True)
class Board:
    """``head`` is about the sidecar as a whole; each table has its rows by key."""

    head: dict[str, Any]
    tables: dict[str, Table]


def changes(before: Board, after: Board) -> dict[str, Any]:
    """Only what differs: ``{"head"?, "tables": {NAME: {"set": {KEY: row}, "gone": [KEY]}}}``."""
    found: dict[str, Any] = {"tables": {}}
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

"""How commands show what they found: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from outrider.cli.plain import safe

Rows = Sequence[Sequence[object]]


def as_json(value: Any) -> None:
    """One JSON document on stdout. ASCII only, so that nothing in it can act on a terminal."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=True, default=str))


def table(columns: Sequence[str], rows: Rows, nothing: str) -> None:
    """A table on stdout; on a terminal in colour, in a pipe plain and never cut. ``nothing`` is said for no rows."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        print(nothing)
    elif sys.stdout.isatty():
        _rich(columns, cells)
    else:
        _plain(columns, cells)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return safe(str(value))


def _plain(columns: Sequence[str], cells: list[list[str]]) -> None:
    widths = [max(len(row[index]) for row in [list(columns), *cells]) for index in range(len(columns))]
    for row in [[column.upper() for column in columns], *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column.upper(), overflow="fold")
    for row in cells:
        shown.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(shown)


STYLES = {
    "ok": "green", "ready": "green", "closed": "green", "connected": "green", "yes": "green",
    "unknown": "yellow", "half_open": "yellow", "lost": "yellow",
    "not ready": "red", "open": "red", "definite": "red", "forced_open": "red", "no": "red",
}  # fmt: skip


def say(line: str) -> None:
    """A sentence for a person."""
    print(safe(line, keep_lines=True))


def warn(line: str) -> None:
    """A sentence for a person that must not mix with what a program reads."""
    print(safe(line, keep_lines=True), file=sys.stderr)

"""The boards of several sidecars as one. What a peer tells is fitted into our own shapes: it may be older or newer than
we are, and nothing that it says may break the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from outrider.console import rows
from outrider.console.board import Board
from outrider.console.rows import Row, Table
from outrider.pulse import SECONDS, WORDS, Counts

MAX_EVENTS = 60
MAX_WORDS = 10


@dataclass(frozen=True, slots=True)
class Sheet:
    """One sidecar's own board. ``incarnation`` names this start of it: its seconds count from then."""

    sidecar: str
    incarnation: str
    board: Board

    def as_dict(self) -> dict[str, Any]:
        board = self.board
        return {
            "incarnation": self.incarnation,
            "head": board.head,
            "tables": {name: list(table.values()) for name, table in board.tables.items()},
            "second": board.second,
            "pulse": board.pulse,
        }


def sheet(sidecar: str, given: Row) -> Sheet:
    """What a peer said of itself. What does not fit is left out."""
    tables, head = _dict(given.get("tables")), _dict(given.get("head"))
    home = rows.text(sidecar)
    fitted: dict[str, Table] = {}
    for name, shape in rows.SHAPES.items():
        found = [fit(_dict(row), shape) | {"sidecar": home} for row in _list(tables.get(name))]
        fitted[name] = rows.table(found, KEYS[name])
    second = given.get("second")
    board = Board(
        fit(head, HEAD), fitted, second if isinstance(second, int) else 0, [*_counts(given.get("pulse"))][-SECONDS:]
    )
    return Sheet(home, rows.text(given.get("incarnation")), board)


KEYS = {"agents": "name", "calls": "id", "upstreams": "name", "kills": "id", "events": "seq"}
HEAD: Row = {"version": "", "unready": "", "counts": {}}


def fit(row: Row, shape: Row) -> Row:
    """The row with just the fields of the shape, each of its type."""
    return {key: _fitted(row.get(key), default) for key, default in shape.items()}


def _fitted(value: object, default: object) -> object:
    if isinstance(default, str):
        return rows.text(value)
    if isinstance(default, list):
        return [rows.text(one) for one in value[:MAX_WORDS]] if isinstance(value, list) else []
    if isinstance(default, dict):
        return {rows.text(key): one for key, one in _dict(value).items() if type(one) is int}
    return value if type(value) is type(default) else default


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _counts(given: object) -> Iterable[Counts]:
    for counts in _list(given):
        good = isinstance(counts, list) and len(counts) == len(WORDS) and all(type(one) is int for one in counts)
        yield counts if good else [0] * len(WORDS)


class Merger:
    """Peers' seconds are laid over ours the same way each time, so that no call moves from one to the next."""

    def __init__(self) -> None:
        self._ahead: dict[str, int] = {}  # incarnation → how far its seconds are ahead of ours

    def boards(self, own: Board, others: list[Sheet], peers: Table) -> Board:
        """Ours and theirs, as one."""
        every = [own, *(other.board for other in others)]
        tables = {
            "agents": rows.first_agents(_all(every, "agents")),
            "calls": _first(_all(every, "calls"), "id", "since", rows.MAX_CALLS),
            "upstreams": rows.table(_all(every, "upstreams"), "name"),
            "kills": _kills(every),
            "events": _last(_all(every, "events")),
            "sidecars": peers,
        }
        counts = {word: sum(board.head["counts"].get(word, 0) for board in every) for word in own.head["counts"]}
        counts["kills"] = len(tables["kills"])
        return Board(own.head | {"counts": counts}, tables, own.second, own.pulse)

    def pulse(self, own_second: int, others: list[Sheet]) -> dict[int, Counts]:
        """What the others counted, by our seconds."""
        self._ahead = {
            other.incarnation: self._ahead.get(other.incarnation, other.board.second - own_second) for other in others
        }
        found: dict[int, Counts] = {}
        for other in others:
            first = other.board.second - self._ahead[other.incarnation] - len(other.board.pulse) + 1
            for second, counts in enumerate(other.board.pulse, first):
                if any(counts):
                    there = found.get(second)
                    found[second] = counts if there is None else [a + b for a, b in zip(there, counts, strict=True)]
        return found


def added(board: Board, others: dict[int, Counts]) -> Board:
    """The history of the board, and what the others counted in the same seconds."""
    first = board.second - len(board.pulse) + 1
    pulse = [
        counts if (more := others.get(second)) is None else [a + b for a, b in zip(counts, more, strict=True)]
        for second, counts in enumerate(board.pulse, first)
    ]
    return Board(board.head, board.tables, board.second, pulse)


def _all(boards: list[Board], name: str) -> list[Row]:
    return [row for board in boards for row in board.tables[name].values()]


def _first(found: list[Row], key: str, by: str, count: int) -> Table:
    return rows.table(sorted(found, key=lambda row: str(row[by]))[:count], key)


def _last(found: list[Row]) -> Table:
    return rows.table(sorted(found, key=lambda row: str(row["at"]))[-MAX_EVENTS:], "seq")


def _kills(boards: list[Board]) -> Table:
    """A kill is one kill however many sidecars know it; what we know of it ourselves comes first."""
    found: dict[str, Row] = {}
    for row in _all(boards, "kills"):
        found.setdefault(row["id"], row)
    return {f"/{kill_id}": row for kill_id, row in list(found.items())[: rows.MAX_KILLS]}

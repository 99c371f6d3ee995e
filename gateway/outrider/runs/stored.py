"""What outlives the process: the counts of limited runs, from the ledger's tail, and the runs that are paused, from a
table of their own.

The record of each decision on a call, and of each retry, carries what its run has used up by then (``data.run``), so
the newest of them tells everything, however long the run is. They are on disk before an effect is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from outrider import clock
from outrider.ledger.record import EventType
from outrider.runs.run import Key, Pause, Run
from outrider.store import Store

MAX_READ: Final = 200_000
"""Records of the ledger's tail that a start looks at. A run that is not among them begins anew."""
KEEP_PAUSED_S: Final = 7 * 86_400.0
TYPES: Final = (EventType.CALL_DECIDED, EventType.ATTEMPT_STARTED, EventType.RUN_RESUMED)

Mutation = tuple[str, tuple[object, ...]]


class _Marked(msgspec.Struct):
    id: str
    of: tuple[str, str]
    root: str
    began: float
    calls: int
    retries: int
    resumes: int


class _Data(msgspec.Struct):
    run: _Marked | None = None


class _Line(msgspec.Struct):
    data: _Data = msgspec.field(default_factory=_Data)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a run had used up at ``at`` (seconds since the epoch)."""

    key: Key
    root: str
    at: float
    began_wall: float
    calls: int
    retries: int
    resumes: int

    def apply(self, run: Run) -> None:
        """Marks come in the order in which they were written; of calls side by side, the higher count is the later.
        One of before a resumption says nothing any more."""
        if self.resumes < run.resumes:
            return
        if self.resumes > run.resumes:
            run.resumes = self.resumes
            run.count_anew(run.began)
        run.counted_calls = max(run.counted_calls, self.calls)
        run.counted_retries = max(run.counted_retries, self.retries)
        run.calls, run.retries = max(run.calls, self.calls), max(run.retries, self.retries)
        run.first_wall = min(run.first_wall, self.began_wall)
        run.began = _monotonic_at(self.began_wall)


@dataclass(frozen=True, slots=True)
class Paused:
    """A row of the table ``runs``."""

    key: Key
    root: str
    why: str
    calls: int
    retries: int
    began_wall: float
    paused_wall: float

    def apply(self, run: Run) -> None:
        run.paused = Pause(self.why, self.paused_wall)
        run.counted_calls = max(run.counted_calls, self.calls)
        run.counted_retries = max(run.counted_retries, self.retries)
        run.last_wall = max(run.last_wall, self.paused_wall)


def _monotonic_at(wall: float) -> float:
    """A clock that was set back must not make a run younger than none at all."""
    return clock.monotonic() - max(0.0, clock.wall() - wall)


def read_marks(store: Store, most: int = MAX_READ) -> Iterator[Mark]:
    """From the ledger's tail, oldest first."""
    marks = ",".join("?" * len(TYPES))
    sql = (
        "SELECT ts, line FROM ledger WHERE seq > (SELECT max(seq) FROM ledger) - ? "  # noqa: S608 - marks
        f"AND type IN ({marks}) AND instr(line, '\"run\":{{') > 0 ORDER BY seq"
    )
    decode = msgspec.json.Decoder(_Line).decode
    for row in store.read(sql, (most, *TYPES)):
        try:
            found = decode(row["line"]).data.run
        except msgspec.DecodeError:
            continue  # another's word in that place
        if found is not None:
            key = (*found.of, found.id)
            yield Mark(key, found.root, row["ts"] / 1e6, found.began, found.calls, found.retries, found.resumes)


def read_paused(store: Store) -> list[Paused]:
    """Runs that a person must resume; those that nobody did for very long are left out."""
    rows = store.read("SELECT * FROM runs WHERE paused_wall > ?", (clock.wall() - KEEP_PAUSED_S,))
    return [_paused(row) for row in rows]


def _paused(row: dict[str, Any]) -> Paused:
    key = (row["owner"], row["agent"], row["run"])
    used = (row["calls"], row["retries"], row["began_wall"], row["paused_wall"])
    return Paused(key, row["root"], row["why"], *used)


def clear_old() -> Mutation:
    """What goes with the first record of a start."""
    return ("DELETE FROM runs WHERE paused_wall <= ?", (clock.wall() - KEEP_PAUSED_S,))


def pause_row(run: Run) -> Mutation:
    assert run.paused is not None
    began_wall = clock.wall() - (clock.monotonic() - run.began)
    values = (*run.key, run.root, run.paused.why, run.counted_calls, run.counted_retries, began_wall, run.paused.since)
    return (
        "INSERT OR REPLACE INTO runs (owner, agent, run, root, why, calls, retries, began_wall, paused_wall) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )


def resume_row(run: Run) -> Mutation:
    return ("DELETE FROM runs WHERE owner = ? AND agent = ? AND run = ?", run.key)

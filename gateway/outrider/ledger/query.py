"""Reading the ledger, of a running sidecar or at rest. Everything is read-only, bounded, and blocks: call it through
``asyncio.to_thread`` from a loop. A record is a dict: the fields of its line, and ``hash``.

Every function takes the data folder and raises Misconfigured when there is no ledger that can be read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import msgspec
from sqlite_utils import Database

from outrider.ledger.record import STARTS, EventType, decode_record
from outrider.store import open_reader

MAX_LIMIT: Final = 1000
MAX_SHOWN: Final = 10_000
"""Records of one call."""
MAX_SCANNED: Final = 200_000
"""Records one search looks at; it then says where to go on. About a tenth of a second."""
CHUNK: Final = 1000
CLOCK_SLACK_S: Final = 3600.0
"""Records are in order of number; of time only as far as the machine's clock was. A clock set back by more than this
may hide records at the edge of a search by time."""

COLUMNS: Final = (
    "seq", "ts", "type", "call_id", "attempt", "parent_call_id", "run_id", "session_id", "caller_ref", "agent",
    "principal", "on_behalf_of", "tool", "upstream", "effect", "outcome", "code", "failure", "status", "detail",
    "stage", "decision", "rule", "policy_digest", "idempotency_key", "actor", "reason", "enforcement", "args_digest",
    "result_digest", "result_bytes", "trace_id", "span_id", "prev", "hash",
)  # fmt: skip
"""Of the CSV export."""

STEPS: Final = STARTS | {EventType.ATTEMPT_FINISHED}
"""Records on the way to a call's end."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Every given field must agree. ``agent`` and ``tool`` may end in ``*``; ``since`` and ``until`` are seconds since
    the epoch."""

    call_id: str = ""
    agent: str = ""
    tool: str = ""
    type: str = ""
    since: float | None = None
    until: float | None = None

    def conditions(self) -> tuple[list[str], dict[str, Any]]:
        """SQL terms and their parameters."""
        terms: list[str] = []
        values: dict[str, Any] = {}
        for column in ("call_id", "agent", "tool", "type"):
            wanted: str = getattr(self, column)
            if wanted.endswith("*") and column in ("agent", "tool"):
                terms.append(f"substr({column}, 1, {len(wanted) - 1}) = :{column}")
                values[column] = wanted[:-1]
            elif wanted:
                terms.append(f"{column} = :{column}")
                values[column] = wanted
        if self.since is not None:
            terms.append("ts >= :since")
            values["since"] = int(self.since * 1e6)
        if self.until is not None:
            terms.append("ts <= :until")
            values["until"] = int(self.until * 1e6)
        return terms, values


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first. ``next_before_seq`` is where to go on, None at the ledger's beginning; a page may be empty and yet
    have a next one, because a search looks at a bounded number of records."""

    records: list[Record]
    next_before_seq: int | None


def tail(folder: Path, n: int = 20, *, after_seq: int | None = None) -> list[Record]:
    """The last ``n`` records, or the first ``n`` after ``after_seq``, oldest first."""
    n = _bounded(n)
    with open_reader(folder) as db:
        if after_seq is None:
            rows = db.execute("SELECT line, hash FROM ledger ORDER BY seq DESC LIMIT ?", (n,)).fetchall()[::-1]
        else:
            rows = db.execute(
                "SELECT line, hash FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, n)
            ).fetchall()
    return [_record(line, digest) for line, digest in rows]


def latest(folder: Path, n: int) -> list[Record]:
    """The last ``n`` records that say how something ended or changed, newest first: not each step of a call. Looks at
    a bounded number."""
    n = _bounded(n)
    steps = ", ".join(f"'{kind.value}'" for kind in STEPS)
    sql = (
        "SELECT line, hash FROM ledger WHERE seq > (SELECT max(seq) FROM ledger) - ? "  # noqa: S608
        f"AND type NOT IN ({steps}) ORDER BY seq DESC LIMIT ?"
    )
    with open_reader(folder) as db:
        return [_record(line, digest) for line, digest in db.execute(sql, (n * 20, n)).fetchall()]


def search(folder: Path, wanted: Filter, *, limit: int = 100, before_seq: int | None = None) -> Page:
    """Records that agree with ``wanted``, newest first, below ``before_seq``."""
    limit = _bounded(limit)
    with open_reader(folder) as db:
        low, high = _range(db, wanted, before_seq)
        floor = low if wanted.call_id else max(low, high - MAX_SCANNED)  # a call's records come by index
        terms, values = wanted.conditions()
        terms += ["seq >= :floor", "seq < :high"]
        values |= {"floor": floor, "high": high, "limit": limit}
        sql = f"SELECT seq, line, hash FROM ledger WHERE {' AND '.join(terms)} ORDER BY seq DESC LIMIT :limit"  # noqa: S608
        rows = db.execute(sql, values).fetchall()
    if len(rows) == limit:
        following: int | None = rows[-1][0]
    else:
        following = floor if floor > low else None
    return Page([_record(line, digest) for _, line, digest in rows], following)


def show(folder: Path, call_id: str) -> list[Record]:
    """Every record of a call, in order, each with the ``args`` and ``result`` that were stored with it: the (redacted)
    value, or ``{"«erased»": true}``, or ``{"«not recorded»": true}`` where the policy records none."""
    sql = "SELECT seq, line, hash FROM ledger WHERE call_id = ? ORDER BY seq LIMIT ?"
    with open_reader(folder) as db:
        found = [(seq, _record(line, digest)) for seq, line, digest in db.execute(sql, (call_id, MAX_SHOWN))]
        for seq, record in found:
            _attach(db, seq, record)
    return [record for _, record in found]


def policy_texts(folder: Path, digest: str) -> dict[str, str] | None:
    """The texts of the policy of this digest, by file name; None where it was never in force."""
    with open_reader(folder) as db:
        row = db.execute("SELECT text FROM policies WHERE digest = ?", (digest,)).fetchone()
    return dict(msgspec.json.decode(row[0])) if row is not None else None


def export(
    folder: Path, out: IO[str], *, format: Literal["jsonl", "csv"] = "jsonl", wanted: Filter | None = None
) -> int:
    """Write every record that agrees with ``wanted`` (default: all), oldest first; returns how many.

    ``jsonl`` writes the lines as they are, byte for byte in UTF-8: their hashes can be computed from the file. ``csv``
    writes ``COLUMNS``; text that a spreadsheet would take for a formula gets a leading apostrophe."""
    count = 0
    rows = _stream(folder, wanted or Filter())
    if format == "jsonl":
        for line, _ in rows:
            out.write(line + "\n")
            count += 1
        return count
    table = csv.writer(out)
    table.writerow(COLUMNS)
    for line, digest in rows:
        record = _record(line, digest)
        record["agent"] = record.get("agent", {}).get("name", "")
        table.writerow([_cell(record.get(name, "")) for name in COLUMNS])
        count += 1
    return count


def stream(folder: Path, wanted: Filter) -> Iterator[Record]:
    """Every record that agrees with ``wanted``, oldest first, without arguments and results."""
    for line, digest in _stream(folder, wanted):
        yield _record(line, digest)


def _stream(folder: Path, wanted: Filter) -> Iterator[tuple[str, bytes]]:
    """In pieces, so that no reader keeps the write-ahead log from being folded for long."""
    with open_reader(folder) as db:
        low, high = _range(db, wanted, None)
        terms, values = wanted.conditions()
        terms += ["seq > :after", "seq < :high"]
        sql = f"SELECT seq, line, hash FROM ledger WHERE {' AND '.join(terms)} ORDER BY seq LIMIT {CHUNK}"  # noqa: S608
        values |= {"after": low - 1, "high": high}
        while rows := db.execute(sql, values).fetchall():
            for _, line, digest in rows:
                yield line, digest
            values["after"] = rows[-1][0]


def _range(db: Database, wanted: Filter, before_seq: int | None) -> tuple[int, int]:
    """Numbers within which to look: from low, below high."""
    head = db.execute("SELECT max(seq) FROM ledger").fetchone()[0] or 0
    low, high = 1, head + 1
    if wanted.since is not None:
        low = _first_at(db, wanted.since - CLOCK_SLACK_S, head)
    if wanted.until is not None:
        high = _first_at(db, wanted.until + CLOCK_SLACK_S, head)
    return low, high if before_seq is None else min(high, before_seq)


def _first_at(db: Database, wall_s: float, head: int) -> int:
    """By bisection: the first record not older than this, head + 1 if there is none."""
    low, high = 1, head + 1
    while low < high:
        middle = (low + high) // 2
        row = db.execute("SELECT ts FROM ledger WHERE seq = ?", (middle,)).fetchone()
        if row is not None and row[0] < wall_s * 1e6:
            low = middle + 1
        else:
            high = middle
    return low


def _bounded(n: int) -> int:
    return max(1, min(n, MAX_LIMIT))


def _record(line: str, digest: bytes) -> Record:
    """The fields of a line. One that is no JSON any more is shown as what it is: verify names it."""
    try:
        record = decode_record.decode(line)
    except msgspec.DecodeError:
        record = {"«damaged»": line}
    record["hash"] = digest.hex()
    return record


def _attach(db: Database, seq: int, record: Record) -> None:
    kept = dict(db.execute("SELECT kind, value FROM payloads WHERE id IN (?, ?)", (2 * seq, 2 * seq + 1)).fetchall())
    for kind in ("args", "result"):
        if kind in kept:
            record[kind] = {"«not recorded»": True} if kept[kind] is None else msgspec.json.decode(kept[kind])
        elif f"{kind}_digest" in record:
            record[kind] = {"«erased»": True}


def _cell(value: Any) -> Any:
    """Agents choose some of these texts, and people open the file in a spreadsheet (OWASP: CSV injection)."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value

"""Checks a ledger from its first record to its last: offline, or while a sidecar writes to it. Needs no key.

Found: any changed byte of a line, a changed hash, a record missing, added, moved or taken from another ledger, columns
or stored values that do not agree with the line, an attempt that ends twice. Not found, without an anchor: a tail cut
off whole, and a chain recomputed from some record on by whoever may write to the folder. An anchor is the head that a
person noted down elsewhere: give it as ``expect_head``, and both are found.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlite_utils import Database

from outrider.ledger.entry import agent_name
from outrider.ledger.record import GENESIS, EventType, Line, decode_line, leaf_hash
from outrider.store import open_reader

CHUNK: Final = 1000
BEFORE_ALL: Final = -(2**63)

_NEXT: Final = (
    "SELECT seq, ts, type, call_id, attempt, agent, tool, line, hash FROM ledger "
    "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
)

Row = tuple[int, int, str, str, int, str, str, str, bytes]


@dataclass(frozen=True, slots=True)
class Report:
    """``ok``: nothing wrong was found. ``first_bad`` is (record number, what is wrong with it); ``records`` were good.

    ``head`` is the hash of record ``records``: note both down, elsewhere, to be able to tell later that nothing before
    was cut off or rewritten. ``payloads`` were present and agree; ``payloads_absent`` have a digest and no value any
    more, ``erasures`` records say why. ``open_attempts`` have no end (under way, or lost in a crash not yet recovered).
    """

    ok: bool
    records: int
    first_bad: tuple[int, str] | None
    head: str
    log_id: str
    payloads: int
    payloads_absent: int
    erasures: int
    open_attempts: int
    took_s: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Bad(Exception):
    """What is wrong with record ``seq``."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(why)
        self.seq = seq
        self.why = why


@dataclass(slots=True)
class _State:
    """What is carried from record to record. It grows only with the attempts that are open at once."""

    log_id: str = ""
    seq: int = 0
    head: str = GENESIS
    payloads: int = 0
    absent: int = 0
    erasures: int = 0
    open: set[tuple[str, int]] = field(default_factory=set)
    anchored: bool = False


@dataclass(frozen=True, slots=True)
class _Anchor:
    head: str = ""
    seq: int = 0


def verify(folder: Path, *, expect_head: str = "", expect_seq: int = 0) -> Report:
    """Check everything. ``expect_head`` is a hash noted down earlier (of record ``expect_seq``, where that is given):
    the ledger must still contain that record. ``expect_seq`` alone: it must reach at least so far.

    Raises Misconfigured when there is no ledger that can be opened."""
    started = time.perf_counter()
    state = _State()
    bad: tuple[int, str] | None = None
    with open_reader(folder) as db:
        try:
            _check_all(db, state, _Anchor(expect_head.lower(), expect_seq))
        except _Bad as found:
            bad = (found.seq, found.why)
        except sqlite3.DatabaseError as error:
            bad = (state.seq + 1, f"the database cannot be read from here on: {error}")
    return Report(
        ok=bad is None,
        records=state.seq,
        first_bad=bad,
        head=state.head,
        log_id=state.log_id,
        payloads=state.payloads,
        payloads_absent=state.absent,
        erasures=state.erasures,
        open_attempts=len(state.open),
        took_s=time.perf_counter() - started,
    )


def _check_all(db: Database, state: _State, anchor: _Anchor) -> None:
    found = db.execute("SELECT value FROM meta WHERE key = 'log_id'").fetchone()
    state.log_id = found[0] if found else ""
    # One statement, so that a writer cannot come between: values of a record are written with the record.
    ends = "SELECT (SELECT max(seq) FROM ledger), (SELECT min(id) FROM payloads), (SELECT max(id) FROM payloads)"
    last, first_payload, last_payload = db.execute(ends).fetchone()
    last = last or 0
    times = _Times()
    for rows in _chunks(db, last):
        kept = _payload_digests(db, rows[0][0], rows[-1][0])
        for row in rows:
            line = _check_row(row, state, times)
            _check_payloads(line, kept, state)
            _check_attempt(db, line, state)
            _advance(line, row[8].hex(), state, anchor)
        if kept:
            raise _Bad(next(iter(kept)) >> 1, "a stored value belongs to no record")
    if first_payload is not None and (first_payload < 2 or last_payload > 2 * last + 1):
        raise _Bad(last + 1, "a stored value belongs to no record")
    _check_anchor(state, anchor)


def _chunks(db: Database, last: int) -> Iterator[list[Row]]:
    """In pieces, so that no reader keeps the write-ahead log from being folded for long. A piece that cannot be read
    is read record by record, to find the first that cannot."""
    after, size = BEFORE_ALL, CHUNK
    while True:
        try:
            rows = db.execute(_NEXT, (after, last, size)).fetchall()
        except sqlite3.DatabaseError:
            if size == 1:
                raise
            size = 1
            continue
        if not rows:
            return
        yield rows
        after = rows[-1][0]


def _check_row(row: Row, state: _State, times: _Times) -> Line:
    """The chain, the hash, the columns."""
    seq, ts, type_, call_id, attempt, agent, tool, text, digest = row
    expected = state.seq + 1
    if seq != expected:
        raise _Bad(expected, f"record {expected} is missing (the next one is {seq})")
    if not isinstance(text, str) or leaf_hash(text.encode("utf-8", "surrogatepass")) != digest:
        raise _Bad(seq, "the line is not what its hash says")
    try:
        line = decode_line.decode(text)
        ts_us = times.micros(line.ts)
    except (msgspec.DecodeError, ValueError) as error:
        raise _Bad(seq, f"the line cannot be read: {error}") from error
    if line.prev != state.head:
        raise _Bad(seq, "the line does not continue the record before it")
    if line.seq != seq or line.log_id != state.log_id:
        raise _Bad(seq, "the line belongs to another place or another ledger")
    columns = (ts_us, line.type, line.call_id, line.attempt, agent_name(line.agent), line.tool)
    if columns != (ts, type_, call_id, attempt, agent, tool):
        raise _Bad(seq, "the columns beside the line do not agree with it")
    return line


def _check_payloads(line: Line, kept: dict[int, str], state: _State) -> None:
    """The stored values of one record, each against its digest. ``kept`` loses what was looked at."""
    for kind, digest, stored in (
        (0, line.args_digest, line.args_stored),
        (1, line.result_digest, line.result_stored),
    ):
        found = kept.pop(2 * line.seq + kind, None)
        if found is None:
            state.absent += bool(digest)
        elif not digest:
            raise _Bad(line.seq, "a stored value belongs to no digest of its record")
        elif found and found != (stored or digest):
            raise _Bad(line.seq, f"the stored {'result' if kind else 'arguments'} are not what the digest says")
        else:
            state.payloads += 1


def _payload_digests(db: Database, first: int, last: int) -> dict[int, str]:
    """Digest of every stored value of these records; empty text where only the salt is kept."""
    found: dict[int, str] = {}
    sql = "SELECT id, salt, value FROM payloads WHERE id BETWEEN ? AND ?"
    for id_, salt, value in db.execute(sql, (2 * first, 2 * last + 1)):
        if not isinstance(salt, bytes) or not isinstance(value, str | None):
            raise _Bad(id_ >> 1, "a stored value is not of the kind it should be")
        data = None if value is None else value.encode("utf-8", "surrogatepass")
        found[id_] = "" if data is None else hashlib.sha256(salt + data).hexdigest()
    return found


def _check_attempt(db: Database, line: Line, state: _State) -> None:
    """An attempt ends at most once."""
    key = (line.call_id, line.attempt)
    if line.type == EventType.ATTEMPT_STARTED:
        state.open.add(key)
    elif line.type == EventType.ATTEMPT_FINISHED:
        if key in state.open:
            state.open.remove(key)
        elif _ended_before(db, line):
            raise _Bad(line.seq, f"attempt {line.attempt} of call {line.call_id} ends a second time")


def _ended_before(db: Database, line: Line) -> bool:
    """Asked only for an end whose start is not known to be open, which is rare; goes by the index."""
    sql = "SELECT 1 FROM ledger WHERE call_id = ? AND attempt = ? AND type = ? AND seq < ? LIMIT 1"
    row = db.execute(sql, (line.call_id, line.attempt, EventType.ATTEMPT_FINISHED.value, line.seq)).fetchone()
    return row is not None


def _advance(line: Line, digest: str, state: _State, anchor: _Anchor) -> None:
    """This record is good, unless it should have been the one that was noted down."""
    if anchor.head and line.seq == anchor.seq and digest != anchor.head:
        raise _Bad(line.seq, "this is not the record whose hash was noted down: the chain was rewritten")
    state.anchored = state.anchored or digest == anchor.head
    state.erasures += line.type == EventType.PAYLOAD_ERASED
    state.seq = line.seq
    state.head = digest


def _check_anchor(state: _State, anchor: _Anchor) -> None:
    if anchor.seq > state.seq:
        raise _Bad(
            state.seq + 1, f"the ledger ends at record {state.seq}; it once reached {anchor.seq}: its tail is gone"
        )
    if anchor.head and not state.anchored:
        raise _Bad(state.seq + 1, "no record has the hash that was noted down: the tail is gone or the chain rewritten")


class _Times:
    """Microseconds of an RFC 3339 text; the part above the seconds is parsed once."""

    def __init__(self) -> None:
        self._prefix = ""
        self._second = 0

    def micros(self, text: str) -> int:
        """Raises ValueError for anything but ``2026-11-22T15:04:05.000001Z``."""
        if len(text) != 27 or text[19] != "." or text[26] != "Z":
            raise ValueError(f"'{text[:40]}' is not a time of a record")
        if text[:19] != self._prefix:
            self._second = int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp())
            self._prefix = text[:19]
        return self._second * 1_000_000 + int(text[20:26])

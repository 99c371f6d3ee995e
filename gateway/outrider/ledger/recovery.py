"""What was under way when a sidecar ended: attempts that began and did not end, calls that were taken and not answered.

While it runs, the ledger keeps the two sets in memory (they are as small as the traffic in flight) and now and then
writes them down as a watermark, ``meta.recovery``: at ``seq``, these were open. A start then reads what lies behind the
watermark, not the whole ledger.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

import msgspec

from outrider.ledger.record import EventType, decode_record

_CALL_BEGINS = frozenset({EventType.CALL_RECEIVED, EventType.CALL_DECIDED})
_CALL_ENDS = frozenset({EventType.CALL_FINISHED, EventType.CALL_REFUSED})


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt with a start and no end. ``event`` is the whole record of its start, as a dict."""

    call_id: str
    n: int
    seq: int
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call without an answer. ``event`` is its first record."""

    call_id: str
    seq: int
    event: dict[str, Any]


class _Watermark(msgspec.Struct):
    seq: int
    calls: dict[str, int]
    attempts: list[tuple[str, int, int]]


class OpenWork:
    """The two sets. ``seen`` is told every committed record, in order."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.attempts: dict[tuple[str, int], int] = {}

    def seen(self, seq: int, type_: str, call_id: str, attempt: int) -> None:
        """One committed record."""
        if type_ == EventType.ATTEMPT_STARTED:
            self.attempts[call_id, attempt] = seq
        elif type_ == EventType.ATTEMPT_FINISHED:
            self.attempts.pop((call_id, attempt), None)
        elif type_ in _CALL_BEGINS:
            self.calls.setdefault(call_id, seq)
        elif type_ in _CALL_ENDS:
            self.calls.pop(call_id, None)

    def watermark(self, seq: int) -> str:
        """Text for ``meta.recovery``: what is open after record ``seq``."""
        attempts = [(call_id, n, at) for (call_id, n), at in self.attempts.items()]
        return msgspec.json.encode(_Watermark(seq, self.calls, attempts)).decode()


def read_open_work(connection: sqlite3.Connection) -> OpenWork:
    """From the watermark on. A watermark that cannot be read, or of records that are not there, means from the first
    record on: slower, never wrong."""
    work = OpenWork()
    row = connection.execute("SELECT value FROM meta WHERE key = 'recovery'").fetchone()
    head = connection.execute("SELECT max(seq) FROM ledger").fetchone()[0] or 0
    mark = _parse(row[0] if row else "", head)
    work.calls = mark.calls
    work.attempts = {(call_id, n): seq for call_id, n, seq in mark.attempts}
    behind = "SELECT seq, type, call_id, attempt FROM ledger WHERE seq > ? AND call_id <> '' ORDER BY seq"
    for seq, type_, call_id, attempt in connection.execute(behind, (mark.seq,)):
        work.seen(seq, type_, call_id, attempt)
    return work


def _parse(text: str, head: int) -> _Watermark:
    try:
        mark = msgspec.json.decode(text, type=_Watermark)
    except msgspec.DecodeError:
        return _Watermark(0, {}, [])
    return mark if mark.seq <= head else _Watermark(0, {}, [])


def describe(connection: sqlite3.Connection, work: OpenWork) -> tuple[list[OpenAttempt], list[OpenCall]]:
    """The records behind the two sets, oldest first."""
    attempts = [
        OpenAttempt(call_id, n, seq, _record(connection, seq)) for (call_id, n), seq in sorted_by_seq(work.attempts)
    ]
    calls = [OpenCall(call_id, seq, _record(connection, seq)) for call_id, seq in sorted_by_seq(work.calls)]
    return attempts, calls


def sorted_by_seq(found: dict[Any, int]) -> list[tuple[Any, int]]:
    return sorted(found.items(), key=lambda item: item[1])


def _record(connection: sqlite3.Connection, seq: int) -> dict[str, Any]:
    row = connection.execute("SELECT line FROM ledger WHERE seq = ?", (seq,)).fetchone()
    return decode_record.decode(row[0]) if row else {}

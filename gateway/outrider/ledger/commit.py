"""The blocking half of the writer: one connection, one batch at a time, whole or not at all.

Runs on the writer's thread. Few calls into SQLite for each batch: every call hands the interpreter lock over twice, and
under load that costs more than the insert.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from outrider.errors import Fault, Misconfigured
from outrider.ledger.record import GENESIS, decode_record, leaf_hash
from outrider.ledger.recovery import OpenAttempt, OpenCall, OpenWork, describe, read_open_work
from outrider.store import FILE, Store

if TYPE_CHECKING:
    from outrider.ledger.entry import Entry

LEDGER_WIDTH: Final = 9
PAYLOAD_WIDTH: Final = 3
ROWS_PER_STATEMENT: Final = 64
"""One statement for each number of rows up to this one is kept prepared."""
FOLD_BYTES: Final = 4 * 1024 * 1024
"""A write-ahead log this long is folded into the database."""
PAGE_BYTES: Final = 4096
COMMIT_PAGES: Final = 3
"""Pages that even the smallest commit writes: the ends of the ledger, of its index and of the payloads."""

CLOSE_WAIT_S: Final = 2.0

Kind = Literal["full", "locked", "io", "damaged", "foreign", "other"]
_KINDS: dict[int, Kind] = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_READONLY: "io",
    sqlite3.SQLITE_CANTOPEN: "io",
    sqlite3.SQLITE_NOMEM: "io",
    sqlite3.SQLITE_PROTOCOL: "locked",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}
_SENTENCES: dict[Kind, str] = {
    "full": "the disk of the data folder is full; free some space",
    "locked": "another program holds a lock on the database; end it",
    "io": "the disk of the data folder fails; see the system's log",
    "damaged": "the database is damaged; stop, move the data folder aside and restore a backup",
    "foreign": "another program has written to the ledger; stop and run `outrider ledger verify`",
    "other": "an unexpected error",
}


class CommitFailed(Exception):
    """The batch is not in the ledger, and the reason lies outside of it: the next batch may fare no better."""

    def __init__(self, kind: Kind, error: BaseException) -> None:
        super().__init__(f"{_SENTENCES[kind]} ({type(error).__name__}: {error})")
        self.kind = kind


class BadMutation(Exception):
    """The batch is not in the ledger, because the mutations of its entry ``index`` cannot be applied."""

    def __init__(self, index: int, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.index = index


@dataclass(slots=True)
class Batch:
    """Sealed rows: flat lists of column values. A mutation is (entry, sql, parameters); entry -1: the writer."""

    ledger: list[Any] = field(default_factory=list)
    payloads: list[Any] = field(default_factory=list)
    mutations: list[tuple[int, str, Sequence[Any]]] = field(default_factory=list)
    durable: bool = False
    size: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends: the last record's number and its hash (hex)."""

    seq: int = 0
    hash: str = GENESIS


@lru_cache(maxsize=4 * ROWS_PER_STATEMENT)
def _insert(table: str, columns: str, width: int, rows: int) -> str:
    row = f"({','.join('?' * width)})"
    return f"INSERT INTO {table} ({columns}) VALUES {','.join([row] * rows)}"  # noqa: S608 - our own constants


class Committer:
    """Writes batches, folds the write-ahead log, tries whether writing works again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection = store.connect()
        self._sync = "FULL"
        self._wal_bytes = 0
        self._aside = store.connect()
        self._folding: threading.Thread | None = None
        self.checkpoints = 0
        self.size_bytes = store.size_bytes()
        self.insist = False  # after an error of the disk: nothing counts as written until the database file was synced

    def load(self) -> tuple[Head, OpenWork, list[OpenAttempt], list[OpenCall]]:
        """Where the chain ends and what was under way. Raises Misconfigured when the last record is not what its hash
        says: a chain is never continued from a damaged end."""
        head = self.head()
        work = read_open_work(self._connection)
        attempts, calls = describe(self._connection, work)
        return head, work, attempts, calls

    def head(self) -> Head:
        """Where the chain ends. Raises Misconfigured as ``load`` does."""
        row = self._connection.execute("SELECT seq, line, hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
        if row is None:
            return Head()
        seq, line, digest = row
        if not isinstance(line, str) or leaf_hash(line.encode()) != digest:
            raise self._damaged(seq)
        return Head(seq, digest.hex())

    def missing(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of these records that are not in the ledger, by their ids."""
        lines = "SELECT line FROM ledger WHERE call_id = ?"
        known = {
            decode_record.decode(line)["id"]
            for call_id in {entry.columns[2] for entry in entries}
            for (line,) in self._connection.execute(lines, (call_id,))
        }
        return [entry for entry in entries if entry.id not in known]

    def _damaged(self, seq: int) -> Misconfigured:
        fault = Fault(
            str(self._store.folder / FILE), 0, "",
            f"the ledger's last record ({seq}) is not what its hash says; it was changed or damaged.",
            "Keep the folder as evidence (`outrider ledger verify --data …`), restore a backup or start empty.",
        )  # fmt: skip
        return Misconfigured([fault])

    def commit(self, batch: Batch, *, use_reserve: bool = False) -> None:
        """Write a batch in one transaction; fsynced before this returns if it is durable. Raises CommitFailed or
        BadMutation; nothing of it is then in the ledger."""
        if use_reserve:
            self._store.reserve.release()
        try:
            self._set_sync("FULL" if batch.durable or self.insist else "NORMAL")
            self._write(batch)
        except BadMutation:
            self._rollback()
            raise
        except Exception as error:
            self._rollback()
            raise self._failed(error) from error
        self._wal_bytes += batch.size + COMMIT_PAGES * PAGE_BYTES

    def _write(self, batch: Batch) -> None:
        connection = self._connection
        rows = len(batch.ledger) // LEDGER_WIDTH
        alone = rows <= ROWS_PER_STATEMENT and not batch.payloads and not batch.mutations
        if not alone:
            connection.execute("BEGIN IMMEDIATE")
        columns = "seq,ts,type,call_id,attempt,agent,tool,line,hash"
        self._insert_rows("ledger", columns, LEDGER_WIDTH, batch.ledger)
        self._insert_rows("payloads", "id,salt,value", PAYLOAD_WIDTH, batch.payloads)
        for index, sql, parameters in batch.mutations:
            self._mutate(index, sql, parameters)
        if not alone:
            connection.execute("COMMIT")

    def _insert_rows(self, table: str, columns: str, width: int, values: list[Any]) -> None:
        step = width * ROWS_PER_STATEMENT
        for at in range(0, len(values), step):
            part = values if len(values) <= step else values[at : at + step]
            self._connection.execute(_insert(table, columns, width, len(part) // width), part)

    def _mutate(self, index: int, sql: str, parameters: Sequence[Any]) -> None:
        try:
            self._connection.execute(sql, parameters)
        except Exception as error:
            if kind_of(error) in ("other", "foreign"):
                raise BadMutation(index, error) from error
            raise

    def _failed(self, error: Exception) -> CommitFailed:
        kind = kind_of(error)
        if kind == "io":
            # What an earlier commit left to the system may be lost without a word after a failed write or sync
            # (the pages are then marked clean), and a later record would be lost with it: the log ends at a gap.
            self.insist = True
        return CommitFailed(kind, error)

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _set_sync(self, mode: str) -> None:
        """FULL: a commit is fsynced before it returns. NORMAL: it is in the system's hands, and survives a crash of
        this process but not of the machine."""
        if mode != self._sync:
            self._connection.execute(f"PRAGMA synchronous = {mode}")
            self._sync = mode

    def probe(self) -> None:
        """Whether writing works again, reserve included. Raises CommitFailed."""
        try:
            self._set_sync("FULL")
            self._connection.execute(
                "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'probe'"
            )  # a real page, really synced
            if self.insist:
                self._sync_everything()
        except Exception as error:
            self._rollback()
            raise self._failed(error) from error
        if not self._store.reserve.held and not self._store.reserve.restore():
            raise CommitFailed("full", OSError("the reserve cannot be taken back"))

    def _sync_everything(self) -> None:
        busy = self._fold("TRUNCATE")
        if busy:
            raise sqlite3.OperationalError("a reader keeps the write-ahead log from being folded; waiting for it")
        self.insist = False

    def tidy(self, *, aside: bool) -> None:
        """Between two batches: keep the write-ahead log short.

        ``aside``: the long part (some 15 ms for 4 MB, most of it a sync) is done by another thread over another
        connection, beside which batches go on. What they add meanwhile is folded here when that is done; then nothing
        is left, and the log starts over at its beginning, where writing is cheaper than at its end.
        An error is not one of a batch: the next commit meets it, or it has gone."""
        if self._folding is not None:
            if self._folding.is_alive():
                return
            self._folding = None
        elif self._wal_bytes < FOLD_BYTES:
            return
        elif aside:
            self._folding = threading.Thread(target=self._fold_aside, name="outrider-ledger-fold", daemon=True)
            self._folding.start()
            return
        with contextlib.suppress(sqlite3.Error):
            self._fold("PASSIVE")

    def _fold_aside(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._aside.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _fold(self, mode: str) -> int:
        self._wal_bytes = 0
        busy: int = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0]
        self.checkpoints += 1
        self.size_bytes = self._store.size_bytes()
        return busy

    def fold_all(self) -> None:
        """Fold everything into the database file and cut the write-ahead log to nothing, unless a reader needs it."""
        self._fold("TRUNCATE")

    def finish(self, watermark: str) -> None:
        """Note what is under way, so that the next start reads nothing twice, and close."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("UPDATE meta SET value = ? WHERE key = 'recovery'", (watermark,))
        self.close()

    def close(self) -> None:
        """Fold all of it and close. Never raises: what is committed is committed."""
        if self._folding is not None:
            self._folding.join(CLOSE_WAIT_S)
            if self._folding.is_alive():
                return  # the disk hangs; the connections go with the process
        self._aside.close()
        with contextlib.suppress(sqlite3.Error, OSError):
            self._fold("TRUNCATE")
        self._connection.close()


def kind_of(error: BaseException) -> Kind:
    """What an error of the database means for the next batch."""
    if isinstance(error, sqlite3.IntegrityError):
        return "foreign"
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return _KINDS.get(code & 0xFF, "other")
    return "io" if isinstance(error, OSError) else "other"

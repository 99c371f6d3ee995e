"""The one SQLite database, ``DATA/outrider.db``: the ledger and everything else that must survive.

One file, because two are not crash-atomic together: what a record says and what the state says change in the same
transaction. Only the ledger's writer writes; everybody else reads through ``open_reader``.

    DATA/outrider.db   the database, in WAL mode (beside it ``-wal`` and ``-shm`` while in use)
    DATA/lock          held by flock as long as a sidecar runs; a second one is refused
    DATA/reserve       space kept back, given up when the disk is full so that ends can still be written
    DATA/ahead         records acknowledged and not yet committed; empty while no sidecar runs, unless one was killed
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlite_utils import Database, Migrations

from outrider import clock
from outrider.errors import Fault, Misconfigured

FILE = "outrider.db"
APPLICATION_ID = 0x4F555452
"""``OUTR``; tells our database from any other."""
RESERVE_BYTES = 8 * 1024 * 1024
"""Room for the ends of some thousand calls, with the write-ahead log's overhead of a page or three per commit."""
BUSY_MS = 250
"""How long one statement waits for another program's lock before it gives up."""
WAL_KEEP_BYTES = 64 * 1024 * 1024
"""A write-ahead log that a slow reader let grow is cut back to this once it starts over."""

MIGRATIONS = Migrations("outrider")
KNOWN = frozenset({"0001_first", "0002_identity", "0003_agents", "0004_runs", "0010_mcp_tools"})
"""Every migration of this version; a database that has had another one was written by a newer Outrider."""


@MIGRATIONS(name="0001_first")
def _first(db: Database) -> None:
    """Times called ``ts`` are microseconds since the epoch, ``*_at`` and ``*_wall`` seconds."""
    db.table("meta").create({"key": str, "value": str}, pk="key")
    db.table("ledger").create(
        {
            "seq": int, "ts": int, "type": str, "call_id": str, "attempt": int,
            "agent": str, "tool": str, "line": str, "hash": bytes,
        },
        pk="seq",
        not_null={"ts", "type", "call_id", "attempt", "agent", "tool", "line", "hash"},
    )  # fmt: skip
    # The only index of the hot table: call ids are time-ordered, so an insert touches its last page only.
    db.table("ledger").create_index(["call_id"], "ledger_call_id")
    # One key, no second index: id = 2 × seq, plus 1 for a result. value NULL: the policy records none. No row: erased.
    db.execute(
        "CREATE TABLE payloads (id INTEGER PRIMARY KEY, salt BLOB NOT NULL, value TEXT, "
        "seq INTEGER AS (id >> 1), kind TEXT AS (CASE id & 1 WHEN 0 THEN 'args' ELSE 'result' END))"
    )
    db.table("kills").create(
        {
            "id": str, "scope": str, "reason": str, "by": str, "engaged_at": float, "expires_at": float,
            "engaged_mono": float, "boot": str,
            "lifted_at": float, "lift_reason": str, "lifted_by": str,
        },
        pk="id",
        not_null={"scope", "engaged_at"},
    )  # fmt: skip
    db.table("unresolved").create(
        {
            "call_id": str, "attempt": int, "key": str, "tool": str, "agent": str, "run": str, "session": str,
            "detail": str, "since_wall": float, "until_wall": float,
        },
        pk="call_id",
        not_null={"key", "until_wall"},
    )  # fmt: skip
    db.table("policies").create({"digest": str, "text": str, "first_seen": float}, pk="digest")
    db.table("meta").insert_all(
        [
            {"key": "log_id", "value": clock.new_id()},
            {"key": "hmac_key", "value": secrets.token_hex(32)},
            {"key": "created", "value": clock.stamp()},
            {"key": "recovery", "value": ""},
            {"key": "probe", "value": ""},
        ]
    )


@MIGRATIONS(name="0003_agents")
def _agents(db: Database) -> None:
    """Who was seen, the digests of the tools they declare, and what people command of them."""
    db.table("agents").create(
        {
            "name": str, "framework": str, "owner": str, "labels": str, "versions": str, "first_seen": float,
            "last_seen": float, "calls": int, "failures": int, "refused": int,
        },
        pk="name",
        not_null={"first_seen"},
    )  # fmt: skip
    db.execute(
        "CREATE TABLE agent_tools (agent TEXT NOT NULL, tool TEXT NOT NULL, trusted TEXT NOT NULL, "
        "latest TEXT NOT NULL, first_seen REAL NOT NULL, drifted_at REAL, accepted_by TEXT NOT NULL, "
        "accepted_why TEXT NOT NULL, PRIMARY KEY (agent, tool)) WITHOUT ROWID"
    )
    db.table("agent_switches").create(
        {
            "agent": str, "state": str, "by": str, "why": str, "at": float, "automated": int, "before": str,
            "deadline_at": float, "drained_at": float, "runs": str,
        },
        pk="agent",
        not_null={"state", "at"},
    )  # fmt: skip


@MIGRATIONS(name="0004_runs")
def _runs(db: Database) -> None:
    """Runs that are paused until a person resumes them."""
    db.table("runs").create(
        {
            "owner": str, "agent": str, "run": str, "root": str, "why": str,
            "calls": int, "retries": int, "began_wall": float, "paused_wall": float,
        },
        pk=("owner", "agent", "run"),
        not_null={"root", "why", "calls", "retries", "began_wall", "paused_wall"},
    )  # fmt: skip


@MIGRATIONS(name="0002_identity")
def _identity(db: Database) -> None:
    """Tokens of agents (only a hash of each) and what was revoked; lists and maps are JSON."""
    db.table("tokens").create(
        {
            "id": str, "digest": bytes, "agent": str, "also": str, "owner": str, "labels": str, "tools": str,
            "epoch": int, "issued_at": float, "issued_by": str, "issued_mono": float, "boot": str, "expires_at": float,
            "revoked_at": float, "revoked_by": str, "revoke_reason": str,
        },
        pk="id",
        not_null={"digest", "agent", "epoch", "issued_at"},
    )  # fmt: skip
    db.table("epochs").create(
        {"pattern": str, "number": int, "raised_at": float, "cause": str, "reason": str},
        pk="pattern",
        not_null={"number", "raised_at"},
    )


@MIGRATIONS(name="0010_mcp_tools")
def _mcp_tools(db: Database) -> None:
    """The digests of the tools of MCP servers."""
    db.execute(
        "CREATE TABLE mcp_tools (upstream TEXT NOT NULL, tool TEXT NOT NULL, trusted TEXT NOT NULL, "
        "latest TEXT NOT NULL, first_seen REAL NOT NULL, drifted_at REAL, accepted_by TEXT NOT NULL, "
        "accepted_why TEXT NOT NULL, PRIMARY KEY (upstream, tool)) WITHOUT ROWID"
    )


def _fault(folder: Path, message: str, fix: str) -> Misconfigured:
    return Misconfigured([Fault(str(folder / FILE), 0, "", message, fix)])


def _explain(folder: Path, error: sqlite3.Error) -> Misconfigured:
    """What an SQLite error while opening means to a person."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return _fault(
            folder,
            f"the file is damaged or not a database ({error}).",
            "Restore the folder from a backup, or move it aside as evidence and start with an empty one.",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return _fault(folder, "another program holds a lock on it.", "End that program, then start again.")
    if name.startswith("SQLITE_FULL"):
        return _fault(folder, "the disk is full.", "Free some space, then start again.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR")):
        return _fault(
            folder,
            f"it cannot be opened ({error}).",
            "Make the folder and its files writable for this user, or copy the folder to where they are.",
        )
    return _fault(folder, f"it cannot be used ({error}).", "Run `outrider ledger verify` on a copy of the folder.")


def _check_schema(db: Database, folder: Path) -> None:
    """Refuse a database that is another program's, or of a newer Outrider. Raises Misconfigured."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    names = db.table_names()
    if application not in (0, APPLICATION_ID) or (application == 0 and names):
        raise _fault(folder, "this is not a database of Outrider.", "Choose another data folder.")
    newer = sorted({migration.name for migration in MIGRATIONS.applied(db)} - KNOWN)
    if newer:
        raise _fault(
            folder,
            f"it was written by a newer Outrider (schema {newer[-1]}, this one knows up to {max(KNOWN)}).",
            "Use that version again, or another data folder; the format is never downgraded.",
        )


def _read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. A database at rest on a medium that is read-only is opened as immutable."""
    at_rest = not path.with_name(path.name + "-wal").exists()
    immutable = at_rest and not os.access(path.parent, os.W_OK)
    uri = f"file:{quote(str(path))}?mode=ro" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS * 20}")
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextlib.contextmanager
def open_reader(folder: Path) -> Iterator[Database]:
    """A read-only view of a data folder, of a running sidecar's or at rest. Raises Misconfigured: no such database,
    another program's, a newer one, damaged (errors of the queries made within included)."""
    path = folder / FILE
    if not path.is_file():
        raise _fault(folder, "there is no ledger here.", "Name the folder that `outrider serve --data` was given.")
    try:
        connection = _read_only(path)
    except sqlite3.Error as error:
        raise _explain(folder, error) from error
    try:
        db = Database(connection, recursive_triggers=False, execute_plugins=False)
        _check_schema(db, folder)
        yield db
    except sqlite3.DatabaseError as error:
        raise _explain(folder, error) from error
    finally:
        connection.close()


class Reserve:
    """Space on the disk kept back for ends. ``held`` is False while it is given up or could not be had."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self.size = size
        self.held = False

    def release(self) -> None:
        """Give the space back to the disk, at once."""
        self.held = False
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)

    def restore(self) -> bool:
        """Take the space again. False while the disk has not twice as much free: taking the last of it would only
        make the next append fail."""
        try:
            self.held = self._allocate()
        except OSError:
            self.held = False
        if not self.held:
            self.release()
        return self.held

    def _allocate(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_blocks * 512 >= self.size:
                return True  # still there from the last start
            disk = os.statvfs(self._path)
            if disk.f_bavail * disk.f_frsize < 2 * self.size:
                return False
            self._fill(descriptor)
        finally:
            os.close(descriptor)
        return True

    def _fill(self, descriptor: int) -> None:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, self.size)
            return
        block = b"\0" * 65536  # macOS has no such call: write it
        for at in range(0, self.size, len(block)):
            os.pwrite(descriptor, block, at)


class Store:
    """One data folder, held exclusively. ``log_id`` names this ledger for ever, ``incarnation`` this start."""

    def __init__(self, folder: Path, lock: int, meta: dict[str, str], reserve: Reserve) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.log_id = meta["log_id"]
        self.incarnation = clock.new_id()
        self.reserve = reserve
        self._key = bytes.fromhex(meta["hmac_key"])
        self._lock: int | None = lock

    @classmethod
    def open(cls, folder: Path, *, reserve_bytes: int = RESERVE_BYTES) -> Store:
        """Create or open the folder's database, migrated to this version. Raises Misconfigured: another sidecar runs
        on the folder, the file is damaged, another program's, a newer Outrider's, or cannot be written."""
        lock = _lock_folder(folder)
        try:
            meta = _prepare(folder)
            reserve = Reserve(folder / "reserve", reserve_bytes)
            reserve.restore()
            return cls(folder, lock, meta, reserve)
        except sqlite3.Error as error:
            os.close(lock)
            raise _explain(folder, error) from error
        except BaseException:
            os.close(lock)
            raise

    def connect(self) -> sqlite3.Connection:
        """The writing connection. Only the ledger's writer asks for it; transactions are begun by hand."""
        return _connect(self.path)

    def read(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """Rows of a SELECT, as dicts, over a fresh read-only connection (about 0.3 ms: not for the hot path)."""
        with open_reader(self.folder) as db:
            return list(db.query(sql, parameters))

    def digest(self, *parts: bytes | str) -> str:
        """HMAC-SHA-256 (hex) under this store's own key over length-prefixed parts: for keys of state rows that must
        not tell what they were made of to somebody who sees the row without the key."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            mac.update(len(data).to_bytes(8, "big"))
            mac.update(data)
        return mac.hexdigest()

    def size_bytes(self) -> int:
        """The database and its write-ahead log on disk."""
        total = 0
        for path in (self.path, self.path.with_name(FILE + "-wal")):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def close(self) -> None:
        """Give up the folder. May be called twice; close the ledger first."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock_folder(folder: Path) -> int:
    """The descriptor that holds the folder's lock; the system frees it with the process, however that ends."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _fault(
            folder, f"the data folder cannot be used ({error.strerror}).", "Make it a folder this user may write to."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise _fault(
            folder,
            f"another sidecar runs on this data folder{f' (pid {holder})' if holder else ''}.",
            "Stop that one, or give this one a data folder of its own.",
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    for pragma in (
        f"busy_timeout = {BUSY_MS}",
        "wal_autocheckpoint = 0",  # the writer chooses the moment
        f"journal_size_limit = {WAL_KEEP_BYTES}",
        "secure_delete = ON",  # an erased payload is overwritten, not merely unlinked
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _prepare(folder: Path) -> dict[str, str]:
    """Create, check and migrate; returns the meta rows."""
    path = folder / FILE
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)  # SQLite gives the files beside it the same mode
    connection = _connect(path)
    try:
        db = Database(connection, recursive_triggers=False, execute_plugins=False)
        _check_schema(db, folder)
        _enter_wal(db, folder)
        if MIGRATIONS.pending(db):
            _migrate(db)
        return {row["key"]: row["value"] for row in db.table("meta").rows}
    finally:
        connection.close()


def _enter_wal(db: Database, folder: Path) -> None:
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise _fault(
            folder,
            "this file system cannot hold a write-ahead log (a network file system?).",
            "Put the data folder on a local disk.",
        )


def _migrate(db: Database) -> None:
    """Every pending migration, in one transaction each, fsynced. The application id comes with the first."""
    db.execute("PRAGMA synchronous = FULL")
    with db.atomic():
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        MIGRATIONS.apply(db)

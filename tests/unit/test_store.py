"""The data folder: one database, one sidecar, nothing readable by others, nothing of a newer version touched."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlite_utils import Database

from outrider.errors import Misconfigured
from outrider.store import APPLICATION_ID, FILE, KNOWN, MIGRATIONS, Reserve, Store, open_reader
from tests.ledger_kit import edit, rows

SMALL = 64 * 1024


def open_store(folder: Path) -> Store:
    return Store.open(folder, reserve_bytes=SMALL)


def test_a_new_folder_gets_a_database_in_wal_mode_with_every_table(tmp_path: Path) -> None:
    """The first start makes everything, the folder included."""
    folder = tmp_path / "deep" / "data"
    store = open_store(folder)
    found = {name for (name,) in rows(folder, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"ledger", "payloads", "kills", "unresolved", "policies", "meta"} <= found
    assert rows(folder, "PRAGMA journal_mode") == [("wal",)]
    assert rows(folder, "PRAGMA application_id") == [(APPLICATION_ID,)]
    store.close()


def test_the_ledger_has_one_index_beside_its_key(tmp_path: Path) -> None:
    """Inserts are the hot path: what is added here is paid by every call."""
    open_store(tmp_path).close()
    found = rows(tmp_path, "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name IN ('ledger', 'payloads')")
    assert found == [("ledger_call_id",)]


def test_known_names_every_migration_of_this_version() -> None:
    """KNOWN is what a newer database is recognised by, so it must not lag behind."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        assert {migration.name for migration in MIGRATIONS.pending(Database(connection))} == KNOWN


def test_ids_of_the_log_stay_and_the_incarnation_is_new_each_time(tmp_path: Path) -> None:
    """log_id names the ledger for ever, incarnation one start of it."""
    first = open_store(tmp_path)
    first.close()
    second = open_store(tmp_path)
    second.close()
    assert first.log_id == second.log_id
    assert first.incarnation != second.incarnation
    assert first.digest("a", "b") == second.digest("a", "b")


def test_digests_are_keyed_by_store_and_do_not_confuse_their_parts(tmp_path: Path) -> None:
    """Two stores disagree, and ("ab", "c") is not ("a", "bc")."""
    one, other = open_store(tmp_path / "one"), open_store(tmp_path / "other")
    assert one.digest("a") != other.digest("a")
    assert one.digest("ab", "c") != one.digest("a", "bc")
    assert one.digest(b"\xff", "\ud800")  # any bytes, any text
    one.close()
    other.close()


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    """Folder 0700 when made here, every file 0600, also those SQLite makes, also one that was too open before."""
    folder = tmp_path / "data"
    open_store(folder).close()
    (folder / FILE).chmod(0o644)
    old = os.umask(0)
    try:
        store = open_store(folder)
        connection = store.connect()
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'probe'")
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes) == {FILE, f"{FILE}-wal", f"{FILE}-shm", "lock", "reserve"}
    assert set(modes.values()) == {0o600}
    connection.close()
    store.close()


def test_a_second_sidecar_on_the_folder_is_refused(tmp_path: Path) -> None:
    """The message names the folder, the process and the way out; the first is not disturbed."""
    store = open_store(tmp_path)
    with pytest.raises(Misconfigured, match=rf"{tmp_path}.*another sidecar.*pid {os.getpid()}.*data folder of its own"):
        open_store(tmp_path)
    assert store.read("SELECT count(*) AS n FROM ledger") == [{"n": 0}]
    store.close()
    open_store(tmp_path).close()


def test_the_lock_goes_with_its_process_however_that_ends(tmp_path: Path) -> None:
    """A killed sidecar does not bar the next one."""
    code = (
        "import os, sys; from pathlib import Path; from outrider.store import Store\n"
        "Store.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == b"open\n"
    with pytest.raises(Misconfigured, match=f"pid {child.pid}"):
        open_store(tmp_path)
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    open_store(tmp_path).close()


def test_a_database_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    """No downgrade, neither by the sidecar nor by a reader."""
    open_store(tmp_path).close()
    edit(tmp_path, "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('outrider', '0999_x', '')")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(Misconfigured, match=r"newer Outrider \(schema 0999_x.*never downgraded"):
        open_store(tmp_path)
    with pytest.raises(Misconfigured, match="newer"), open_reader(tmp_path):
        pass
    assert (tmp_path / FILE).read_bytes() == before


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """A file that happens to be called outrider.db."""
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    with pytest.raises(Misconfigured, match="not a database of Outrider"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to look at" * 100, b"SQLite format 3\0" * 300]
)
def test_a_damaged_file_is_told_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    """By the sidecar and by a reader alike, and the lock is free again."""
    (tmp_path / FILE).write_bytes(content)
    for _ in range(2):
        with pytest.raises(Misconfigured, match=r"damaged or not a database.*backup|cannot be opened"):
            open_store(tmp_path)
    with pytest.raises(Misconfigured), open_reader(tmp_path) as db:
        db.table_names()


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """A file in the place of the folder."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(Misconfigured, match="data folder cannot be used"):
        open_store(tmp_path / "data")


def test_a_reader_of_nothing_says_which_folder_it_wants(tmp_path: Path) -> None:
    """And makes no file there."""
    with pytest.raises(Misconfigured, match=r"there is no ledger here.*--data"), open_reader(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """Whatever a query says."""
    open_store(tmp_path).close()
    with pytest.raises(Misconfigured, match="cannot be opened"), open_reader(tmp_path) as db:
        db.execute("DELETE FROM meta")


def test_the_reserve_is_real_space_given_back_and_taken_again(tmp_path: Path) -> None:
    """Not a sparse file: blocks."""
    reserve = Reserve(tmp_path / "reserve", 1 << 20)
    assert reserve.restore() and reserve.held
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 1 << 20
    reserve.release()
    assert not reserve.held and (tmp_path / "reserve").stat().st_blocks == 0
    assert reserve.restore()
    again = Reserve(tmp_path / "reserve", 1 << 20)
    assert again.restore(), "what the last start kept is kept"


def test_the_reserve_is_not_taken_from_a_disk_that_has_little_else(tmp_path: Path) -> None:
    """Taking the last of the space would only make the next append fail."""
    disk = os.statvfs(tmp_path)
    reserve = Reserve(tmp_path / "reserve", disk.f_bavail * disk.f_frsize * 2 // 3)
    assert not reserve.restore() and not reserve.held
    assert (tmp_path / "reserve").stat().st_blocks == 0

"""What verification finds, change by change; and what it can find only with an anchor."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from outrider.ledger import verify as module
from outrider.ledger.record import leaf_hash
from outrider.ledger.verify import Report, verify
from outrider.store import FILE
from tests.ledger_kit import FINISHED, STARTED, a_call, edit, event, opened, rows


@pytest.fixture(scope="module")
def ledger_of_ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two calls, ten records, four values; at rest."""
    folder = tmp_path_factory.mktemp("ten")

    async def fill() -> None:
        async with opened(folder) as ledger:
            await a_call(ledger, "c1")
            await a_call(ledger, "c2")

    asyncio.run(fill())
    return folder


@pytest.fixture
def data(ledger_of_ten: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    shutil.copy(ledger_of_ten / FILE, tmp_path / FILE)
    return tmp_path


def first_bad(folder: Path) -> tuple[int, str]:
    report = verify(folder)
    assert not report.ok and report.first_bad is not None
    return report.first_bad


def test_a_whole_ledger_verifies(data: Path) -> None:
    """And the report says what there is."""
    report = verify(data)
    assert report == Report(
        ok=True, records=10, first_bad=None,
        head=rows(data, "SELECT lower(hex(hash)) FROM ledger WHERE seq = 10")[0][0],
        log_id=report.log_id, payloads=4, payloads_absent=0, erasures=0, open_attempts=0, took_s=report.took_s,
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(report.as_dict()))["ok"] is True


def test_any_changed_byte_of_any_line_is_found_at_its_record(data: Path) -> None:
    """Every byte of every line, flipped in its lowest bit and in its highest."""
    connection = sqlite3.connect(data / FILE, isolation_level=None)
    connection.text_factory = bytes
    lines = dict(connection.execute("SELECT seq, line FROM ledger").fetchall())
    hashes = dict(connection.execute("SELECT seq, hash FROM ledger").fetchall())
    for seq, line in lines.items():
        for at in range(len(line)):
            for bit in (0x01, 0x80):
                changed = line[:at] + bytes([line[at] ^ bit]) + line[at + 1 :]
                assert leaf_hash(changed) != hashes[seq]
    # The hash sees all of them; that verify looks at every line's hash is shown by a sample through the database.
    for seq, line in lines.items():
        for at in range(0, len(line), 97):
            for bit in (0x01, 0x80):
                changed = line[:at] + bytes([line[at] ^ bit]) + line[at + 1 :]
                connection.execute("UPDATE ledger SET line = CAST(? AS TEXT) WHERE seq = ?", (changed, seq))
                assert first_bad(data)[0] == seq
        connection.execute("UPDATE ledger SET line = CAST(? AS TEXT) WHERE seq = ?", (line, seq))
    assert verify(data).ok
    connection.close()


def rehash(folder: Path, seq: int, old: str, new: str) -> None:
    """Change a line and give it the hash of what it now says, as one who knows the format would."""
    line = rows(folder, "SELECT line FROM ledger WHERE seq = ?", (seq,))[0][0]
    assert old in line
    line = line.replace(old, new)
    edit(folder, "UPDATE ledger SET line = ?, hash = ? WHERE seq = ?", (line, leaf_hash(line.encode()), seq))


Harm = Callable[[Path], object]


@pytest.mark.parametrize(
    ("harm", "seq", "why"),
    [
        (lambda d: edit(d, "UPDATE ledger SET hash = zeroblob(32) WHERE seq = 4"), 4, "not what its hash says"),
        (lambda d: edit(d, "UPDATE ledger SET hash = 'x' WHERE seq = 4"), 4, "not what its hash says"),
        (lambda d: edit(d, "UPDATE ledger SET line = CAST(line AS BLOB) WHERE seq = 4"), 4, "not what its hash says"),
        (lambda d: edit(d, "DELETE FROM ledger WHERE seq = 4"), 4, "record 4 is missing (the next one is 5)"),
        (lambda d: edit(d, "DELETE FROM ledger WHERE seq < 4"), 1, "record 1 is missing (the next one is 4)"),
        (lambda d: edit(d, "UPDATE ledger SET seq = -1 WHERE seq = 1"), 1, "record 1 is missing (the next one is -1)"),
        (lambda d: edit(d, "UPDATE ledger SET agent = 'x' WHERE seq = 4"), 4, "columns"),
        (lambda d: edit(d, "UPDATE ledger SET tool = 'x' WHERE seq = 4"), 4, "columns"),
        (lambda d: edit(d, "UPDATE ledger SET type = 'x' WHERE seq = 4"), 4, "columns"),
        (lambda d: edit(d, "UPDATE ledger SET call_id = 'x' WHERE seq = 4"), 4, "columns"),
        (lambda d: edit(d, "UPDATE ledger SET attempt = 7 WHERE seq = 4"), 4, "columns"),
        (lambda d: edit(d, "UPDATE ledger SET ts = ts + 1 WHERE seq = 4"), 4, "columns"),
        (lambda d: edit(d, "UPDATE payloads SET value = '{}' WHERE id = 2"), 1, "stored arguments are not"),
        (lambda d: edit(d, "UPDATE payloads SET salt = zeroblob(16) WHERE id = 9"), 4, "stored result are not"),
        (lambda d: edit(d, "UPDATE payloads SET value = 7 WHERE id = 2"), 1, "stored arguments are not"),
        (lambda d: edit(d, "UPDATE payloads SET value = zeroblob(9) WHERE id = 2"), 1, "not of the kind"),
        (lambda d: edit(d, "UPDATE payloads SET salt = 'text' WHERE id = 2"), 1, "not of the kind"),
        (lambda d: edit(d, "UPDATE payloads SET id = 6 WHERE id = 2"), 3, "belongs to no digest"),
        (lambda d: edit(d, "UPDATE payloads SET id = 100 WHERE id = 2"), 11, "belongs to no record"),
        (lambda d: edit(d, "UPDATE payloads SET id = 1 WHERE id = 2"), 11, "belongs to no record"),
        (lambda d: edit(d, "UPDATE meta SET value = 'x' WHERE key = 'log_id'"), 1, "another ledger"),
        (lambda d: edit(d, "DELETE FROM meta WHERE key = 'log_id'"), 1, "another ledger"),
        (lambda d: rehash(d, 4, '"outcome":"ok"', '"outcome":"no"'), 5, "does not continue"),
        (lambda d: rehash(d, 10, '"seq":10', '"seq":11'), 10, "another place"),
        (lambda d: rehash(d, 10, '"log_id":"', '"log_id":"x'), 10, "another ledger"),
        (lambda d: rehash(d, 10, '"ts":"2', '"ts":"x'), 10, "cannot be read"),
        (lambda d: rehash(d, 10, '{"v":1', '["v":1'), 10, "cannot be read"),
    ],
)  # fmt: skip
def test_harm_is_found_and_the_first_bad_record_named(data: Path, harm: Harm, seq: int, why: str) -> None:
    """What one who can write to the file may do to single records."""
    harm(data)
    found, text = first_bad(data)
    assert found == seq and why in text
    assert verify(data).records == min(seq - 1 if found <= 10 else 10, 10)


def test_records_that_changed_places_are_found(data: Path) -> None:
    """Each whole with its hash and columns."""
    for before, after in ((3, -3), (4, 3), (-3, 4)):
        edit(data, "UPDATE ledger SET seq = ? WHERE seq = ?", (after, before))
    assert first_bad(data) == (3, "the line does not continue the record before it")


def test_a_record_added_in_the_middle_is_found(data: Path) -> None:
    """The ones behind it moved on."""
    for seq in range(10, 4, -1):
        edit(data, "UPDATE ledger SET seq = ? WHERE seq = ?", (seq + 1, seq))
    edit(
        data,
        "INSERT INTO ledger SELECT 5, ts, type, call_id, attempt, agent, tool, line, hash FROM ledger WHERE seq = 4",
    )
    assert first_bad(data)[0] == 5


def test_a_record_taken_out_and_the_gap_closed_is_found(data: Path) -> None:
    """Numbers alone do not make a chain."""
    edit(data, "DELETE FROM ledger WHERE seq = 5")
    for seq in range(6, 11):
        edit(data, "UPDATE ledger SET seq = ? WHERE seq = ?", (seq - 1, seq))
    assert first_bad(data) == (5, "the line does not continue the record before it")


async def test_a_record_of_another_ledger_is_found(data: Path, tmp_path: Path) -> None:
    """Whole, at the same number."""
    async with opened(tmp_path / "other") as ledger:
        for _ in range(2):
            await a_call(ledger)
    row = rows(
        tmp_path / "other", "SELECT ts, type, call_id, attempt, agent, tool, line, hash FROM ledger WHERE seq = 10"
    )[0]
    edit(data, "DELETE FROM ledger WHERE seq = 10")
    edit(data, "INSERT INTO ledger VALUES (10, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert first_bad(data)[0] == 10


def test_a_tail_cut_off_is_found_only_by_one_who_noted_the_head(data: Path) -> None:
    """A bare chain is as valid when it is shorter: that is what the anchor is for."""
    head = verify(data).head
    assert verify(data, expect_head=head).ok and verify(data, expect_head=head.upper(), expect_seq=10).ok
    edit(data, "DELETE FROM ledger WHERE seq > 5")
    edit(data, "DELETE FROM payloads WHERE id > 11")
    assert verify(data).ok, "nothing in the file tells"
    for report in (
        verify(data, expect_head=head),
        verify(data, expect_head=head, expect_seq=10),
        verify(data, expect_seq=10),
    ):
        assert not report.ok and report.first_bad is not None and report.first_bad[0] == 6
    assert "its tail is gone" in (verify(data, expect_seq=10).first_bad or (0, ""))[1]


def test_an_empty_ledger_verifies_and_is_found_out_by_an_anchor(data: Path) -> None:
    """The same, taken to its end."""
    edit(data, "DELETE FROM ledger")
    edit(data, "DELETE FROM payloads")
    assert verify(data).ok and verify(data).records == 0
    assert verify(data, expect_seq=10).first_bad == (
        1,
        "the ledger ends at record 0; it once reached 10: its tail is gone",
    )


def test_a_chain_recomputed_is_found_only_by_one_who_noted_a_later_head(data: Path) -> None:
    """Whoever may write to the folder can write another history; not one with the same hash."""
    noted = verify(data)
    for seq in range(4, 11):
        line = rows(data, "SELECT line FROM ledger WHERE seq = ?", (seq,))[0][0]
        prev = rows(data, "SELECT lower(hex(hash)) FROM ledger WHERE seq = ?", (seq - 1,))[0][0]
        line = line.replace('"outcome":"ok"', '"outcome":"no"')
        at = line.index('"prev":"') + 8
        line = line[:at] + prev + line[at + 64 :]
        edit(data, "UPDATE ledger SET line = ?, hash = ? WHERE seq = ?", (line, leaf_hash(line.encode()), seq))
    assert verify(data).ok, "nothing in the file tells"
    assert not verify(data, expect_head=noted.head).ok
    bad = verify(data, expect_head=noted.head, expect_seq=10).first_bad
    assert bad == (10, "this is not the record whose hash was noted down: the chain was rewritten")


async def test_an_anchor_stays_good_as_the_ledger_grows(tmp_path: Path) -> None:
    """It says nothing before it changed."""
    async with opened(tmp_path) as ledger:
        await a_call(ledger)
        noted = ledger.head
        await a_call(ledger)
    assert verify(tmp_path, expect_head=noted.hash, expect_seq=noted.seq).ok
    assert not verify(tmp_path, expect_head=noted.hash, expect_seq=noted.seq + 1).ok


async def test_an_attempt_that_ends_twice_is_found(tmp_path: Path) -> None:
    """Under whatever chain; an end without a start, of a time the ledger could not be written, is none."""
    async with opened(tmp_path) as ledger:
        await ledger.append(event(FINISHED, "early", 1))
        await ledger.append(event(STARTED, "c1", 1))
        await ledger.append(event(STARTED, "c1", 2))
        await ledger.append(event(FINISHED, "c1", 1))
        await ledger.append(event(FINISHED, "c2", 1))
        assert verify(tmp_path).ok and verify(tmp_path).open_attempts == 1
        await ledger.append(event(FINISHED, "c1", 1))
    assert first_bad(tmp_path) == (6, "attempt 1 of call c1 ends a second time")


async def test_a_value_that_is_gone_is_counted_not_condemned(tmp_path: Path) -> None:
    """Erasing is lawful; whether it was, the records of erasing say."""
    async with opened(tmp_path) as ledger:
        await a_call(ledger, "c1")
    edit(tmp_path, "DELETE FROM payloads WHERE id = 2")
    report = verify(tmp_path)
    assert report.ok and report.payloads == 1 and report.payloads_absent == 1 and report.erasures == 0


async def test_a_ledger_in_use_verifies_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only, without the lock, up to the record that was the last when it began."""
    monkeypatch.setattr(module, "CHUNK", 7)
    async with opened(tmp_path) as ledger:
        for _ in range(20):
            await a_call(ledger)
        checking = asyncio.create_task(asyncio.to_thread(verify, tmp_path))
        while not checking.done():
            await a_call(ledger)
        report = await checking
        assert report.ok and 100 <= report.records <= ledger.head.seq


def test_verifying_changes_nothing(data: Path) -> None:
    """Not a byte of the database."""
    before = (data / FILE).read_bytes()
    assert verify(data).ok
    assert (data / FILE).read_bytes() == before


def test_a_folder_at_rest_on_a_read_only_medium_verifies(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be made beside the database there, and none is."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    (data / FILE).chmod(0o400)
    data.chmod(0o500)
    try:
        assert verify(data).ok
        assert [path.name for path in data.iterdir()] == [FILE]
    finally:
        data.chmod(0o700)


async def test_a_file_damaged_in_the_middle_is_reported_not_raised(tmp_path: Path) -> None:
    """Pages of nonsense: the report says from where on nothing can be read."""
    async with opened(tmp_path) as ledger:
        for _ in range(300):
            await a_call(ledger)
    size = (tmp_path / FILE).stat().st_size
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096 * 20)
    report = verify(tmp_path)
    assert not report.ok and report.first_bad is not None
    assert 1 < report.first_bad[0] <= 1500 and report.records == report.first_bad[0] - 1

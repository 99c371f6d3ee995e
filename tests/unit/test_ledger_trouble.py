"""While the ledger cannot be written: what begins something is refused, what ends something waits, and it recovers by
itself. Nothing is half written, and the chain never breaks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from outrider import clock
from outrider.ledger import writer
from outrider.ledger.query import tail
from outrider.ledger.record import EventType
from outrider.ledger.verify import verify
from outrider.ledger.writer import Ledger, LedgerUnavailable
from outrider.policy.plans import LedgerSettings
from outrider.store import FILE, Store
from tests.ledger_kit import (
    CALL_FINISHED,
    FINISHED,
    SMALL_RESERVE,
    STARTED,
    FullDisk,
    a_call,
    edit,
    event,
    opened,
    rows,
)

BIG = {"text": "x" * 9000}
"""More than one page: a commit that needs another one."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another program writes, and does not end its transaction."""
    connection = sqlite3.connect(folder / FILE, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


async def healthy(ledger: Ledger) -> None:
    """Wait until it has recovered."""
    async with asyncio.timeout(10):
        while not ledger.healthy:
            await asyncio.sleep(0.01)


async def test_a_full_disk_refuses_starts_and_still_takes_ends(tmp_path: Path) -> None:
    """The reserve is for the ends of what was under way when the disk filled."""
    async with opened(tmp_path) as ledger:
        await ledger.append(event(STARTED, "c1", 1), durable=True)
        disk = FullDisk(ledger)
        with pytest.raises(LedgerUnavailable, match="disk of the data folder is full; free some space"):
            await ledger.append(event(STARTED, "c2", 1), durable=True, args=BIG)
        assert not ledger.healthy and "full" in ledger.trouble and ledger.lag()["failures"] == 1
        assert await ledger.append(event(FINISHED, "c1", 1, outcome="ok"), result=BIG) == 2
        with pytest.raises(LedgerUnavailable, match="recovers by itself"):
            await ledger.append(event(STARTED, "c3", 1))
        assert await ledger.append(event(CALL_FINISHED, "c1", outcome="ok")) == 3
        assert await ledger.append(event(EventType.KILL_ENGAGED, ""), durable=True) == 4
        assert not ledger.healthy, "that it could write on the reserve makes nothing well"
        disk.free()
        await healthy(ledger)
        assert await ledger.append(event(STARTED, "c4", 1), durable=True, args=BIG) == 5
        assert ledger._store.reserve.held
    assert verify(tmp_path).ok
    assert [record.get("call_id") for record in tail(tmp_path)] == ["c1", "c1", "c1", None, "c4"]


async def test_ends_in_the_batch_that_met_the_full_disk_are_not_lost(tmp_path: Path) -> None:
    """The batch fails whole; its starts are refused, its ends go again, on the reserve."""
    async with opened(tmp_path) as ledger:
        FullDisk(ledger)
        start = ledger.append(event(STARTED, "c2", 1), args=BIG)
        end = ledger.append(event(FINISHED, "c1", 1), result=BIG)
        other = ledger.append(event(CALL_FINISHED, "c1"))
        with pytest.raises(LedgerUnavailable):
            await start
        assert (await end, await other) == (1, 2)
        assert not ledger.healthy
    assert [record["type"] for record in tail(tmp_path)] == ["attempt.finished", "call.finished"]
    assert verify(tmp_path).ok


async def test_when_the_reserve_is_used_up_too_ends_wait(tmp_path: Path) -> None:
    """Until there is room: then they are written in their order."""
    async with opened(tmp_path) as ledger:
        disk = FullDisk(ledger, reserve_pages=2)
        ends = [ledger.append(event(FINISHED, f"c{n}", 1), result=BIG) for n in range(5)]
        await asyncio.sleep(0.15)
        assert not any(end.done() for end in ends)
        disk.free()
        assert await asyncio.gather(*ends) == [1, 2, 3, 4, 5]
        await healthy(ledger)
    assert verify(tmp_path).ok


async def test_a_locked_database_refuses_and_recovers(tmp_path: Path) -> None:
    """Another program's lock is waited for a quarter of a second, off the loop."""
    async with opened(tmp_path) as ledger:
        await a_call(ledger)
        with locked(tmp_path):
            began = clock.monotonic()
            with pytest.raises(LedgerUnavailable, match="another program holds a lock"):
                await ledger.append(event(STARTED, "c2", 1))
            assert clock.monotonic() - began < 2
            end = ledger.append(event(FINISHED, "c1", 1))
            await asyncio.sleep(0.05)
            assert not end.done() and not ledger.healthy
        assert await end == 6
        await healthy(ledger)
        assert await ledger.append(event(STARTED, "c3", 1)) == 7
    assert verify(tmp_path).ok


@pytest.mark.looptime
async def test_ends_are_given_up_after_half_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for one is told then; its attempt has no end, and the next start recovers it as unknown."""
    monkeypatch.setattr("outrider.store.BUSY_MS", 0)
    async with opened(tmp_path, inline=True) as ledger:
        await ledger.append(event(STARTED, "c1", 1), durable=True)
        began = clock.monotonic()
        with locked(tmp_path):
            end = ledger.append(event(FINISHED, "c1", 1))
            with pytest.raises(LedgerUnavailable, match="not written.*lock"):
                await end
            assert writer.END_RETRY_S <= clock.monotonic() - began <= writer.END_RETRY_S + writer.RETRY_MAX_S
            assert ledger.lag()["queued"] == 0
        await asyncio.sleep(writer.RETRY_MAX_S)
        assert ledger.healthy
    async with opened(tmp_path) as ledger:
        assert [(open_.call_id, open_.n) for open_ in ledger.open_attempts] == [("c1", 1)]


@pytest.mark.looptime
async def test_it_is_tried_again_less_and_less_often_but_at_least_every_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backoff from a tenth of a second; after a recovery from the beginning."""
    monkeypatch.setattr("outrider.store.BUSY_MS", 0)
    async with opened(tmp_path, inline=True) as ledger:
        tries: list[float] = []
        probe = ledger._committer.probe

        def counted() -> None:
            tries.append(clock.monotonic())
            probe()

        ledger._committer.probe = counted  # type: ignore[method-assign]
        with locked(tmp_path):
            ledger.append(event())
            began = clock.monotonic()
            await asyncio.sleep(10)
            pauses = [later - earlier for earlier, later in zip([began, *tries], tries, strict=False)]
            assert pauses[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
            assert max(pauses) <= writer.RETRY_MAX_S + 1e-6
        await asyncio.sleep(2)
        assert ledger.healthy


async def test_a_failing_disk_is_trusted_again_only_after_everything_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed write or sync the system may have dropped earlier pages without a word; a record behind a gap
    would be lost with them. So the whole write-ahead log goes into the database, synced, first."""
    async with opened(tmp_path) as ledger:
        await a_call(ledger)
        write = ledger._committer._write
        folds: list[str] = []
        fold = ledger._committer._fold

        def fails(batch: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

        def counted(mode: str) -> int:
            folds.append(mode)
            return fold(mode)

        monkeypatch.setattr(ledger._committer, "_write", fails)
        monkeypatch.setattr(ledger._committer, "_fold", counted)
        with pytest.raises(LedgerUnavailable, match="the disk of the data folder fails"):
            await ledger.append(event(STARTED, "c2", 1), durable=True)
        assert ledger._committer.insist and not folds
        monkeypatch.setattr(ledger._committer, "_write", write)
        await healthy(ledger)
        assert folds == ["TRUNCATE"] and not ledger._committer.insist
        assert await ledger.append(event()) == 6
    assert verify(tmp_path).ok


async def test_somebody_elses_record_in_the_ledger_stops_it(tmp_path: Path) -> None:
    """The chain has one writer; it does not fork and does not overwrite."""
    async with opened(tmp_path) as ledger:
        await a_call(ledger)
        edit(
            tmp_path,
            "INSERT INTO ledger "
            "SELECT 6, ts, type, call_id, attempt, agent, tool, line, hash FROM ledger WHERE seq = 5",
        )
        with pytest.raises(LedgerUnavailable, match="another program has written to the ledger"):
            await ledger.append(event(STARTED, "c2", 1))
        assert rows(tmp_path, "SELECT max(seq) FROM ledger") == [(6,)]
    assert verify(tmp_path).first_bad == (6, "the line does not continue the record before it")


async def test_without_room_for_the_reserve_starts_are_refused_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sidecar on a disk that is nearly full comes up, takes kills and ends, and no calls."""
    store = Store.open(tmp_path, reserve_bytes=2**60)
    ledger = await Ledger.open(store, LedgerSettings())
    try:
        assert not ledger.healthy
        with pytest.raises(LedgerUnavailable, match="full"):
            await ledger.append(event(STARTED, "c1", 1))
        assert await ledger.append(event(EventType.KILL_ENGAGED, ""), durable=True) == 1
        store.reserve.size = SMALL_RESERVE
        await healthy(ledger)
    finally:
        await ledger.close()
        store.close()


async def test_closing_in_trouble_fails_what_is_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded, and said to whoever waits."""
    monkeypatch.setattr(writer, "CLOSE_S", 0.1)
    async with opened(tmp_path) as ledger:
        await a_call(ledger)
        with locked(tmp_path):
            end = ledger.append(event(FINISHED, "c1", 1))
            await ledger.close()
            with pytest.raises(LedgerUnavailable):
                await end
    assert verify(tmp_path).records == 5

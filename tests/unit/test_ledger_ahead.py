"""The file ``ahead``: what was acknowledged before its commit survives the process, and then leaves no trace."""

from __future__ import annotations

import asyncio
import shutil
import threading
from functools import partial
from pathlib import Path

import msgspec
import pytest

from outrider import clock
from outrider.errors import Misconfigured
from outrider.ledger import ahead as ahead_module
from outrider.ledger import writer
from outrider.ledger.ahead import FILE, Ahead, caught_up
from outrider.ledger.commit import Batch, CommitFailed
from outrider.ledger.query import tail
from outrider.ledger.verify import verify
from outrider.ledger.writer import Ledger, LedgerUnavailable
from outrider.policy.plans import LedgerSettings
from outrider.store import Store
from tests.ledger_kit import CALL_FINISHED, FINISHED, RECEIVED, STARTED, event, opened


async def crashed(folder: Path, *, calls: int = 1) -> None:
    """A ledger that acknowledged whole calls ahead and then was never heard of again."""
    store = Store.open(folder)
    ledger = await Ledger.open(store, LedgerSettings())
    for n in range(calls):
        ledger.append(event(RECEIVED, f"c{n}"), linger=True, args={"token": "s3cret", "n": n})
        ledger.append(event(STARTED, f"c{n}", 1), linger=True)
        ledger.append(event(FINISHED, f"c{n}", 1), linger=True)
        ending = ledger.append(event(CALL_FINISHED, f"c{n}"), ahead=True, result={"found": n})
        assert ending.done() and ending.result() == 0
    ledger._linger.cancel()  # type: ignore[union-attr]
    ledger._hand.close(wait=True)
    ledger._committer._aside.close()
    ledger._committer._connection.close()
    store.close()


async def test_the_next_start_writes_what_was_acknowledged_ahead(tmp_path: Path) -> None:
    """Chained, with its values, each record once, and the attempts and calls are not taken for open."""
    await crashed(tmp_path, calls=3)
    assert tail(tmp_path, 10) == []
    async with opened(tmp_path) as ledger:
        assert ledger.open_attempts == [] and ledger.open_calls == []
        assert ledger.head.seq == 12
    async with opened(tmp_path):
        pass
    report = verify(tmp_path)
    assert report.ok and report.records == 12 and report.payloads == 6
    assert [record["type"] for record in tail(tmp_path, 4)] == [CALL_FINISHED, FINISHED, STARTED, RECEIVED][::-1]


async def test_what_was_committed_before_the_crash_is_not_written_twice(tmp_path: Path) -> None:
    """The file is emptied after the commit, and a crash may come between the two."""
    async with opened(tmp_path) as ledger:
        for n in range(3):
            await ledger.append(event(CALL_FINISHED, f"c{n}"), ahead=True)
        kept = (tmp_path / FILE).read_bytes()
        await ledger.flush()
    (tmp_path / FILE).write_bytes(kept)
    async with opened(tmp_path) as ledger:
        assert ledger.head.seq == 3
    assert verify(tmp_path).ok


async def test_a_frame_that_was_half_copied_is_no_record(tmp_path: Path) -> None:
    """Its caller was not answered; those before it were."""
    await crashed(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    end = len(whole.rstrip(b"\0"))
    (tmp_path / FILE).write_bytes(whole[: end - 3] + b"\0" * (len(whole) - end + 3))
    async with opened(tmp_path) as ledger:
        assert ledger.head.seq == 0


async def test_nothing_that_was_erased_lies_in_the_file(tmp_path: Path) -> None:
    """Erasing wipes it, and so does an orderly end."""
    async with opened(tmp_path) as ledger:
        await ledger.append(event(CALL_FINISHED, "c1"), ahead=True, result={"text": "the customer's name"})
        assert b"customer" in (tmp_path / FILE).read_bytes()
        await ledger.erase("c1", reason="asked for it", by="admin")
        assert b"customer" not in (tmp_path / FILE).read_bytes()
        await ledger.append(event(CALL_FINISHED, "c2"), ahead=True, result={"text": "another customer"})
    assert not (tmp_path / FILE).read_bytes().strip(b"\0")


async def test_nothing_that_was_erased_lies_in_the_file_while_others_write_to_it(tmp_path: Path) -> None:
    """Its area is in use again, or still: what was erased goes all the same."""
    async with opened(tmp_path) as ledger:

        async def go_on() -> None:
            while True:
                await ledger.append(event(CALL_FINISHED, "other"), ahead=True)
                await asyncio.sleep(0)

        for n in range(3):
            others = asyncio.ensure_future(go_on())
            await ledger.append(event(CALL_FINISHED, f"c{n}"), ahead=True, result={"text": "the customer's name"})
            assert b"customer" in (tmp_path / FILE).read_bytes()
            await ledger.erase(f"c{n}", reason="asked for it", by="admin")
            assert b"customer" not in (tmp_path / FILE).read_bytes()
            others.cancel()
        assert ledger.append(event(CALL_FINISHED, "later"), ahead=True).done()


async def test_secrets_are_redacted_before_they_reach_the_file(tmp_path: Path) -> None:
    """It holds what the ledger will hold."""
    await crashed(tmp_path)
    assert b"s3cret" not in (tmp_path / FILE).read_bytes()


async def test_a_reader_waits_for_what_was_acknowledged_before_it_asked(tmp_path: Path) -> None:
    """However much is acknowledged meanwhile; and not for a sidecar that was killed."""
    async with opened(tmp_path) as ledger:
        assert caught_up(tmp_path, 5.0)
        for n in range(3):
            await ledger.append(event(CALL_FINISHED, f"c{n}"), ahead=True)
        assert not caught_up(tmp_path, 0.0)  # the loop stands still meanwhile

        async def go_on() -> None:
            while True:
                await ledger.append(event(CALL_FINISHED, "later"), ahead=True)
                await asyncio.sleep(0)

        others = asyncio.ensure_future(go_on())
        assert await asyncio.to_thread(caught_up, tmp_path, 20.0)
        assert {record["call_id"] for record in tail(tmp_path, 9, after_seq=0)} >= {"c0", "c1", "c2"}
        others.cancel()
    await crashed(tmp_path)
    assert not caught_up(tmp_path, 0.05)


async def test_without_room_in_the_file_an_end_waits_for_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acknowledged either way, never before it is safe; and the areas are used again once they are committed."""
    monkeypatch.setattr(Ahead, "open", partial(Ahead.open, area_bytes=4096))
    async with opened(tmp_path) as ledger:
        waited = 0
        for n in range(200):
            ending = ledger.append(event(CALL_FINISHED, f"c{n}"), ahead=True, args={"text": "x" * 900})
            waited += not ending.done()
            await ending
        assert 0 < waited < 200
        await ledger.flush()
        assert ledger.append(event(CALL_FINISHED, "last"), ahead=True).done()
    assert verify(tmp_path).records == 201


async def test_while_a_commit_hangs_nothing_is_acknowledged_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may be hanging, and then the file may hang too."""
    async with opened(tmp_path) as ledger:
        await ledger.append(event())
        monkeypatch.setattr(ledger, "_busy", True)
        monkeypatch.setattr(ledger, "_sent_at", ledger._sent_at - 2 * writer.DOUBT_S)
        ending = ledger.append(event(CALL_FINISHED, "c1"), ahead=True)
        assert not ending.done()
        monkeypatch.setattr(ledger, "_busy", False)
        ledger._pump()
        await ending


async def test_a_disk_without_room_for_the_file_means_waiting_for_each_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower, and as safe."""

    def full(path: Path, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ahead_module, "_map", full)
    assert Ahead.open(tmp_path) is None
    async with opened(tmp_path) as ledger:
        ending = ledger.append(event(CALL_FINISHED, "c1"), ahead=True)
        assert not ending.done() and await ending == 1


async def test_a_file_that_cannot_be_mapped_is_not_passed_over_when_it_holds_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse copy on a full disk, another user's file: the calls in it would be called unknown."""
    await crashed(tmp_path)

    def full(path: Path, size: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ahead_module, "_map", full)
        store = Store.open(tmp_path)
        with pytest.raises(Misconfigured, match="No space left"):
            await Ledger.open(store, LedgerSettings())
        store.close()
    async with opened(tmp_path) as ledger:
        assert ledger.head.seq == 4 and ledger.open_calls == []


async def test_a_file_that_cannot_be_taken_over_stops_the_start_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting without it would call calls unknown whose ends are known."""
    await crashed(tmp_path)

    def other_format(data: bytes) -> None:
        raise msgspec.DecodeError("not ours")

    with monkeypatch.context() as patch:
        patch.setattr(ahead_module, "_decode", other_format)
        store = Store.open(tmp_path)
        with pytest.raises(Misconfigured, match="last records of the sidecar before this one"):
            await Ledger.open(store, LedgerSettings())
        store.close()
    async with opened(tmp_path) as ledger:
        assert ledger.head.seq == 4


class Commits:
    """Lets the ledger's commits happen one by one."""

    def __init__(self, ledger: Ledger) -> None:
        self._commit = ledger._committer.commit
        self._under_way = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)
        self._error: CommitFailed | None = None
        ledger._committer.commit = self._held  # type: ignore[method-assign]

    def _held(self, batch: Batch, *, use_reserve: bool = False) -> None:
        self._under_way.release()
        assert self._go_on.acquire(timeout=30)
        if self._error is not None:
            raise self._error
        self._commit(batch, use_reserve=use_reserve)

    async def begun(self) -> None:
        """Wait until one is about to happen."""
        assert await asyncio.to_thread(self._under_way.acquire, timeout=30)

    def let(self, error: CommitFailed | None = None) -> None:
        """It succeeds, or fails."""
        self._error = error
        self._go_on.release()


async def test_a_start_that_was_given_up_does_not_come_back_behind_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by the next start, after the end of its call, it would open that call again: it would end twice."""
    monkeypatch.setattr(writer, "DOUBT_S", 60.0)
    async with opened(tmp_path / "a") as ledger:
        commits = Commits(ledger)
        ledger.append(event(FINISHED, "c0", 1))
        given_up = ledger.append(event(RECEIVED, "c1"))
        ledger.append(event(CALL_FINISHED, "c1"))
        await commits.begun()
        commits.let(CommitFailed("locked", OSError()))
        with pytest.raises(LedgerUnavailable):
            await given_up
        await commits.begun()  # of the two ends, once the probe says that it can be written again
        assert ledger.append(event(CALL_FINISHED, "c2"), ahead=True).done()
        commits.let()
        await commits.begun()
        shutil.copytree(tmp_path / "a", tmp_path / "b")  # what a kill would leave in this moment
        commits.let()
    async with opened(tmp_path / "b") as ledger:
        assert ledger.open_calls == []
    assert [(record["call_id"], record["type"]) for record in tail(tmp_path / "b", 9)] == [
        ("c0", FINISHED), ("c1", CALL_FINISHED), ("c2", CALL_FINISHED),
    ]  # fmt: skip


async def test_what_was_given_up_is_not_kept_for_the_file(tmp_path: Path) -> None:
    """While the disk stays full, and something that was acknowledged waits for it, the rest must not pile up."""
    async with opened(tmp_path) as ledger:
        commits = Commits(ledger)
        assert ledger.append(event(CALL_FINISHED, "c0"), ahead=True).done()
        await commits.begun()
        ended = [ledger.append(event(CALL_FINISHED, f"c{n}")) for n in range(1, 50)]
        commits.let(CommitFailed("locked", OSError()))
        while not ledger.trouble:
            await asyncio.sleep(0.01)
        ledger._give_up(clock.monotonic())
        assert all(isinstance(future.exception(), LedgerUnavailable) for future in ended)
        assert [entry.columns[2] for entry in ledger._pending] == ["c0"] and ledger._loose == []
        await commits.begun()
        commits.let()

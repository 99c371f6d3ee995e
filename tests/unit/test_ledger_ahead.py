"""The file ``ahead``: what was acknowledged before its commit survives the process, and then leaves no trace."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import msgspec
import pytest

from outrider.errors import Misconfigured
from outrider.ledger import ahead as ahead_module
from outrider.ledger import writer
from outrider.ledger.ahead import FILE, Ahead, caught_up
from outrider.ledger.query import tail
from outrider.ledger.verify import verify
from outrider.ledger.writer import Ledger
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

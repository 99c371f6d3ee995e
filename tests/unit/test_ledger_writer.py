"""Appending: in order, in batches, durable when asked, and never in the way of the loop."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import warnings
from pathlib import Path

import pytest

from outrider import clock
from outrider.errors import Misconfigured
from outrider.ledger import commit, writer
from outrider.ledger.query import show, tail
from outrider.ledger.record import EventType
from outrider.ledger.verify import verify
from outrider.ledger.writer import Ledger, LedgerUnavailable
from outrider.policy.plans import LedgerSettings
from outrider.store import Store
from tests.ledger_kit import CALL_FINISHED, FINISHED, RECEIVED, STARTED, a_call, edit, event, opened, rows


async def test_records_come_out_as_they_went_in(tmp_path: Path) -> None:
    """Order of append is order in the ledger; the future tells the record's number."""
    async with opened(tmp_path) as ledger:
        futures = [ledger.append(event(call_id=f"c{n}")) for n in range(50)]
        assert [await future for future in futures] == list(range(1, 51))
        assert ledger.head.seq == 50
    assert [record["call_id"] for record in tail(tmp_path, 50)] == [f"c{n}" for n in range(50)]
    report = verify(tmp_path)
    assert report.ok and report.records == 50 and report.head == ledger.head.hash


async def test_what_is_appended_in_one_turn_of_the_loop_is_one_batch(tmp_path: Path) -> None:
    """And so is what collects while a batch is under way."""
    async with opened(tmp_path) as ledger:
        await asyncio.gather(*[ledger.append(event(call_id=f"c{n}")) for n in range(100)])
        assert ledger.lag()["batches"] == 1
        assert ledger.lag()["records"] == 100


async def test_a_huge_queue_is_committed_in_bounded_batches(tmp_path: Path) -> None:
    """By number and by size, more rows than one statement holds included."""
    async with opened(tmp_path) as ledger:
        for n in range(writer.MAX_BATCH * 2 + 7):
            ledger.append(event(call_id=f"c{n}"))
        await ledger.flush()
        assert ledger.lag()["batches"] == 3
        big = {"text": "x" * 60_000}
        for n in range(80):
            ledger.append(event(call_id=f"d{n}"), args=big)
        await ledger.flush()
        assert ledger.lag()["batches"] == 5
    assert verify(tmp_path).ok


async def test_statements_up_to_64_rows_are_one_and_more_are_split(tmp_path: Path) -> None:
    """Every size around the border lands whole."""
    async with opened(tmp_path) as ledger:
        for size in (1, 2, 63, 64, 65, 127, 128, 129):
            await asyncio.gather(*[ledger.append(event(), args={"n": n}) for n in range(size)])
    report = verify(tmp_path)
    assert report.ok and report.records == report.payloads == 1 + 2 + 63 + 64 + 65 + 127 + 128 + 129


class Spy:
    """Every statement SQLite runs, and whether commits were synced, in order."""

    def __init__(self, ledger: Ledger) -> None:
        self.statements: list[str] = []
        ledger._committer._connection.set_trace_callback(self.statements.append)

    def modes(self) -> list[str]:
        return [text.rpartition(" ")[2] for text in self.statements if text.startswith("PRAGMA synchronous")]


async def test_a_durable_record_is_committed_in_full_sync_mode_before_its_future_resolves(tmp_path: Path) -> None:
    """With synchronous = FULL, SQLite syncs the write-ahead log before a commit returns (sqlite.org/pragma.html);
    tests/process sees the system calls themselves."""
    async with opened(tmp_path) as ledger:
        await ledger.append(event())  # not durable
        spy = Spy(ledger)
        resolved_after: list[int] = []
        future = ledger.append(event(), durable=True)
        future.add_done_callback(lambda _: resolved_after.append(len(spy.statements)))
        await future
        await asyncio.sleep(0)
        assert spy.statements[0] == "PRAGMA synchronous = FULL"
        assert spy.statements[1].startswith("INSERT INTO ledger") and len(spy.statements) == 2
        assert resolved_after == [2]
        assert ledger.lag()["fsyncs"] == 1


async def test_the_sync_mode_changes_only_between_batches_and_only_when_it_has_to(tmp_path: Path) -> None:
    """Each change is one more call on the hot path."""
    async with opened(tmp_path) as ledger:
        spy = Spy(ledger)
        for durable in (False, False, True, True, False):
            await ledger.append(event(), durable=durable)
        assert spy.modes() == ["NORMAL", "FULL", "NORMAL"]


async def test_a_batch_with_one_durable_record_is_synced_whole(tmp_path: Path) -> None:
    """Neighbours get more than they asked for, never less."""
    async with opened(tmp_path) as ledger:
        await asyncio.gather(*[ledger.append(event(), durable=n == 3) for n in range(6)])
        assert ledger.lag()["fsyncs"] == ledger.lag()["batches"] == 1


async def test_a_small_batch_without_values_is_one_statement(tmp_path: Path) -> None:
    """Every call into SQLite hands the interpreter lock over twice."""
    async with opened(tmp_path) as ledger:
        await ledger.append(event(), durable=True)
        spy = Spy(ledger)
        await asyncio.gather(*[ledger.append(event(), durable=True) for _ in range(20)])
        assert len(spy.statements) == 1
        spy.statements.clear()
        await asyncio.gather(*[ledger.append(event(), durable=True, args={}, result={}) for _ in range(20)])
        assert [text.split()[0] for text in spy.statements] == ["BEGIN", "INSERT", "INSERT", "COMMIT"]


async def test_values_and_state_change_with_their_record_or_not_at_all(tmp_path: Path) -> None:
    """One transaction for line, values and mutations."""
    keep = ("INSERT INTO policies (digest, text, first_seen) VALUES (?, ?, ?)", ("d", "{}", 1.0))
    async with opened(tmp_path) as ledger:
        await ledger.append(event(), args={"a": 1}, mutations=[keep])
        with pytest.raises(sqlite3.IntegrityError):
            await ledger.append(event(call_id="bad"), args={"a": 2}, mutations=[keep])
        assert ledger.healthy
    assert rows(tmp_path, "SELECT digest FROM policies") == [("d",)]
    assert rows(tmp_path, "SELECT count(*) FROM ledger") == [(1,)]
    assert rows(tmp_path, "SELECT value FROM payloads") == [('{"a":1}',)]


@pytest.mark.parametrize(
    "bad",
    [
        ("INSERT INTO nowhere VALUES (1)", ()),
        ("INSERT INTO kills (id) VALUES (?)", ("x",)),
        ("SELECT ?", ()),
        ("nonsense", ()),
    ],
)
async def test_a_mutation_that_cannot_be_applied_fails_alone(tmp_path: Path, bad: tuple[str, tuple[str, ...]]) -> None:
    """The rest of its batch is committed, in order and gapless; the ledger stays healthy."""
    async with opened(tmp_path) as ledger:
        before = ledger.append(event(call_id="before"))
        failing = ledger.append(event(call_id="bad"), mutations=[bad])
        after = ledger.append(event(STARTED, call_id="after", attempt=1), durable=True)
        with pytest.raises(sqlite3.Error):
            await failing
        assert (await before, await after) == (1, 2)
        assert ledger.healthy and ledger.lag()["failures"] == 0
    assert [record["call_id"] for record in tail(tmp_path)] == ["before", "after"]
    assert verify(tmp_path).ok


async def test_a_record_that_may_linger_waits_for_company_but_not_for_ever(tmp_path: Path) -> None:
    """It goes with the next one that somebody waits for, or by itself."""
    async with opened(tmp_path) as ledger:
        lingering = ledger.append(event(), linger=True)
        await asyncio.sleep(0)
        assert ledger.lag()["batches"] == 0 and not lingering.done()
        await ledger.append(event())
        assert lingering.done() and ledger.lag()["batches"] == 1
        alone = ledger.append(event(), linger=True)
        assert await alone == 3
        durable = ledger.append(event(), linger=True, durable=True)
        assert await durable == 4


async def test_flush_waits_for_everything_appended_so_far(tmp_path: Path) -> None:
    """Lingering records included; with nothing to wait for, it returns at once."""
    async with opened(tmp_path) as ledger:
        await ledger.flush()
        futures = [ledger.append(event(), linger=True) for _ in range(5)]
        await ledger.flush()
        assert all(future.done() for future in futures)
        first = ledger.append(event())
        await asyncio.gather(ledger.flush(), ledger.flush())
        assert first.done()


async def test_a_caller_that_stops_waiting_does_not_undo_the_record(tmp_path: Path) -> None:
    """Cancelling the future cancels the waiting only."""
    async with opened(tmp_path) as ledger:
        ledger.append(event(call_id="gone")).cancel()
        await ledger.append(event(call_id="here"))
    assert [record["call_id"] for record in tail(tmp_path)] == ["gone", "here"]


async def test_a_failure_that_nobody_awaits_warns_nobody(tmp_path: Path) -> None:
    """Most callers do not wait for most records."""
    gc.collect()  # what other tests left is not this one's
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with opened(tmp_path) as ledger:
            ledger.append(event(), mutations=[("nonsense", ())])
            await ledger.flush()
        ledger.append(event())  # closed by now
        gc.collect()
        await asyncio.sleep(0)
    assert complaints == []


async def test_a_closed_ledger_refuses(tmp_path: Path) -> None:
    """Starts and ends alike, at once."""
    async with opened(tmp_path) as ledger:
        pass
    for type_ in (RECEIVED, CALL_FINISHED):
        with pytest.raises(LedgerUnavailable, match="shutting down"):
            await ledger.append(event(type_))
    await ledger.close()
    assert not ledger.healthy


async def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    """Also what lingers."""
    async with opened(tmp_path) as ledger:
        for _ in range(10):
            ledger.append(event(), linger=True)
    assert verify(tmp_path).records == 10


async def test_closing_leaves_one_plain_file_and_no_thread(tmp_path: Path) -> None:
    """A folder at rest can be copied: nothing is left in a write-ahead log."""
    async with opened(tmp_path) as ledger:
        await a_call(ledger)
        assert any(thread.name == "outrider-ledger" for thread in threading.enumerate())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ahead", "lock", "outrider.db", "reserve"]
    assert not any(thread.name.startswith("outrider-ledger") for thread in threading.enumerate())


async def test_a_ledger_continues_where_it_ended(tmp_path: Path) -> None:
    """Numbers and chain go on over restarts, with another incarnation."""
    for start in range(3):
        async with opened(tmp_path) as ledger:
            assert ledger.head.seq == 5 * start
            await a_call(ledger)
    report = verify(tmp_path)
    assert report.ok and report.records == 15
    assert len({record["incarnation"] for record in tail(tmp_path, 15)}) == 3


async def test_a_queue_that_is_too_long_refuses_starts_first_and_ends_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start can be tried again; an end has happened. Both are bounded."""
    monkeypatch.setattr(writer, "MAX_QUEUED", 10)
    async with opened(tmp_path) as ledger:
        starts = [ledger.append(event(STARTED, attempt=n)) for n in range(12)]
        ends = [ledger.append(event(FINISHED, attempt=n)) for n in range(12)]
        assert [future.done() for future in starts] == [False] * 10 + [True] * 2
        assert [future.done() for future in ends] == [False] * 10 + [True] * 2
        with pytest.raises(LedgerUnavailable, match="behind by 10 records"):
            await starts[-1]
        assert ledger.healthy
        await ledger.flush()
        assert await ledger.append(event(STARTED)) == 21


async def test_the_queue_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few large values count as much as many small ones."""
    monkeypatch.setattr(writer, "MAX_QUEUED_BYTES", 100_000)
    async with opened(tmp_path) as ledger:
        futures = [ledger.append(event(), args={"text": "x" * 50_000}) for _ in range(4)]
        assert [future.done() for future in futures] == [False, False, True, True]
        await ledger.flush()
        assert ledger.lag()["queued_bytes"] == 0


async def test_lag_tells_how_far_behind(tmp_path: Path) -> None:
    """Queued records and the age of the oldest."""
    async with opened(tmp_path) as ledger:
        assert ledger.lag()["oldest_ms"] == 0.0
        ledger.append(event(), linger=True)
        lag = ledger.lag()
        assert lag["queued"] == 1 and lag["queued_bytes"] > 300 and lag["oldest_ms"] >= 0.0
        await ledger.flush()
        lag = ledger.lag()
        assert lag["queued"] == 0 and lag["records"] == 1 and lag["bytes"] > 0 and lag["healthy"]


async def test_full_says_when_the_policys_size_is_passed(tmp_path: Path) -> None:
    """What follows from it is the policy's word."""
    async with opened(tmp_path, LedgerSettings(max_bytes=300_000)) as ledger:
        assert not ledger.full
        for n in range(10):
            await ledger.append(event(call_id=f"c{n}"), args={"text": "x" * 50_000})
        await ledger.checkpoint()
        assert ledger.full and ledger.lag()["full"] and ledger.healthy
        ledger.configure(LedgerSettings())
        assert not ledger.full


async def test_settings_say_what_is_recorded(tmp_path: Path) -> None:
    """And a newer policy's settings are followed from then on."""
    async with opened(tmp_path, LedgerSettings(record_args=False, redact_keys=("iban",))) as ledger:
        await ledger.append(event(call_id="c"), args={"a": 1}, result={"iban": 2, "x": 3})
        ledger.configure(LedgerSettings(record_results=False))
        await ledger.append(event(call_id="c"), args={"iban": 1}, result={"x": 3}, redact=("$.args.iban",))
    first, second = show(tmp_path, "c")
    assert first["args"] == {"«not recorded»": True} and first["result"] == {"iban": "«redacted»", "x": 3}
    assert second["args"] == {"iban": "«redacted»"} and second["result"] == {"«not recorded»": True}
    assert verify(tmp_path).ok


async def test_what_was_passed_may_change_afterwards(tmp_path: Path) -> None:
    """A record is of the moment of append."""
    async with opened(tmp_path) as ledger:
        args = {"a": 1}
        ledger.append(event(call_id="c"), args=args, linger=True)
        args["a"] = 2
        await ledger.flush()
    assert show(tmp_path, "c")[0]["args"] == {"a": 1}


async def test_erasing_removes_values_and_salts_and_keeps_the_chain(tmp_path: Path) -> None:
    """Of one call; recorded; and gone from the bytes of the file."""
    async with opened(tmp_path) as ledger:
        for call_id in ("keep", "erase"):
            ledger.append(event(call_id=call_id), args={"who": f"name-of-{call_id}"})
            await ledger.append(event(CALL_FINISHED, call_id), result=f"result-of-{call_id}")
        assert await ledger.erase("erase", reason="asked to be forgotten", by="dpo") == 5
        await ledger.append(event())
    report = verify(tmp_path)
    assert report.ok and report.payloads == 2 and report.payloads_absent == 2 and report.erasures == 1
    received, finished, erased = show(tmp_path, "erase")
    assert received["args"] == finished["result"] == {"«erased»": True}
    assert (erased["type"], erased["actor"], erased["reason"]) == ("payload.erased", "dpo", "asked to be forgotten")
    assert show(tmp_path, "keep")[0]["args"] == {"who": "name-of-keep"}
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"name-of-keep" in content and b"name-of-erase" not in content and b"result-of-erase" not in content


@pytest.mark.parametrize("inline", [True, False])
async def test_the_write_ahead_log_is_folded_while_batches_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    """It does not grow with the ledger: after a fold it starts over at its beginning."""
    monkeypatch.setattr(commit, "FOLD_BYTES", 200_000)
    async with opened(tmp_path, inline=inline) as ledger:
        wal = tmp_path / "outrider.db-wal"
        async with asyncio.timeout(30):
            while ledger.lag()["checkpoints"] < 3:
                await ledger.append(event(), args={"text": "x" * 20_000})
        if inline:
            assert wal.stat().st_size < 500_000 < (tmp_path / "outrider.db").stat().st_size
        await ledger.checkpoint()
        assert wal.stat().st_size == 0
    assert verify(tmp_path).ok


async def test_nothing_that_goes_wrong_with_folding_stops_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even that no thread can be started."""

    def fails(**_: object) -> None:
        raise RuntimeError("can't start new thread")

    async with opened(tmp_path) as ledger:
        monkeypatch.setattr(ledger._committer, "tidy", fails)
        for _ in range(3):
            await ledger.append(event())
        assert ledger.healthy


@pytest.mark.looptime
async def test_inline_a_commit_takes_no_virtual_time(tmp_path: Path) -> None:
    """A thread cannot be awaited under a virtual clock: timers would ring first."""
    async with opened(tmp_path, inline=True) as ledger:
        began = clock.monotonic()
        async with asyncio.timeout(3600):
            assert await ledger.append(event(), durable=True) == 1
            await a_call(ledger)
        assert clock.monotonic() == began
        lingering = ledger.append(event(), linger=True)
        await lingering
        assert clock.monotonic() - began == pytest.approx(writer.LINGER_S)
    assert verify(tmp_path).records == 7


class Stall:
    """Holds the next batches on their way to the disk until told to let go."""

    def __init__(self, ledger: Ledger) -> None:
        self.hold, self._running = threading.Event(), threading.Event()
        self._write = ledger._committer._write
        ledger._committer._write = self._stall  # type: ignore[method-assign]

    def _stall(self, batch: commit.Batch) -> None:
        self._running.set()
        self.hold.wait(10)
        self._write(batch)

    async def reached(self) -> None:
        while not self._running.is_set():
            await asyncio.sleep(0.001)


async def test_the_loop_goes_on_while_a_commit_hangs(tmp_path: Path) -> None:
    """A disk that stalls stalls the ledger and nothing else."""
    async with opened(tmp_path) as ledger:
        stall = Stall(ledger)
        stuck = ledger.append(event())
        await stall.reached()
        later = ledger.append(event())
        async with asyncio.timeout(1):
            for _ in range(100):
                await asyncio.sleep(0)
        assert not stuck.done() and not later.done()
        stall.hold.set()
        assert (await stuck, await later) == (1, 2)


async def test_a_disk_that_does_not_answer_refuses_starts_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than let every call wait for its deadline; what is under way is kept."""
    monkeypatch.setattr(writer, "STALL_S", 0.05)
    async with opened(tmp_path) as ledger:
        stall = Stall(ledger)
        stuck = ledger.append(event())
        await stall.reached()
        await asyncio.sleep(0.06)
        assert not ledger.healthy
        end = ledger.append(event(FINISHED))
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            await ledger.append(event(STARTED))
        stall.hold.set()
        assert (await stuck, await end) == (1, 2)
        assert ledger.healthy and await ledger.append(event(STARTED)) == 3


async def test_closing_does_not_wait_for_a_hanging_disk_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still queued fails; what hangs is left behind, and is in the ledger or not."""
    monkeypatch.setattr(writer, "CLOSE_S", 0.05)
    async with opened(tmp_path) as ledger:
        stall = Stall(ledger)
        stuck = ledger.append(event())
        await stall.reached()
        later = ledger.append(event(CALL_FINISHED))
        await ledger.close()
        with pytest.raises(LedgerUnavailable):
            await later
        assert not stuck.done()
        stall.hold.set()
        assert await stuck == 1


async def test_a_changed_end_of_the_chain_is_not_continued(tmp_path: Path) -> None:
    """Neither a repaired past nor a forked one: the start is refused, and says what to do."""
    async with opened(tmp_path) as ledger:
        await a_call(ledger)
    edit(tmp_path, "UPDATE ledger SET line = replace(line, 'ok', 'no') WHERE seq = 5")
    with pytest.raises(Misconfigured, match=r"last record \(5\) is not what its hash says.*evidence"):
        async with opened(tmp_path):
            pass
    store = Store.open(tmp_path)  # and the folder is free again
    store.close()


async def test_every_type_of_event_can_be_recorded(tmp_path: Path) -> None:
    """None is special to the writer but by being a start or not."""
    async with opened(tmp_path) as ledger:
        await asyncio.gather(*[ledger.append(event(type_)) for type_ in EventType])
    assert [record["type"] for record in tail(tmp_path, 50)] == list(EventType)

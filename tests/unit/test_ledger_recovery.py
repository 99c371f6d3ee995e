"""What a sidecar left under way is known to the next one, without reading the whole ledger."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.ledger import recovery, writer
from outrider.ledger.record import EventType
from outrider.ledger.recovery import OpenWork, read_open_work
from outrider.ledger.writer import Ledger
from outrider.policy.plans import LedgerSettings
from outrider.store import FILE, Store
from tests.ledger_kit import (
    CALL_FINISHED,
    DECIDED,
    FINISHED,
    RECEIVED,
    SMALL_RESERVE,
    STARTED,
    a_call,
    edit,
    event,
    opened,
    rows,
)


async def crash(folder: Path, *events: object) -> None:
    """Write these, then end as if killed: no close, no watermark."""
    store = Store.open(folder, reserve_bytes=SMALL_RESERVE)
    ledger = await Ledger.open(store, LedgerSettings(), inline=True)
    for made in events:
        await ledger.append(made)  # type: ignore[arg-type]
    ledger._committer._aside.close()
    ledger._committer._connection.close()
    store.close()


async def test_what_has_no_end_is_listed_oldest_first_with_its_record(tmp_path: Path) -> None:
    """Attempts and calls; the caller writes their ends."""
    await crash(
        tmp_path,
        event(RECEIVED, "done"), event(STARTED, "done", 1), event(FINISHED, "done", 1), event(CALL_FINISHED, "done"),
        event(RECEIVED, "sent"), event(DECIDED, "sent"), event(STARTED, "sent", 1), event(FINISHED, "sent", 1),
        event(STARTED, "sent", 2, upstream="local", effect="write"),
        event(RECEIVED, "refused"), event(EventType.CALL_REFUSED, "refused"),
        event(RECEIVED, "waiting"), event(DECIDED, "waiting"),
    )  # fmt: skip
    async with opened(tmp_path) as ledger:
        assert [(work.call_id, work.n, work.seq) for work in ledger.open_attempts] == [("sent", 2, 9)]
        assert ledger.open_attempts[0].event["upstream"] == "local"
        assert ledger.open_attempts[0].event["agent"]["name"] == "researcher"
        assert [(work.call_id, work.seq, work.event["type"]) for work in ledger.open_calls] == [
            ("sent", 5, "call.received"),
            ("waiting", 12, "call.received"),
        ]
        for call in ledger.open_calls:
            await ledger.append(event(CALL_FINISHED, call.call_id, outcome="unknown"))
        await ledger.append(event(FINISHED, "sent", 2, outcome="unknown"))
    async with opened(tmp_path) as ledger:
        assert (ledger.open_attempts, ledger.open_calls) == ([], [])


async def test_nothing_is_left_after_an_orderly_end_with_calls_answered(tmp_path: Path) -> None:
    """The usual start reads one row."""
    async with opened(tmp_path) as ledger:
        for _ in range(3):
            await a_call(ledger)
    async with opened(tmp_path) as ledger:
        assert (ledger.open_attempts, ledger.open_calls) == ([], [])


async def test_an_orderly_end_keeps_what_was_under_way(tmp_path: Path) -> None:
    """Closing is no end of a call."""
    async with opened(tmp_path) as ledger:
        await ledger.append(event(RECEIVED, "c1"))
        await ledger.append(event(STARTED, "c1", 3))
    for _ in range(2):
        async with opened(tmp_path) as ledger:
            assert [(work.call_id, work.n) for work in ledger.open_attempts] == [("c1", 3)]
            assert [work.call_id for work in ledger.open_calls] == ["c1"]


async def test_a_start_reads_only_what_lies_behind_the_watermark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that stays open for ever does not make every start read everything since."""
    monkeypatch.setattr(writer, "MARK_EVERY", 20)
    await crash(
        tmp_path,
        event(RECEIVED, "old"),
        event(STARTED, "old", 1),
        *[made for n in range(100) for made in (event(RECEIVED, f"c{n}"), event(CALL_FINISHED, f"c{n}"))],
        event(RECEIVED, "new"),
    )
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        mark = recovery._parse(rows(tmp_path, "SELECT value FROM meta WHERE key = 'recovery'")[0][0], 10**6)
        assert mark.seq >= 203 - 2 * 20 and mark.calls.get("old") == 1
        # What is before the watermark is not looked at again: without the records, the answer is the same.
        connection.execute("DELETE FROM ledger WHERE seq BETWEEN 3 AND ?", (mark.seq,))
        work = read_open_work(connection)
        connection.rollback()
    connection.close()
    assert work.calls == {"old": 1, "new": 203} and work.attempts == {("old", 1): 2}


@pytest.mark.parametrize("mark", ["", "nonsense", "{}", '{"seq": 99, "calls": {}, "attempts": []}', '{"seq": "x"}'])
async def test_a_watermark_that_cannot_be_right_is_not_believed(tmp_path: Path, mark: str) -> None:
    """Slower, never wrong."""
    await crash(tmp_path, event(RECEIVED, "c1"), event(STARTED, "c1", 1))
    edit(tmp_path, "UPDATE meta SET value = ? WHERE key = 'recovery'", (mark,))
    async with opened(tmp_path) as ledger:
        assert [work.call_id for work in ledger.open_attempts] == ["c1"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([RECEIVED, STARTED, FINISHED, CALL_FINISHED]), st.sampled_from("abc"), st.integers(1, 2)
        ),
        max_size=30,
    ),
    st.integers(0, 30),
)
def test_a_watermark_anywhere_changes_nothing(events: list[tuple[EventType, str, int]], at: int) -> None:
    """Property: reading everything, and reading on from any watermark, find the same."""
    whole, first = OpenWork(), OpenWork()
    for seq, (type_, call_id, attempt) in enumerate(events, 1):
        whole.seen(seq, type_, call_id, attempt)
        if seq <= at:
            first.seen(seq, type_, call_id, attempt)
    mark = recovery._parse(first.watermark(min(at, len(events))), len(events))
    second = OpenWork()
    second.calls, second.attempts = mark.calls, {(call_id, n): seq for call_id, n, seq in mark.attempts}
    for seq, (type_, call_id, attempt) in enumerate(events, 1):
        if seq > mark.seq:
            second.seen(seq, type_, call_id, attempt)
    assert (whole.calls, whole.attempts) == (second.calls, second.attempts)

"""Reading the ledger: the newest, the wanted, one call whole, everything as a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from outrider import clock
from outrider.errors import Misconfigured
from outrider.ledger import query
from outrider.ledger.query import COLUMNS, Filter, export, search, show, tail
from outrider.ledger.record import Event, decode_line, leaf_hash
from outrider.ledger.writer import Ledger
from tests.ledger_kit import a_call, edit, event, opened, rows


async def fill(ledger: Ledger) -> None:
    """20 calls of two agents and two tools: 100 records."""
    for n in range(20):
        agent = {"name": "researcher" if n % 2 else "writer-1"}
        await a_call(ledger, f"c{n}", agent=agent, tool="local.search" if n % 4 else "mail.send")


async def test_tail_gives_the_last_records_oldest_first(tmp_path: Path) -> None:
    """Or those after a number: what a follower asks."""
    async with opened(tmp_path) as ledger:
        await fill(ledger)
        assert [record["seq"] for record in tail(tmp_path, 3)] == [98, 99, 100]
        assert [record["seq"] for record in tail(tmp_path, 2, after_seq=98)] == [99, 100]
        assert tail(tmp_path, 2, after_seq=100) == []
        assert len(tail(tmp_path, 10**9)) == 100
        last = tail(tmp_path, 1)[0]
        assert last["hash"] == ledger.head.hash and last["type"] == "call.finished"


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Filter(), 100),
        (Filter(agent="researcher"), 50),
        (Filter(agent="writer-*"), 50),
        (Filter(agent="writer"), 0),
        (Filter(tool="mail.*"), 25),
        (Filter(tool="*"), 100),
        (Filter(type="attempt.started"), 20),
        (Filter(call_id="c7"), 5),
        (Filter(call_id="c7", type="call.finished"), 1),
        (Filter(agent="researcher", tool="local.search", type="call.received"), 10),
        (Filter(agent="' OR 1=1 --"), 0),
    ],
)
async def test_search_finds_what_agrees_with_every_field(tmp_path: Path, wanted: Filter, count: int) -> None:
    """Newest first; patterns are a prefix and a star."""
    async with opened(tmp_path) as ledger:
        await fill(ledger)
    page = search(tmp_path, wanted, limit=1000)
    seqs = [record["seq"] for record in page.records]
    assert len(seqs) == count and seqs == sorted(seqs, reverse=True)
    assert page.next_before_seq is None


async def test_search_goes_on_page_by_page(tmp_path: Path) -> None:
    """Nothing twice, nothing left out."""
    async with opened(tmp_path) as ledger:
        await fill(ledger)
    found: list[int] = []
    before: int | None = None
    while True:
        page = search(tmp_path, Filter(agent="researcher"), limit=7, before_seq=before)
        found += [record["seq"] for record in page.records]
        if page.next_before_seq is None:
            break
        before = page.next_before_seq
    assert len(found) == len(set(found)) == 50


async def test_a_search_looks_at_a_bounded_number_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may be empty and have a next one; a call's own records come by index from anywhere."""
    monkeypatch.setattr(query, "MAX_SCANNED", 30)
    async with opened(tmp_path) as ledger:
        await fill(ledger)
    wanted = Filter(agent="writer-1", tool="mail.send", type="call.received")
    page = search(tmp_path, Filter(call_id="c0"))
    assert len(page.records) == 5 and page.next_before_seq is None
    pages = [search(tmp_path, wanted)]
    while pages[-1].next_before_seq is not None:
        pages.append(search(tmp_path, wanted, before_seq=pages[-1].next_before_seq))
    assert len(pages) == 4 and sum(len(page.records) for page in pages) == 5


async def test_search_by_time_reads_only_that_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bisection; since and until are inclusive."""
    start = clock.wall()
    async with opened(tmp_path) as ledger:
        for day in range(10):
            monkeypatch.setattr(clock, "wall", lambda day=day: start + day * 86_400)
            await a_call(ledger, f"d{day}")
    page = search(tmp_path, Filter(since=start + 3 * 86_400 - 1, until=start + 5 * 86_400 + 1), limit=1000)
    assert {record["call_id"] for record in page.records} == {"d3", "d4", "d5"}
    assert page.next_before_seq is None
    with query.open_reader(tmp_path) as db:
        assert query._range(db, Filter(since=start + 3 * 86_400, until=start + 5 * 86_400), None) == (16, 31)
        assert query._range(db, Filter(since=start + 10**9), None) == (51, 51)
    assert len(search(tmp_path, Filter(since=start + 9 * 86_400), limit=1000).records) == 5


async def test_a_clock_that_was_set_back_hides_nothing_within_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bisection by time has that much slack."""
    start = clock.wall()
    async with opened(tmp_path) as ledger:
        for call_id, at in (("a", 0.0), ("b", 5000.0), ("c", 2000.0), ("d", 5001.0)):
            monkeypatch.setattr(clock, "wall", lambda at=at: start + at)
            await ledger.append(event(call_id=call_id))
    found = search(tmp_path, Filter(since=start + 1999, until=start + 2001)).records
    assert [record["call_id"] for record in found] == ["c"]


async def test_show_gives_a_call_whole_with_its_values(tmp_path: Path) -> None:
    """Redacted, in order, from the start of the call to its end."""
    async with opened(tmp_path) as ledger:
        await fill(ledger)
    shown = show(tmp_path, "c3")
    assert [record["type"] for record in shown] == [
        "call.received", "call.decided", "attempt.started", "attempt.finished", "call.finished",
    ]  # fmt: skip
    assert shown[0]["args"] == {"query": "hotels", "token": "«redacted»"}
    assert shown[3]["result"] == {"found": [1, 2]}
    assert "args" not in shown[1] and "result" not in shown[4]
    assert show(tmp_path, "no such call") == []


async def test_show_of_a_call_goes_by_index(tmp_path: Path) -> None:
    """Its cost does not grow with the ledger."""
    async with opened(tmp_path) as ledger:
        await fill(ledger)
    plan = rows(tmp_path, "EXPLAIN QUERY PLAN SELECT line FROM ledger WHERE call_id = 'c3' ORDER BY seq LIMIT 5")
    assert "USING INDEX ledger_call_id" in plan[0][-1]


async def test_a_damaged_line_is_shown_as_it_is(tmp_path: Path) -> None:
    """Reading goes on; verify is what complains."""
    async with opened(tmp_path) as ledger:
        await fill(ledger)
    edit(tmp_path, "UPDATE ledger SET line = 'nonsense' WHERE seq = 99")
    assert tail(tmp_path, 2)[0]["«damaged»"] == "nonsense"


async def test_exported_lines_are_the_lines_byte_for_byte(tmp_path: Path) -> None:
    """Whoever has the file can compute the chain."""
    async with opened(tmp_path) as ledger:
        await fill(ledger)
        await ledger.append(event(detail="ümlaut «»"))
        out = io.StringIO()
        assert export(tmp_path, out) == 101
        head = ledger.head.hash
    prev = "0" * 64
    for text in out.getvalue().splitlines():
        assert decode_line.decode(text).prev == prev
        prev = leaf_hash(text.encode()).hex()
    assert prev == head


async def test_an_export_may_be_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of any size."""
    monkeypatch.setattr(query, "CHUNK", 3)
    async with opened(tmp_path) as ledger:
        await fill(ledger)
    out = io.StringIO()
    assert export(tmp_path, out, wanted=Filter(agent="researcher", type="call.*")) == 0
    assert export(tmp_path, out, wanted=Filter(agent="researcher", type="call.received")) == 10
    assert [decode_line.decode(line).call_id for line in out.getvalue().splitlines()] == [
        f"c{n}" for n in range(1, 20, 2)
    ]


async def test_csv_has_a_column_for_every_plain_field(tmp_path: Path) -> None:
    """Dicts are left to JSON Lines, but for the agent's name."""
    plain = {name for name in Event.__struct_fields__ if name not in ("agent", "timing", "data")}
    assert plain <= set(COLUMNS)
    async with opened(tmp_path) as ledger:
        await fill(ledger)
    out = io.StringIO(newline="")
    assert export(tmp_path, out, format="csv") == 100
    table = list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))
    assert len(table) == 100 and list(table[0]) == list(COLUMNS)
    assert (table[0]["seq"], table[0]["agent"], table[0]["type"]) == ("1", "writer-1", "call.received")


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
async def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path, text: str) -> None:
    """Agents choose some of the texts, and people open the file in a spreadsheet."""
    async with opened(tmp_path) as ledger:
        await ledger.append(event(caller_ref=text, agent={"name": text}))
    out = io.StringIO(newline="")
    export(tmp_path, out, format="csv")
    row = next(csv.DictReader(io.StringIO(out.getvalue(), newline="")))
    assert row["caller_ref"] == row["agent"] == "'" + text


def test_reading_where_nothing_is_is_told(tmp_path: Path) -> None:
    """By every function."""
    for read in (lambda: tail(tmp_path), lambda: search(tmp_path, Filter()), lambda: export(tmp_path, io.StringIO())):
        with pytest.raises(Misconfigured, match="no ledger here"):
            read()

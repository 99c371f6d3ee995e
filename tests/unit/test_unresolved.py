"""A call that may have run bars its like in the same run, until it is settled or both clocks say that it is over."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlite_utils import Database

from outrider import clock
from outrider.calls import Agent, Call
from outrider.ledger.verify import verify
from outrider.settings import Address, Settings
from outrider.sidecar import Sidecar
from outrider.store import MIGRATIONS
from outrider.unresolved import MAX_CLEARED, Mutation, Unresolved


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def call(call_id: str = "c1", *, tool: str = "bank.pay", run: str = "r1", agent: str = "a", **args: object) -> Call:
    return Call(call_id, tool, args, Agent(agent), run=run)


def test_the_same_call_in_the_same_run_is_found() -> None:
    """Whatever the order of its arguments."""
    book = Unresolved(digest)
    book.note(call(a=1, b=2), 600)
    found = book.find(call("c2", b=2, a=1))
    assert found is not None and found.call_id == "c1"


@pytest.mark.parametrize("other", [call("c2", a=2), call("c2", a=1, run="r2"), call("c2", a=1, tool="bank.refund")])
def test_another_call_is_not_barred(other: Call) -> None:
    """Other arguments, another run, another tool: another intent."""
    book = Unresolved(digest)
    book.note(call(a=1), 600)
    assert book.find(other) is None


def test_without_a_run_the_agent_is_what_binds() -> None:
    """A caller that names no run is guarded all the same."""
    book = Unresolved(digest)
    book.note(call(run="", a=1), 600)
    assert book.find(call("c2", run="", a=1)) is not None
    assert book.find(call("c3", run="", agent="b", a=1)) is None


def test_of_two_like_calls_that_are_unknown_both_must_be_settled() -> None:
    """Settling one says nothing of the other."""
    book = Unresolved(digest)
    book.note(call("c1"), 600)
    book.note(call("c2"), 600)
    book.forget("c1")
    found = book.find(call("c3"))
    assert found is not None and found.call_id == "c2"
    book.forget("c2")
    assert book.find(call("c3")) is None


def test_a_bar_is_lifted_only_when_both_clocks_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting the wall clock forward frees nobody."""
    book = Unresolved(digest)
    book.note(call(), 600)
    wall, mono = clock.wall(), clock.monotonic()
    monkeypatch.setattr(clock, "wall", lambda: wall + 10_000)
    assert book.find(call("c2")) is not None
    monkeypatch.setattr(clock, "monotonic", lambda: mono + 601)
    assert book.find(call("c2")) is None


def test_a_restart_keeps_the_bar() -> None:
    """The rows written beside the call's end bring it back."""
    table = Table()
    table.run(Unresolved(digest).note(call(), 600))
    again = Unresolved(digest)
    table.run(again.restore(table.rows()))
    assert again.find(call("c2")) is not None and again.get("c1") is not None
    assert table.calls() == {"c1"}


class Table:
    """The table ``unresolved`` as the store makes it."""

    def __init__(self) -> None:
        self.db = Database(memory=True)
        MIGRATIONS.apply(self.db)

    def run(self, mutations: Iterable[Mutation]) -> None:
        for statement, parameters in mutations:
            self.db.execute(statement, parameters)

    def rows(self) -> list[dict[str, object]]:
        return list(self.db["unresolved"].rows)

    def calls(self) -> set[object]:
        return {row["call_id"] for row in self.rows()}


def test_rows_whose_time_is_over_go_with_the_next_one_that_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table holds what bars something, and not every unknown outcome there ever was."""
    table, book = Table(), Unresolved(digest)
    for number in range(3):
        table.run(book.note(call(f"c{number}", n=number), 600))
    table.run(book.note(call("long", n="long"), 6000))
    wall, mono = clock.wall(), clock.monotonic()
    monkeypatch.setattr(clock, "wall", lambda: wall + 601)
    table.run(book.note(call("early", n="early"), 600))
    assert table.calls() == {"c0", "c1", "c2", "long", "early"}  # one clock alone frees nobody
    monkeypatch.setattr(clock, "monotonic", lambda: mono + 601)
    assert book.find(call("x", n=0)) is None
    table.run(book.note(call("c1", n=1), 600))  # the same call again: its row is a new one
    table.run(book.note(call("new", n="new"), 600))
    assert table.calls() == {"c1", "long", "early", "new"}


def test_rows_go_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of one call does not carry the clearing of a whole table."""
    table, book = Table(), Unresolved(digest)
    for number in range(MAX_CLEARED + 10):
        table.run(book.note(call(f"c{number}", n=number), 600))
    wall, mono = clock.wall(), clock.monotonic()
    monkeypatch.setattr(clock, "wall", lambda: wall + 601)
    monkeypatch.setattr(clock, "monotonic", lambda: mono + 601)
    table.run(book.note(call("a", n="a"), 600))
    assert len(table.rows()) == 10 + 1
    table.run(book.note(call("b", n="b"), 600))
    assert table.calls() == {"a", "b"}


async def test_a_start_clears_the_rows_whose_time_is_over(tmp_path: Path) -> None:
    """With its own record, by the ledger's writer, and the ledger verifies."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "p.yaml").write_text("apiVersion: outrider.dev/v1alpha1\nkind: Policy\n")
    free = Address("127.0.0.1", 0)
    settings = Settings(tmp_path / "policy", tmp_path / "data", free, free, drain_timeout_s=0.0)
    await (await Sidecar.start(settings)).stop()
    database = tmp_path / "data" / "outrider.db"
    with contextlib.closing(sqlite3.connect(database)) as db:
        for call_id, until in (("over", clock.wall() - 1), ("barred", clock.wall() + 600)):
            db.execute("INSERT INTO unresolved (call_id, key, until_wall) VALUES (?, 'k', ?)", (call_id, until))
        db.commit()
    await (await Sidecar.start(settings)).stop()
    with contextlib.closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT call_id FROM unresolved").fetchall() == [("barred",)]
    assert verify(tmp_path / "data").ok

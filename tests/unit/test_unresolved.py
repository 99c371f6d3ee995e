"""A call that may have run bars its like in the same run, until it is settled or both clocks say that it is over."""

from __future__ import annotations

import hashlib

import pytest

from outrider import clock
from outrider.calls import Agent, Call
from outrider.unresolved import Unresolved


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
    book = Unresolved(digest)
    ((_, row),) = book.note(call(), 600)
    again = Unresolved(digest)
    names = ("call_id", "key", "tool", "agent", "run", "since_wall", "until_wall")
    again.restore([dict(zip(names, row, strict=True))])
    assert again.find(call("c2")) is not None and again.get("c1") is not None

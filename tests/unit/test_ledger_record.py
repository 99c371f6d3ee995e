"""One line of the ledger: its bytes, its hash, and that no event is too odd to be written."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider import clock
from outrider.ledger.commit import Head
from outrider.ledger.entry import Scribe
from outrider.ledger.record import (
    GENESIS,
    MAX_LINE_BYTES,
    STARTS,
    Event,
    EventType,
    Stamps,
    decode_line,
    decode_record,
    encode_event,
    leaf_hash,
)
from tests.ledger_kit import event


def line_of(made: Event, **kinds: Any) -> tuple[str, bytes]:
    scribe = Scribe("log", "start")
    entry = scribe.entry(made, kinds.get("args"), kinds.get("result"), kinds.get("redact", ()))
    entry.durable, entry.mutations = False, ()
    batch, _ = scribe.seal([entry], Head(6, "ab" * 32))
    return batch.ledger[7], batch.ledger[8]


def test_a_line_says_where_it_belongs_and_what_happened() -> None:
    """The whole of a small record."""
    line, digest = line_of(event(EventType.ATTEMPT_STARTED, "c1", 2, timing={"queue_ms": 0.5}))
    record = decode_record.decode(line)
    assert list(record)[:8] == ["v", "log_id", "seq", "prev", "id", "ts", "mono_ns", "incarnation"]
    assert record["v"] == 1 and record["log_id"] == "log" and record["incarnation"] == "start"
    assert record["seq"] == 7 and record["prev"] == "ab" * 32
    assert record["type"] == "attempt.started" and record["call_id"] == "c1" and record["attempt"] == 2
    assert record["agent"] == {"name": "researcher", "asserted": True} and record["timing"] == {"queue_ms": 0.5}
    assert record["id"][14] == "7" and isinstance(record["mono_ns"], int)
    assert digest == hashlib.sha256(b"\0" + line.encode()).digest() == leaf_hash(line.encode())


def test_a_line_has_no_line_break_and_leaves_out_what_was_not_said() -> None:
    """JSON Lines: one record, one line."""
    line, _ = line_of(event(detail="two\nlines"))
    assert "\n" not in line and "upstream" not in line and '"detail":"two\\nlines"' in line


def test_digests_and_sizes_of_values_are_in_the_line_and_the_values_are_not() -> None:
    """What was redacted has two digests: of what it was, and of what is stored."""
    line, _ = line_of(event(), args={"token": "s3cret"}, result=[1, 2, 3])
    record = decode_record.decode(line)
    assert len(record["args_digest"]) == len(record["args_stored"]) == len(record["result_digest"]) == 64
    assert record["args_bytes"] == len('{"token":"s3cret"}') and record["result_bytes"] == len("[1,2,3]")
    assert "result_stored" not in record and "s3cret" not in line and "[1,2,3]" not in line


def test_no_field_is_in_a_line_twice_when_the_caller_brings_digests() -> None:
    """A result that stayed in the agent's process brings its size, and its digest becomes a salted one."""
    made = event(EventType.ATTEMPT_FINISHED, result_digest="cd" * 32, result_bytes=9_999_999, args_digest="x")
    line, _ = line_of(made, args={"a": 1}, result={"view": 1})
    record = decode_record.decode(line)
    assert record["result_bytes"] == 9_999_999
    assert "cd" * 32 not in line and line.count('"result_digest"') == line.count('"args_digest"') == 1
    assert record["result_stored"] and record["result_stored"] != record["result_digest"]


def test_lines_form_a_chain() -> None:
    """Each names the hash of the one before; the first names GENESIS."""
    scribe = Scribe("log", "start")
    entries = [scribe.entry(event(), None, None, ()) for _ in range(3)]
    for entry in entries:
        entry.durable, entry.mutations = False, ()
    batch, head = scribe.seal(entries, Head())
    lines = [batch.ledger[at + 7] for at in range(0, 27, 9)]
    prevs = [decode_line.decode(line).prev for line in lines]
    assert prevs == [GENESIS, leaf_hash(lines[0].encode()).hex(), leaf_hash(lines[1].encode()).hex()]
    assert head == Head(3, leaf_hash(lines[2].encode()).hex())


def test_what_begins_something_is_a_start_and_everything_else_is_not() -> None:
    """While the ledger cannot be written, only starts are refused at once."""
    assert {EventType.CALL_RECEIVED, EventType.CALL_DECIDED, EventType.ATTEMPT_STARTED} == STARTS


@given(second=st.integers(0, 2**32), micros=st.integers(0, 999_999))
def test_times_are_written_like_the_clocks_own(second: int, micros: int) -> None:
    """RFC 3339, UTC, six digits, whatever second came before."""
    stamps = Stamps()
    stamps.text(5_000_000)
    text = stamps.text(second * 1_000_000 + micros)
    assert text == f"{clock.stamp(second)[:20]}{micros:06d}Z" and len(text) == 27


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def recursive() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    "odd",
    [
        {"detail": "lone \ud800 surrogate"},
        {"call_id": "\udfff"},
        {"data": {"x": Unspeakable()}},
        {"data": recursive()},
        {"data": {"x": "y" * MAX_LINE_BYTES}},
        {"data": {(1, 2): 3}},
        {"agent": {"name": "\ud800", "labels": {"a": Unspeakable()}}},
        {"detail": "z" * 100_000, "caller_ref": "q" * 100_000},
        {"timing": {"took_ms": float("inf")}},
        {"attempt": 2**70},
    ],
)
def test_an_event_that_cannot_be_written_as_it_is_is_cut_never_lost(odd: dict[str, Any]) -> None:
    """Only its trimmings go; the line stays short and readable, and the columns are those of the line."""
    made, body = encode_event(event(EventType.ATTEMPT_FINISHED, **{"call_id": "c1", "attempt": 1, **odd}))
    assert len(body) <= MAX_LINE_BYTES
    decoded = decode_record.decode(body)
    assert decoded["type"] == "attempt.finished" and decoded["tool"] == "local.search"
    assert decoded.get("call_id", "") == made.call_id
    made.call_id.encode()


@given(st.binary(max_size=200))
def test_any_line_can_be_hashed(line: bytes) -> None:
    """The hash is of the bytes; no canonical form, no parsing."""
    assert leaf_hash(line) == hashlib.sha256(b"\0" + line).digest()


def test_every_field_of_an_event_can_be_left_out_but_its_type() -> None:
    """Callers say what they know."""
    assert msgspec.json.decode(encode_event(Event(type=EventType.RECOVERED))[1]) == {"type": "recovered"}

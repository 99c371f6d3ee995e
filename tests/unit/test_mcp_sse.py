"""Server-sent events are read the same however the bytes come, and never without a bound."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.upstreams.mcp.sse import MAX_LINE_BYTES, Event, Parser, TooLarge


def read(*chunks: bytes, max_bytes: int = 1000) -> list[Event]:
    parser = Parser(max_bytes)
    return [event for chunk in chunks for event in parser.feed(chunk)]


TEXT = 'id: 7\nretry: 250\ndata: {"a":\ndata: 1}\n\n: a comment\nevent: message\ndata:x\n\nid\n\ndata: é\n\n'
EVENTS = [Event('{"a":\n1}', "7", 250), Event("x"), Event("", ""), Event("é")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_every_kind_of_line_end_ends_a_line(newline: str) -> None:
    """The standard knows three."""
    assert read(TEXT.replace("\n", newline).encode()) == EVENTS


@given(cuts=st.lists(st.integers(0, 200)), newline=st.sampled_from(["\n", "\r\n", "\r"]))
def test_it_does_not_matter_where_the_network_cuts(cuts: list[int], newline: str) -> None:
    """Also between CR and LF, and inside a character."""
    whole = ("\ufeff" + TEXT).replace("\n", newline).encode()
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    assert read(*(whole[one:other] for one, other in pairwise(places))) == EVENTS


def test_an_event_that_is_not_ended_is_none() -> None:
    """A connection that breaks in the middle leaves nothing half."""
    assert read(b"data: whole\n\ndata: half\n") == [Event("whole")]


@pytest.mark.parametrize(
    "endless",
    [
        b"data: " + b"x" * (MAX_LINE_BYTES + 5000),
        b"data: x\n" * 5000,
        b"x" * (MAX_LINE_BYTES + 5000),
        b"event: " + b"x" * MAX_LINE_BYTES + b"\n",
    ],
    ids=["data", "lines of data", "no line end", "another field"],
)
def test_what_has_no_end_is_not_gathered(endless: bytes) -> None:
    """Memory is bounded by what is allowed, whatever a server sends."""
    with pytest.raises(TooLarge):
        read(*(endless[at : at + 100] for at in range(0, len(endless), 100)))


def test_what_is_no_text_is_told() -> None:
    """Never guessed."""
    with pytest.raises(UnicodeDecodeError):
        read(b"data: \xff\n\n")

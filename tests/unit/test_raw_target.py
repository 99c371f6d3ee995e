"""The target of a raw request: one spelling, or none."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.raw.target import BadTarget, read_target

REFUSED = [
    "/http/up/..", "/http/up/../x", "/http/up/a/../../b", "/http/up/.", "/http/up/%2e%2e/x", "/http/up/%2E%2e/x",
    "/http/up/.%2e/x", "/http/up/%2e/x", "/http/up//x", "/http/up/a//b", "/http/up/a//", "/http/up/a%2fb",
    "/http/up/a%2Fb", "/http/up/a\\b", "/http/up/a%5cb", "/http/up/a;x=1", "/http/up/a%3bx=1", "/http/up/a%00",
    "/http/up/a%0d%0aHost:%20x", "/http/up/a%7f", "/http/up/%252e%252e/x", "/http/up/%25%32%65", "/http/up/%c0%ae",
    "/http/up/%ff", "/http/up/%zz", "/http/up/%", "/http/up/a b", "/http/up/a\tb", "/http/up/é", "/http/up/a?x=1#y",
    "/http/up/a#y", "/http/up/a?x=1;y=2", "/http/up/a?x=%zz", "/http/up/a?x y", "/http/up/%ef%bc%8e%ef%bc%8e/x",
    "/http/up/a%ef%bc%8fb", "/http/up/%ef%bc%852e", "http://other/http/up/x", "https://user:word@other/http/up/x",
    "//http/up/x", "/HTTP/up/x", "/%68ttp/up/x", "*", "up:80", "", "/http/up/" + "a" * 9000,
    "/http/up/a\r\nHost: x", "/http/up/a\x00", "/http/up/a|b", "/http/up/<a>", "/http/up/%e2%80%a4%e2%80%a4/x",
]  # fmt: skip
SAME = {
    "/http/up": "/",
    "/http/up/": "/",
    "/http/up/a": "/a",
    "/http/up/a/": "/a/",
    "/http/up/%61%2Db%7e": "/a-b~",
    "/http/up/a%c3%a9": "/a%C3%A9",
    "/http/up/a%20b": "/a%20b",
    "/http/up/a%2bb+c": "/a%2Bb+c",
    "/http/up/100%25": "/100%25",
    "/http/up/a...b": "/a...b",
    "/http/up/a:b@c,d=e&f!(g)*'h'$i": "/a:b@c,d=e&f!(g)*'h'$i",
    "/http/up/x?q=%2e%2E/..//a|b{c}": "/x?q=%2e%2E/..//a|b{c}",
}


@pytest.mark.parametrize("raw", REFUSED, ids=ascii)
def test_what_servers_read_in_different_ways_is_refused(raw: str) -> None:
    """Nothing of it is guessed at, and nothing of it is mended."""
    with pytest.raises(BadTarget):
        read_target(raw)


@pytest.mark.parametrize(("raw", "sent"), SAME.items(), ids=ascii)
def test_what_means_the_same_is_sent_in_one_spelling(raw: str, sent: str) -> None:
    """Escapes of unreserved characters are undone, the rest stays as it came."""
    assert read_target(raw).text == sent


@given(st.text(alphabet="abAB/.%2eEfF5cC;\\?#=&+ \x00\r\n~é．", max_size=30))
def test_what_is_sent_is_what_was_read(rest: str) -> None:
    """Whatever is let through has segments that are not empty, no dots, and nothing that hides; read once more, it says
    the same."""
    try:
        target = read_target("/http/up/" + rest)
    except BadTarget:
        return
    again = read_target("/http/up" + target.text)
    assert (again.path, again.segments, again.query) == (target.path, target.segments, target.query)
    path, slash, _ = target.path.partition("?")
    assert not slash and path.startswith("/") and "//" not in path and path.isascii()
    for segment in target.segments:
        assert segment not in {"", ".", ".."} and not set(segment) & set("/\\;\x00\r\n")
        assert unquote(segment) == segment
    assert tuple(unquote(part) for part in path.strip("/").split("/") if part) == target.segments

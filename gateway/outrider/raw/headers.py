"""Which headers go on, and which stay: those of the connection (RFC 9110, section 7.6.1) and Outrider's own stay."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Final

from outrider.upstreams.streaming import Headers

OF_THE_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"}
    | {b"trailer", b"transfer-encoding", b"upgrade"}
)
OF_A_REQUEST: Final = OF_THE_CONNECTION | {b"host", b"content-length", b"expect", b"http2-settings"}
OF_AN_ANSWER: Final = OF_THE_CONNECTION
OWN: Final = b"outrider-"
OVERRIDES: Final = frozenset(
    {b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url"}
)
"""Headers by which some servers read another method or path than the request line's, which the rules see."""


class _Sort(Enum):
    """What a header is, by its name alone."""

    PLAIN = 0
    NAMES_OTHERS = 1  # Connection
    STAYS = 2
    AUTHORIZATION = 3
    OVERRIDES = 4


@lru_cache(maxsize=4096)
def _sort_of(name: bytes, drop: frozenset[bytes]) -> _Sort:
    """Remembered: clients say the same names again and again, and a name is bounded by the server's own limit."""
    plain = name.lower()
    spelled = plain.replace(b"_", b"-")
    if spelled in OVERRIDES:
        return _Sort.OVERRIDES
    if plain == b"connection":
        return _Sort.NAMES_OTHERS
    if plain in drop or spelled.startswith(OWN):
        return _Sort.STAYS
    return _Sort.AUTHORIZATION if plain == b"authorization" else _Sort.PLAIN


def overriding(headers: Headers) -> str:
    """The first header that would make it another request, empty where there is none."""
    for name, _ in headers:
        if _sort_of(name, OF_A_REQUEST) is _Sort.OVERRIDES:
            return name.decode("latin-1")
    return ""


def of_request(headers: Headers, authorization: bytes | None) -> Headers:
    """What goes to the upstream. ``authorization`` is the client's own where that is forwarded."""
    kept = _kept(headers, OF_A_REQUEST, without=_Sort.AUTHORIZATION)
    return tuple(kept) if authorization is None else (*kept, (b"Authorization", authorization))


def of_answer(headers: Headers) -> list[tuple[str, str]]:
    """What goes to the client."""
    return [(_text(name), _text(value)) for name, value in _kept(headers, OF_AN_ANSWER)]


def _kept(headers: Headers, drop: frozenset[bytes], without: _Sort | None = None) -> list[tuple[bytes, bytes]]:
    kept = []
    named: set[bytes] = set()
    for pair in headers:
        sort = _sort_of(pair[0], drop)
        if sort is _Sort.NAMES_OTHERS:
            named.update(word.strip().lower() for word in pair[1].split(b","))
        elif sort is not _Sort.STAYS and sort is not without:
            kept.append(pair)
    return [pair for pair in kept if pair[0].lower() not in named] if named else kept


def _text(value: bytes) -> str:
    """Bytes that are no UTF-8 are taken for Latin-1, as HTTP once was."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")

"""Which headers go on, and which stay: those of the connection (RFC 9110, section 7.6.1) and Outrider's own stay."""

from __future__ import annotations

from collections.abc import Iterable
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


def overriding(headers: Headers) -> str:
    """The first header that would make it another request, empty where there is none."""
    return next((name.decode("latin-1") for name, _ in headers if name.lower().replace(b"_", b"-") in OVERRIDES), "")


def of_request(headers: Headers, authorization: bytes | None) -> Headers:
    """What goes to the upstream. ``authorization`` is the client's own where that is forwarded."""
    drop = OF_A_REQUEST | _named_by_connection(headers)
    kept = tuple(pair for pair in headers if not _stays(pair[0].lower(), drop) and pair[0].lower() != b"authorization")
    return kept if authorization is None else (*kept, (b"Authorization", authorization))


def of_answer(headers: Headers) -> Iterable[tuple[str, str]]:
    """What goes to the client."""
    drop = OF_AN_ANSWER | _named_by_connection(headers)
    return [(_text(name), _text(value)) for name, value in headers if not _stays(name.lower(), drop)]


def _stays(name: bytes, drop: frozenset[bytes]) -> bool:
    return name in drop or name.replace(b"_", b"-").startswith(OWN)


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    values = [value for name, value in headers if name.lower() == b"connection"]
    return frozenset(word.strip().lower() for value in values for word in value.split(b","))


def _text(value: bytes) -> str:
    """Bytes that are no UTF-8 are taken for Latin-1, as HTTP once was."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")

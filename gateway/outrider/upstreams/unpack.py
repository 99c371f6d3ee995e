"""Answers that came compressed (RFC 9110, section 8.4.1), within a limit: a small one may unpack to a huge one."""

from __future__ import annotations

import zlib

_ANY_WRAPPER = 32 + zlib.MAX_WBITS
_NO_WRAPPER = -zlib.MAX_WBITS


class Unreadable(ValueError):
    """What came is not a whole answer."""


class TooLarge(Unreadable):
    """The answer is larger than the policy allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the answer is larger than {limit} bytes (http.maxResponse of the upstream)")


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """The plain bytes, at most ``limit``. Raises TooLarge; Unreadable: damaged, or packed as nobody asked for."""
    if encoding == "identity":
        return body
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise Unreadable(f"the answer is packed as {encoding!r}, which was not asked for")
    try:
        return _inflate(body, _ANY_WRAPPER, limit)
    except zlib.error as error:
        if encoding == "deflate":  # some servers mean the bare stream
            return _inflate_bare(body, limit)
        raise Unreadable(f"the answer is packed and cannot be unpacked: {error}") from error


def _inflate_bare(body: bytes, limit: int) -> bytes:
    try:
        return _inflate(body, _NO_WRAPPER, limit)
    except zlib.error as error:
        raise Unreadable(f"the answer is packed and cannot be unpacked: {error}") from error


def _inflate(body: bytes, wrapper: int, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while body:  # gzip may have several members, one after the other
        member = zlib.decompressobj(wrapper)
        parts.append(member.decompress(body, limit + 1 - size))
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(limit)
        if not member.eof:
            raise Unreadable("the packed answer ends too early")
        body = member.unused_data
    return b"".join(parts)

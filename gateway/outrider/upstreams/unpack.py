"""Answers that came compressed (RFC 9110, section 8.4.1), within a limit: a small one may unpack to a huge one."""

from __future__ import annotations

import zlib
from typing import Final

MAX_PARTS: Final = 4096
"""Compressed members in one answer. Each costs some microseconds and a copy of what follows in its bite."""
BITE_BYTES: Final = 16 * 1024
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
    """Bite by bite: what follows a member is copied, and a body may be nothing but tiny members (gzip has several)."""
    parts: list[bytes] = []
    size = at = members = 0
    member = None
    while at < len(body):
        if member is None:
            members += 1
            if members > MAX_PARTS:
                raise Unreadable(f"the answer is packed in more than {MAX_PARTS} parts")
            member = zlib.decompressobj(wrapper)
        bite = body[at : at + BITE_BYTES]
        parts.append(member.decompress(bite, limit + 1 - size))
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(limit)
        at += len(bite) - len(member.unused_data)
        if member.eof:
            member = None
    if member is not None:
        raise Unreadable("the packed answer ends too early")
    return b"".join(parts)

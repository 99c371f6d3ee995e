"""The target of a raw request: read once, written in one way, and sent as it is written.

What could be read differently by a server behind us is refused, not mended: dot segments, encoded slashes, empty
segments, path parameters, control characters, escapes of escapes.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

PREFIX: Final = "/http/"
MAX_CHARS: Final = 8000
_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(r"(?:[\x21\x22\x24\x26-\x3a\x3c-\x7e]|%[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\;]|%[0-9A-Fa-f]{2}")
_LOOKALIKES = frozenset("./\\;%")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""What means the same with an escape and without (RFC 3986, section 2.3)."""


class BadTarget(ValueError):
    """A target that is refused; the sentence says why, and what to write."""


@dataclass(frozen=True, slots=True)
class Target:
    """``path`` is canonical and begins with a slash; ``segments`` are its parts, decoded, without the empty one that a
    slash at the end makes. ``query`` is as it came, empty where there is none."""

    upstream: str
    path: str
    segments: tuple[str, ...]
    query: str

    @property
    def text(self) -> str:
        """As it is sent."""
        return f"{self.path}?{self.query}" if self.query else self.path


def read_target(raw: str) -> Target:
    """Raises BadTarget."""
    if not raw.startswith(PREFIX):
        raise BadTarget("The target begins with /http/UPSTREAM/. This is no forward proxy: set your client's base URL.")
    if len(raw) > MAX_CHARS:
        raise BadTarget(f"The target is longer than {MAX_CHARS} characters.")
    whole, _, query = raw.partition("?")
    if not _QUERY.fullmatch(query):
        raise BadTarget("The query holds a character that must be percent-encoded (';', '#', a space, a broken '%').")
    upstream, _, path = whole[len(PREFIX) :].partition("/")
    parts = path.split("/")
    slash_at_end = parts[-1] == ""
    if slash_at_end:
        parts.pop()
    segments = tuple(_decoded(part) for part in parts)
    written = "/" + "/".join(_ESCAPE.sub(_normal, part) for part in parts)
    if slash_at_end and segments:
        written += "/"
    return Target(upstream, written, segments, query)


def _decoded(part: str) -> str:
    """One segment as text. Raises BadTarget."""
    if not part:
        raise BadTarget("The path holds an empty segment ('//').")
    if not _SEGMENT.fullmatch(part):
        raise BadTarget(f"The path holds what must be percent-encoded, or is refused (';', '\\'): {part[:80]!a}.")
    try:
        text = unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise BadTarget(f"The path holds an escape that is no UTF-8: {part[:80]!a}.") from None
    if text in {".", ".."}:
        raise BadTarget("The path holds a dot segment ('.' or '..', however it is written).")
    if found := _FORBIDDEN.search(text):
        raise BadTarget(
            f"The path holds an encoded {_named(found[0])}, which servers read in different ways. A value with it can "
            "be sent by POST /v1/call."
        )
    if not text.isascii() and _LOOKALIKES & (set(unicodedata.normalize("NFKC", text)) - set(text)):
        raise BadTarget("The path holds a character that some servers read as '.', '/', '\\', ';' or '%'.")
    return text


def _normal(escape: re.Match[str]) -> str:
    character = chr(int(escape[0][1:], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def _named(text: str) -> str:
    if _ESCAPE.fullmatch(text):
        return "escape"
    return "control character" if not text.isprintable() else f"'{text}'"

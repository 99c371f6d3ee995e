"""Server-sent events, read as they come (WHATWG HTML, section 9.2.6): bytes in, events out, sizes bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINE_BYTES = 64 * 1024
"""Of a line that is not data."""


class TooLarge(ValueError):
    """An event, or a line of one, is larger than it may be."""


@dataclass(frozen=True, slots=True)
class Event:
    """``id`` is None where none was said. ``retry_ms``: how long the server asks to wait before a reconnection."""

    data: str
    id: str | None = None
    retry_ms: int | None = None


class Parser:
    """Feed it chunks. ``max_bytes`` bounds the data of one event."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = b""
        self._begun = False
        self._after_cr = False
        self._data: list[str] = []
        self._size = 0
        self._id: str | None = None
        self._retry_ms: int | None = None

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that this chunk completes; one without data too, where it says an id or a pause. Raises TooLarge,
        and ValueError for what is no UTF-8."""
        if self._after_cr and chunk:  # the CR that ended the chunk before may have been half of a CRLF
            chunk = chunk[1:] if chunk.startswith(b"\n") else chunk
            self._after_cr = False
        self._after_cr = chunk.endswith(b"\r")
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            yield from self._line(line)
        if len(self._rest) + self._size > self._max_bytes + MAX_LINE_BYTES:
            raise TooLarge(f"an event is larger than {self._max_bytes} bytes")

    def _line(self, line: bytes) -> Iterator[Event]:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line:
            self._field(line)
            return
        if self._data or self._id is not None or self._retry_ms is not None:
            yield Event("\n".join(self._data), self._id, self._retry_ms)
        self._data, self._size, self._id, self._retry_ms = [], 0, None, None

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._max_bytes:
                raise TooLarge(f"an event is larger than {self._max_bytes} bytes")
            self._data.append(value.decode())
        elif len(line) > MAX_LINE_BYTES:
            raise TooLarge(f"a line is larger than {MAX_LINE_BYTES} bytes")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode()
        elif name == b"retry" and value.isdigit() and len(value) <= 9:
            self._retry_ms = int(value)

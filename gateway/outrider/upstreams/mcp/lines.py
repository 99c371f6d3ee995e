"""Lines out of what a pipe gives, with a bound. Pure."""

from __future__ import annotations

from collections.abc import Iterator


class TooLong(Exception):
    """A line that does not end within the bound."""


class Lines:
    """Fed with chunks, it tells the lines that are complete. What it keeps meanwhile is at most one line."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in this chunk, without their ends. Raises TooLong."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._keep(part)
            whole = part if len(self._parts) == 1 else b"".join(self._parts)
            self._parts, self._size = [], 0
            yield whole.removesuffix(b"\r")
        if rest:
            self._keep(rest)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max_bytes:
            raise TooLong(f"a line is longer than {self._max_bytes} bytes")
        self._parts.append(part)

"""What a child says on stderr goes to the log: a line each, bounded, not too many at once, without its secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from outrider import clock
from outrider.policy.plans import Secret
from outrider.upstreams.mcp.lines import Lines, TooLong

MAX_LINE_BYTES = 16 * 1024
"""A longer one is not shown."""
MAX_SHOWN_CHARS = 2000
LINES_PER_S = 20.0
BURST = 100
LEAST_SECRET_CHARS = 4
"""What is shorter is not looked for: it would hide half of every line."""

log = logging.getLogger("outrider.mcp.child")


class ChildLog:
    """Of one upstream, over all of its children."""

    def __init__(self, upstream: str, env: Mapping[str, str | Secret]) -> None:
        self._upstream = upstream
        self._hidden = [
            (value.reveal(), str(value))
            for value in env.values()
            if isinstance(value, Secret) and len(value.reveal()) >= LEAST_SECRET_CHARS
        ]
        self._hidden.sort(key=lambda pair: len(pair[0]), reverse=True)
        self._tokens = float(BURST)
        self._filled_at = 0.0
        self._unsaid = 0
        self.left_out = 0
        self.last = ""

    async def drain(self, stream: asyncio.StreamReader) -> None:
        """Until the stream ends. It is read whatever becomes of the lines, so that no child waits for us."""
        lines = Lines(MAX_LINE_BYTES)
        while chunk := await stream.read(MAX_LINE_BYTES):
            try:
                for line in lines.feed(chunk):
                    self.line(line)
            except TooLong:
                self._leave_out()
                lines = Lines(MAX_LINE_BYTES)

    def line(self, line: bytes) -> None:
        """One line."""
        text = self.shown(line.decode("utf-8", "replace"))
        if not text.strip():
            return
        self.last = text
        if not self._may_say(clock.monotonic()):
            self._leave_out()
            return
        if self._unsaid:
            log.warning("lines of a child were left out", extra={"upstream": self._upstream, "lines": self._unsaid})
            self._unsaid = 0
        log.info(text, extra={"upstream": self._upstream})

    def shown(self, text: str) -> str:
        """The text without the secrets that the child was given."""
        for secret, name in self._hidden:
            text = text.replace(secret, name)
        return text[:MAX_SHOWN_CHARS]

    def _leave_out(self) -> None:
        self._unsaid += 1
        self.left_out += 1

    def _may_say(self, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * LINES_PER_S)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

"""The board, read once a second for however many pages are open, and not at all while none is.

A page gets the whole board first and then what changed. One that was too slow to take every change gets the whole
again: nothing is kept for it, so no page makes this process grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import msgspec

from outrider import clock
from outrider.console.board import Board, changes, whole
from outrider.pulse import WORDS

log = logging.getLogger("outrider.console")

EVERY_S = 1.0
REST_S = 0.25
"""Between two readings, however long one takes."""
HEARTBEAT_S = 5.0
MAX_READERS = 32
TROUBLE = "A fault in Outrider keeps this page from being renewed; see the sidecar's log."

Read = Callable[[], Awaitable[Board]]


class TooMany(Exception):
    """``MAX_READERS`` pages are open."""


class Frame:
    """The board at one moment; ``change`` leads to it from the one before, ``whole`` is made when somebody needs it."""

    __slots__ = ("board", "change", "number", "whole")

    def __init__(self, number: int, board: Board, change: bytes) -> None:
        self.number = number
        self.board = board
        self.change = change
        self.whole = b""


class Live:
    """One for a sidecar; a reader for each page."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._frame: Frame | None = None
        self._turned = asyncio.Event()
        self._ticking: asyncio.Task[None] | None = None
        self._readers = 0
        self._numbers = 0
        self.closed = False

    def reader(self) -> Reader:
        """For one page; use it with ``with``. Raises TooMany."""
        if self._readers >= MAX_READERS:
            raise TooMany
        return Reader(self)

    def close(self) -> None:
        """The listener closes: whoever waits is told that there is no more."""
        self.closed = True
        self._turned.set()

    def _enter(self) -> None:
        self._readers += 1
        if self._ticking is None:
            self._frame = None
            self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def _leave(self) -> None:
        self._readers -= 1
        if self._readers == 0 and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    async def _tick(self) -> None:
        while True:
            began = clock.monotonic()
            self._publish(await self._look())
            await asyncio.sleep(max(REST_S, EVERY_S - (clock.monotonic() - began)))

    async def _look(self) -> Board:
        try:
            return await self._read()
        except Exception:  # the page says so, and keeps what it had
            log.exception("the console's board cannot be read")
            before = self._frame.board if self._frame is not None else Board({}, {})
            return Board(before.head | {"trouble": TROUBLE}, before.tables, before.second, before.pulse)

    def _publish(self, board: Board) -> None:
        before = self._frame
        self._numbers += 1
        change = b"" if before is None else _message("change", self._numbers, changes(before.board, board))
        self._frame = Frame(self._numbers, board, change)
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    def whole(self, frame: Frame) -> bytes:
        """Everything, for a page that has nothing yet or missed something."""
        if not frame.whole:
            frame.whole = _message("board", frame.number, whole(frame.board))
        return frame.whole

    async def after(self, number: int) -> Frame | None:
        """A frame newer than ``number``; None when there is none for ``HEARTBEAT_S``, or no more."""
        frame = self._newer(number)
        if frame is None and not self.closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._turned.wait(), HEARTBEAT_S)
            frame = self._newer(number)
        return frame

    def _newer(self, number: int) -> Frame | None:
        return self._frame if self._frame is not None and self._frame.number > number else None


class Reader:
    """One open page."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._seen = 0

    def __enter__(self) -> Reader:
        self._live._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live._leave()

    async def next(self) -> bytes | None:
        """The next thing to send, a comment where nothing is new. None: the listener closes."""
        frame = await self._live.after(self._seen)
        if self._live.closed:
            return None
        if frame is None:
            return b": still here\n\n"
        missed = frame.number != self._seen + 1
        self._seen = frame.number
        return self._live.whole(frame) if missed or not frame.change else frame.change


def _message(kind: str, number: int, told: dict[str, Any]) -> bytes:
    """One server-sent event. JSON is one line, so it is one line of data."""
    now_ms = int(clock.wall() * 1000)
    body = {"number": number, "now": now_ms, "words": WORDS, **told}
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode(body))


_encode = msgspec.json.Encoder(enc_hook=str).encode

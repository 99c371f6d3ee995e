"""Adds a credential to whatever passes, and changes nothing else: the official suite's client has none to send.

One request a connection, so that the head of each passes here; after it both ways are bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType

MAX_HEAD_BYTES = 64 * 1024


class Bearer:
    """``async with Bearer(host, port, token) as bearer:`` serves on ``bearer.port``."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._far = (host, port)
        self._line = f"Authorization: Bearer {token}\r\nConnection: close\r\n".encode()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Bearer:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _pass(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await near.readuntil(b"\r\n\r\n")
            first, *lines = head.split(b"\r\n")
            kept = [line for line in lines if not line.lower().startswith(b"connection:")]
            far, forth = await asyncio.open_connection(*self._far)
            forth.write(first + b"\r\n" + self._line + b"\r\n".join(kept))
            ways = [asyncio.create_task(_copy(near, forth)), asyncio.create_task(_copy(far, back))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            forth.close()
        back.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await source.read(64 * 1024):
            target.write(chunk)
            await target.drain()

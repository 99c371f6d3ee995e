"""Adds a credential to whatever passes, and changes nothing else: the official suite's client has none to send. With a
``prefix`` it also puts that before the names of the tools that are called, in the body and in the header that repeats
it: at the endpoint of all servers a tool has its server's name before its own.

One request a connection, so that the head of each passes here; after it both ways are bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from types import TracebackType

MAX_HEAD_BYTES = 64 * 1024
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
NAME = re.compile(rb"(?i)^mcp-name: *")


class Bearer:
    """``async with Bearer(host, port, token) as bearer:`` serves on ``bearer.port``."""

    def __init__(self, host: str, port: int, token: str, prefix: str = "") -> None:
        self._far = (host, port)
        self._line = f"Authorization: Bearer {token}\r\nConnection: close\r\n".encode()
        self._prefix = prefix
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
            length = LENGTH.search(head)
            body = await near.readexactly(int(length[1])) if length is not None and self._prefix else b""
            if body:
                head, body = renamed(head, body, self._prefix.encode())
            first, *lines = head.split(b"\r\n")
            kept = [line for line in lines if not line.lower().startswith(b"connection:")]
            far, forth = await asyncio.open_connection(*self._far)
            forth.write(first + b"\r\n" + self._line + b"\r\n".join(kept) + body)
            ways = [asyncio.create_task(_copy(near, forth)), asyncio.create_task(_copy(far, back))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            forth.close()
        back.close()


def renamed(head: bytes, body: bytes, prefix: bytes) -> tuple[bytes, bytes]:
    """The same request with the prefix before the tool's name, where it is a call of a tool without one. What a header
    says is told as it was: a header that contradicts the body still does."""
    try:
        message = json.loads(body)
        name = message["params"]["name"] if message["method"] == "tools/call" else ""
    except (ValueError, KeyError, TypeError):
        return head, body
    if not isinstance(name, str) or not name or name.startswith(prefix.decode()):
        return head, body
    message["params"]["name"] = prefix.decode() + name
    changed = json.dumps(message).encode()
    lines = [NAME.sub(lambda found: found[0] + prefix, line) for line in head.split(b"\r\n")]
    return LENGTH.sub(b"\r\nContent-Length: %d" % len(changed), b"\r\n".join(lines)), changed


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await source.read(64 * 1024):
            target.write(chunk)
            await target.drain()

"""One answer as it comes in, and the connection that it comes in on: bodies of any length in constant memory."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

import httptools

from outrider.upstreams.http1 import MAX_HEAD_BYTES, Connection, Origin
from outrider.upstreams.unpack import Unreadable

HIGH_WATER: Final = 256 * 1024
"""Of a body that nobody has read yet; past it the server is made to wait."""
LOW_WATER: Final = 64 * 1024
Headers = tuple[tuple[bytes, bytes], ...]
"""As they stand on the wire, in their order, repeated ones too."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers of an answer."""

    status: int
    reason: str
    headers: Headers

    def first(self, name: bytes) -> str:
        """The value of the first header of that lower-case name, empty where there is none."""
        return next((value.decode("latin-1").strip() for key, value in self.headers if key.lower() == name), "")


class Incoming:
    """The answer to one request. The parser's methods are called by httptools."""

    def __init__(self, transport: asyncio.Transport, head_only: bool) -> None:
        self.head: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.may_be_followed = False  # the connection may carry another exchange
        self._transport = transport
        self._head_only = head_only
        self._parser = httptools.HttpResponseParser(self)
        self._reason = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._error: Exception | None = None
        self._wake: asyncio.Future[None] | None = None

    @property
    def failed(self) -> bool:
        return self._error is not None

    @property
    def has_something(self) -> bool:
        """Whether ``read`` would not wait."""
        return bool(self._parts)

    async def read(self) -> bytes:
        """What is there of the body, waiting for something; empty at its end. Raises OSError and Unreadable."""
        while not self._parts and not self.ended:
            if self._error is not None:
                raise self._error
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return part

    def feed(self, data: bytes) -> None:
        """Bytes of the server."""
        if self.ended or self.failed:
            self.may_be_followed = False  # nobody asked for more
            return
        if not self.head.done():
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail(Unreadable("the server switches to another protocol"))
        except httptools.HttpParserError as error:
            self.fail(Unreadable(f"the answer is not HTTP: {error}"))
        if not self.head.done() and self._head_bytes > MAX_HEAD_BYTES:
            self.fail(Unreadable(f"the answer's headers are longer than {MAX_HEAD_BYTES} bytes"))

    def lost(self, error: Exception | None, server_ended: bool) -> None:
        """The connection is gone."""
        if self.ended or self.failed:
            return
        if error is not None or not self.head.done():
            self.fail(error or ConnectionResetError("the server closed the connection without an answer"))
        elif server_ended and self._ends_with_the_connection():
            self._end()
        else:
            self.fail(Unreadable("the server closed the connection in the middle of its answer"))

    def fail(self, error: Exception) -> None:
        self._error = error
        self.may_be_followed = False
        if not self.head.done():
            self.head.set_exception(error)
            self.head.exception()  # whoever was to read it may be gone by now
        self._awaken()

    def _ends_with_the_connection(self) -> bool:
        """Nothing else says where its body ends (RFC 9112, section 6.3)."""
        return not {b"content-length", b"transfer-encoding"} & {name.lower() for name, _ in self._headers}

    def _end(self) -> None:
        self.ended = True
        self._awaken()

    def _awaken(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ── the parser's calls ───────────────────────────────────────────────────────────────────────────────────────

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head.done():  # what follows the body are trailers, which are not passed on
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.head.set_result(Head(status, self._reason.decode("latin-1"), tuple(self._headers)))
        if self._head_only:
            self._end()  # the parser would wait for a body that never comes: this connection is not used again

    def on_body(self, part: bytes) -> None:
        if self.ended:
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._awaken()

    def on_message_complete(self) -> None:
        if not self.head.done():  # an interim answer: the real one follows
            self._reason, self._headers = b"", []
        elif not self.ended:
            self.may_be_followed = self._parser.should_keep_alive()
            self._end()


class StreamConnection(Connection):
    """One connection whose answers are read as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._incoming: Incoming | None = None
        self._free: asyncio.Future[None] | None = None

    def begin(self, request: bytes, *, head_only: bool) -> Incoming:
        """Send the head of a request, with its body where that is short."""
        assert self.transport is not None and self.usable
        self.usable = False
        incoming = self._incoming = Incoming(self.transport, head_only)
        self.transport.write(request)
        return incoming

    async def send(self, part: bytes) -> None:
        """More of the request. Waits while the server does not take it. Raises OSError."""
        assert self.transport is not None
        if self.transport.is_closing():
            raise ConnectionResetError("the server closed the connection before it had the whole request")
        self.transport.write(part)
        if self._free is not None:
            await self._free

    def end(self, *, whole: bool) -> None:
        """The exchange is over. ``whole``: the request was sent to its end."""
        incoming, self._incoming = self._incoming, None
        self.usable = whole and incoming is not None and incoming.ended and incoming.may_be_followed
        if not self.usable and self.transport is not None:
            self.transport.abort()

    # ── the transport's calls ────────────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        self._free = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        free, self._free = self._free, None
        if free is not None and not free.done():
            free.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._incoming is not None:
            self._incoming.feed(data)
        else:
            super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._incoming is not None:
            self._incoming.lost(error, self._server_ended)
        self.resume_writing()
        super().connection_lost(error)


class StreamOrigin(Origin):
    """The connections of raw requests to one base URL."""

    kind = StreamConnection

    def head(self, method: str, target: str, headers: Headers) -> bytes:
        """The head of a request. ``headers`` say where its body ends, and who is spoken to is ours to say. Raises
        ValueError: something in it cannot be sent as it is."""
        lines = [f"{method} {self._target}{target} HTTP/1.1".encode(), b"Host: " + self._host.encode()]
        if self._proxy_credentials:
            lines.append(b"Proxy-Authorization: " + self._proxy_credentials.encode())
        lines += [name + b": " + value for name, value in headers]
        head = b"\r\n".join(lines)
        breaks = len(lines) - 1
        if head.count(b"\r") != breaks or head.count(b"\n") != breaks or b"\0" in head or lines[0].count(b" ") != 2:
            raise ValueError("a control character or a space where none may be")
        return head + b"\r\n\r\n"

"""HTTP/1.1 to one origin: kept connections, one request at a time on each, and nothing sent that was not asked for.

Why not a client library here: what an attempt needs is to know the moment before its first byte leaves, that a request
is never repeated behind its back, and a small bill; the general clients follow redirects, repeat what broke, and cost
more than all our stages. The parsing, where the traps of the protocol are, is llhttp's, by ``httptools``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import select
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.request import getproxies, proxy_bypass

import httptools
import yarl

from outrider import clock
from outrider.upstreams.unpack import TooLarge, Unreadable, unpack

KEEPALIVE_S: Final = 4.0
"""Idle connections are dropped before common servers drop them (5 s): a write on a connection that the server has just
closed would be an unknown outcome for nothing."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""Of an answer's status line and headers, interim answers and trailers included."""
_LONG_HEAD: Final = f"the answer's headers are longer than {MAX_HEAD_BYTES} bytes"
_OURS: Final = frozenset({"content-length", "transfer-encoding", "connection"})
"""Headers that say where a request ends: never anybody else's word."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``headers`` have lower-case names; of a repeated one, the last."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """One connection. ``usable``: it is open, and nothing is under way or left over on it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.usable = False
        self.idle_since = 0.0
        self._waiter: asyncio.Future[Answer] | None = None
        self._poll = select.poll()
        self._server_ended = False
        self._parser = httptools.HttpResponseParser(self)
        self._begin(head_only=False, limit=0)

    def _begin(self, *, head_only: bool, limit: int) -> None:
        self._head_only = head_only
        self._limit = limit
        self._head_bytes = 0  # of what is not body, as it comes, so that a line without end is noticed
        self._named_bytes = 0
        self._in_body = False
        self._reason = b""
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = 0

    async def exchange(self, request: bytes, *, head_only: bool, limit: int) -> Answer:
        """Send and wait for the whole answer. Raises OSError: the connection broke; Unreadable: what came is no whole
        answer, or (TooLarge) longer than ``limit`` bytes. However it fails, the connection is closed."""
        assert self.transport is not None and self.usable
        self.usable = False
        self._begin(head_only=head_only, limit=limit)
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        self.transport.write(request)
        try:
            return await waiter
        except BaseException:
            self.usable = False  # also when its answer came in the moment in which this was cancelled
            raise
        finally:
            self._waiter = None
            if not self.usable:
                self.transport.abort()

    async def tunnel(self, ask: bytes, context: ssl.SSLContext, server_name: str) -> Connection:
        """Ask a proxy for a tunnel, and do TLS through it. Raises OSError, Unreadable."""
        assert self.transport is not None
        self._begin(head_only=True, limit=0)
        self._waiter = asyncio.get_running_loop().create_future()
        self.usable = False
        self.transport.write(ask)
        try:
            answer = await self._waiter
            if not 200 <= answer.status < 300:
                raise ConnectionRefusedError(f"the proxy answered {answer.status} {answer.reason}")
            loop = asyncio.get_running_loop()
            secured = await loop.start_tls(self.transport, self, context, server_hostname=server_name)
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = None
        assert secured is not None
        self._parser = httptools.HttpResponseParser(self)  # the proxy's answer is not the beginning of the server's
        self.connection_made(secured)
        return self

    # ── the transport's calls ────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.usable = True

    def is_quiet(self) -> bool:
        """Whether nothing waits in the socket: bytes that nobody asked for would be taken for the next answer, and a
        close that the loop has not seen yet would make the next request an unknown outcome for nothing."""
        return not self._poll.poll(0)

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.close()  # nobody asked: what follows on this connection could be taken for another's answer
            return
        body_bytes = self._size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(Unreadable("the server switches to another protocol"))
        except httptools.HttpParserError as error:
            self._fail(Unreadable(f"the answer is not HTTP: {error}"))
        if self._size == body_bytes:
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not waiter.done():
            self._fail(Unreadable(_LONG_HEAD))

    def eof_received(self) -> None:
        """The server is done with sending, so far as this is not TLS or was said inside it: nobody on the way can say
        that for the server."""
        assert self.transport is not None
        secured = self.transport.get_extra_info("ssl_object")
        self._server_ended = self._server_ended or secured is None or _said_the_end(secured)

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._waiter is None or self._waiter.done():
            return
        if error is not None:
            self._fail(error)
        elif not self._in_body:
            self._fail(ConnectionResetError("the server closed the connection without an answer"))
        elif not self._server_ended or "content-length" in self._headers or "transfer-encoding" in self._headers:
            self._fail(Unreadable("the server closed the connection in the middle of its answer"))
        else:
            self._finish()  # the close is what ends such an answer (RFC 9112, section 6.3)

    def close(self) -> None:
        self.usable = False
        if self.transport is not None:
            self.transport.abort()

    # ── the parser's calls ───────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self._waiter is not None and self._waiter.done():
            self.close()  # a second answer to one request

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("utf-8", "surrogateescape")
        self._named_bytes += len(name) + len(value)
        if self._named_bytes > MAX_HEAD_BYTES:
            self._fail(Unreadable(_LONG_HEAD))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        self._in_body = True
        length = self._headers.get("content-length", "")
        if self._head_only:
            self._finish()
        elif length.isdigit() and int(length) > self._limit:
            self._fail(TooLarge(self._limit))

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._parts.append(part)
        else:
            self._fail(TooLarge(self._limit))

    def on_message_complete(self) -> None:
        if not self._in_body:  # an interim answer: the real one follows
            self._reason, self._headers = b"", {}
            return
        if self._waiter is not None and not self._waiter.done():
            self.usable = self._parser.should_keep_alive() and not self._head_only
            self._finish()

    # ── the end of an exchange ───────────────────────────────────────────────────────────────────────────────────

    def _finish(self) -> None:
        assert self._waiter is not None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        reason = self._reason.decode("utf-8", "surrogateescape")
        self._waiter.set_result(Answer(self._parser.get_status_code(), reason, self._headers, body))

    def _fail(self, error: Exception) -> None:
        self.usable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


class Origin:
    """The connections to one base URL, directly or through the proxy that the environment names."""

    kind: type[Connection] = Connection

    def __init__(self, url: str, context: ssl.SSLContext | None, *, use_env_proxy: bool) -> None:
        """``context``: the trust for ``https``, None for the system's."""
        self._url = yarl.URL(url)
        self._context = (context or ssl.create_default_context()) if self._url.scheme == "https" else None
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._proxy = _proxy_for(self._url) if use_env_proxy else None
        absolute = self._proxy is not None and self._context is None
        self._target = (f"{self._url.scheme}://{_host(self._url)}" if absolute else "") + self._url.raw_path.rstrip("/")
        self._host = _host(self._url)
        self._credentials = _credentials(self._url)
        self._proxy_credentials = _credentials(self._proxy) if absolute and self._proxy is not None else ""

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """The bytes of a request. ``path`` is encoded, with its query. Raises ValueError: something in it cannot be
        sent as it is, such as a line break in a header."""
        lines = [f"{method} {self._target}{path} HTTP/1.1"]
        names = {name.lower() for name in headers}
        if "host" not in names:
            lines.append(f"Host: {self._host}")
        if "accept" not in names:
            lines.append("Accept: */*")
        if "accept-encoding" not in names:
            lines.append("Accept-Encoding: gzip, deflate")
        if self._credentials and "authorization" not in names:
            lines.append(f"Authorization: {self._credentials}")
        if self._proxy_credentials:
            lines.append(f"Proxy-Authorization: {self._proxy_credentials}")
        lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in _OURS]
        if body is not None or method not in {"GET", "HEAD", "DELETE", "OPTIONS"}:
            lines.append(f"Content-Length: {len(body or b'')}")
        head = "\r\n".join(lines)
        breaks = len(lines) - 1
        if head.count("\r") != breaks or head.count("\n") != breaks or "\0" in head or lines[0].count(" ") != 2:
            raise ValueError("a control character or a space where none may be")
        return head.encode() + b"\r\n\r\n" + (body or b"")

    async def exchange(
        self, request: bytes, *, head_only: bool, limit: int, connect_s: float, on_send: Callable[[], None]
    ) -> Answer:
        """One request, one answer. ``on_send`` is called when a connection is there and before the first byte leaves.

        Raises TimeoutError: no connection within ``connect_s`` seconds; and what ``Connection.exchange`` raises."""
        connection = await self.take(connect_s)
        try:
            on_send()
            answer = await connection.exchange(request, head_only=head_only, limit=limit)
        finally:
            self.give_back(connection)
        return unpack_answer(answer, limit)

    async def take(self, connect_s: float) -> Connection:
        """A connection for one exchange, kept or new. Raises TimeoutError and OSError."""
        connection = self._kept()
        if connection is None:
            async with asyncio.timeout(connect_s):
                connection = await self._connect()
        self._busy.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """The exchange is over; the connection is kept where it can be used again."""
        self._busy.discard(connection)
        self._keep(connection)

    def close(self) -> None:
        """Close every connection, used ones too."""
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()

    # ── keeping connections ──────────────────────────────────────────────────────────────────────────────────────

    def _kept(self) -> Connection | None:
        """The one used last: the others may then grow old."""
        oldest = clock.monotonic() - KEEPALIVE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest and connection.is_quiet():
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        if not connection.usable:
            return
        connection.idle_since = clock.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_S, self._drop_old)

    def _drop_old(self) -> None:
        self._sweep = None
        oldest = clock.monotonic() - KEEPALIVE_S
        idle, self._idle = self._idle, []
        for connection in idle:
            if connection.usable and connection.idle_since > oldest:
                self._idle.append(connection)
            else:
                connection.close()
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE_S, self._drop_old)

    # ── making connections ───────────────────────────────────────────────────────────────────────────────────────

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._proxy is not None:
            return await self._connect_through(self._proxy)
        host, port = _address(self._url)
        name = host if self._context else None
        _, connection = await loop.create_connection(self.kind, host, port, ssl=self._context, server_hostname=name)
        return connection

    async def _connect_through(self, proxy: yarl.URL) -> Connection:
        """To the proxy; for ``https`` then a tunnel through it (RFC 9110, section 9.3.6), with TLS inside."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(self.kind, *_address(proxy))
        if self._context is None:
            return connection
        host, port = _address(self._url)
        there = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        credentials = _credentials(proxy)
        extra = f"Proxy-Authorization: {credentials}\r\n" if credentials else ""
        ask = f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n{extra}\r\n".encode()
        return await connection.tunnel(ask, self._context, host)


def unpack_answer(answer: Answer, limit: int) -> Answer:
    """The same with its body unpacked."""
    encoding = answer.headers.get("content-encoding", "").strip().lower()
    if not encoding or not answer.body:
        return answer
    return Answer(answer.status, answer.reason, answer.headers, unpack(answer.body, encoding, limit))


def _said_the_end(secured: ssl.SSLObject) -> bool:
    """Whether the other side closed the TLS connection itself. asyncio's own loop tells of any end as if it had."""
    try:
        return secured.read(1) == b""
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


def _address(url: yarl.URL) -> tuple[str, int]:
    """Where to connect to. Raises OSError: the address names no host or no port."""
    if not url.raw_host or not url.port:
        raise OSError(f"{url.human_repr()!r} names no host and port")
    return url.raw_host, url.port


def _host(url: yarl.URL) -> str:
    """The value of ``Host``."""
    return url.raw_authority.rpartition("@")[2]


def _credentials(url: yarl.URL) -> str:
    if url.user is None:
        return ""
    return "Basic " + base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()


def _proxy_for(url: yarl.URL) -> yarl.URL | None:
    """What ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY`` say of this address."""
    with contextlib.suppress(OSError):
        if proxy_bypass(_host(url)):
            return None
    named = getproxies().get(url.scheme)
    return yarl.URL(named if "://" in named else f"http://{named}") if named else None

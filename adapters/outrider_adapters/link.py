"""The connection to the sidecar: a thread of its own, a loop of its own, one WebSocket that comes back by itself.

Never the agent's loop: that may be blocked by a tool, and an abort must get through. This file moves frames and knows
nothing of calls; what it is told and whom it tells is the ``Peer`` (the channel).
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket as sockets
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import aiohttp

from outrider import wire
from outrider_adapters.environment import Surroundings
from outrider_adapters.writer import PING, PONG, DirectWriter, LoopWriter, Sending, Writer

log = logging.getLogger("outrider")

CONNECT_S = 2.0
"""How long one connect, handshake and welcome may take."""
FIRST_DELAY_S = 0.05
MAX_DELAY_S = 2.0
FATAL_DELAY_S = 30.0
"""Pause after a refusal that will not change by itself (a wrong token, a protocol too old)."""
POKED_DELAY_S = 0.1
"""A waiting call shortens the pause to this; a fatal one to ten times this."""
PING_S = 5.0
"""How often the sidecar is pinged. Silent for one and a half times as long, it is stopped or frozen, and given up."""
RECEIVE_BYTES = 4 * wire.FRAME_BYTES


class Peer(Protocol):
    """What the link talks to. Every method is called on the link's thread and must not block."""

    def hello(self) -> bytes: ...
    def welcome(self, frame: wire.Welcome) -> None: ...
    def receive(self, frame: wire.FromGateway) -> None: ...
    def lost(self) -> None: ...
    def unreachable(self, attempt_began: float, trouble: str, fatal: bool) -> bool: ...


class Unwelcome(Exception):
    """The sidecar answered and refused this process. ``fatal``: asking again soon would not help."""

    def __init__(self, text: str, fatal: bool = True) -> None:
        super().__init__(text)
        self.fatal = fatal


class Link:
    """One connection, kept up from ``start`` to ``stop``."""

    def __init__(self, surroundings: Surroundings, peer: Peer) -> None:
        self._surroundings = surroundings
        self._peer = peer
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Writer | None = None
        self._poked = asyncio.Event()
        self._stopping = threading.Event()
        self._halted = asyncio.Event()  # the same, for the loop's own waits
        self._heartbeat_s = PING_S
        self._heard = 0.0
        self.descriptors: tuple[int, ...] = ()  # of the connection; a forked child must let go of them

    # ── from any thread ──────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the thread, once, however many first calls come at the same time."""
        with self._starting:
            if self._thread is None:
                self._loop = asyncio.SelectorEventLoop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="outrider-link", daemon=True)
                self._thread.start()

    def post(self, data: bytes, *, sending: Sending | None = None, urgent: bool = False) -> None:
        """Queue a frame for the connection there is; ``flush`` sends it. Urgent ones never wait behind data."""
        writer = self._writer
        if writer is not None:
            writer.put(data, sending=sending, urgent=urgent)

    def flush(self) -> None:
        """Send what is queued."""
        writer = self._writer
        if writer is not None:
            writer.flush()

    def poke(self) -> None:
        """A call waits: do not sleep through the whole pause."""
        self._on_loop(self._poked.set)

    def later(self, delay_s: float, action: object, *args: object) -> asyncio.TimerHandle:
        """A timer on the link's loop; only from the link's own thread."""
        assert self._loop is not None
        return self._loop.call_later(delay_s, action, *args)  # type: ignore[arg-type]

    def stop(self, timeout_s: float) -> None:
        """Write what is queued, close, end the thread; at most ``timeout_s``."""
        self._stopping.set()
        for action in (self._poked.set, self._halted.set):
            self._on_loop(action)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _on_loop(self, action: Callable[..., None], *args: object) -> None:
        loop = self._loop
        if loop is None:
            return
        if self._thread is threading.current_thread():
            loop.call_soon(action, *args)
            return
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(action, *args)

    # ── on the link's thread ─────────────────────────────────────────────────────────────────────────────────────

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._live())
        except Exception:
            log.exception("the channel's thread failed; governed calls will be refused")
            self._peer.lost()
        finally:
            loop.close()

    async def _live(self) -> None:
        delay_s = FIRST_DELAY_S
        async with aiohttp.ClientSession(connector=self._connector()) as http:
            while not self._stopping.is_set():
                began = time.monotonic()
                self._poked.clear()
                was_up, trouble, fatal = await self._session(http)
                if self._stopping.is_set():
                    return
                waited_for = self._peer.unreachable(began, trouble, fatal)
                delay_s = FIRST_DELAY_S if was_up else min(MAX_DELAY_S, delay_s * 2)
                await self._pause(FATAL_DELAY_S if fatal else delay_s, fatal, waited_for)

    def _connector(self) -> aiohttp.BaseConnector:
        path = self._surroundings.socket_path
        return aiohttp.UnixConnector(path) if path else aiohttp.TCPConnector()

    async def _pause(self, delay_s: float, fatal: bool, waited_for: bool) -> None:
        """Jittered; shorter when a call waits, and over at once when the link is stopped."""
        least_s = min(delay_s, POKED_DELAY_S * (10 if fatal else 1))
        await _wait(self._halted, least_s * random.uniform(0.5, 1.0))
        if not (waited_for or self._halted.is_set()):
            await _wait(self._poked, (delay_s - least_s) * random.uniform(0.5, 1.0))

    async def _session(self, http: aiohttp.ClientSession) -> tuple[bool, str, bool]:
        """One connection's life: whether it was up, why it ended, whether asking again is of no use."""
        up = False
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self._connect(http)
            try:
                async with asyncio.timeout(CONNECT_S):
                    welcome = await self._greet(socket)
                self._take_over(socket)
                self._heartbeat_s = max(0.05, welcome.limits.heartbeat_ms / 1000)
                up = True
                self._peer.welcome(welcome)
                await self._serve(socket)
            finally:
                self._let_go()
                if up:
                    self._peer.lost()
                await socket.close()
        except Unwelcome as refusal:
            return up, str(refusal), refusal.fatal
        except aiohttp.WSServerHandshakeError as error:
            return up, *_handshake_trouble(error)
        except TimeoutError:
            return up, f"no answer within {CONNECT_S:g} s", False
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            return up, str(error) or type(error).__name__, False
        return up, "the sidecar closed the connection", False

    async def _connect(self, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse[bool]:
        surroundings = self._surroundings
        secure = ssl.create_default_context(cafile=surroundings.ca_file) if surroundings.ca_file else True
        socket = await http.ws_connect(
            surroundings.channel_url,
            headers={"Authorization": f"Bearer {surroundings.bearer()}"},
            autoping=False,  # pongs go through our own writer, like everything
            max_msg_size=RECEIVE_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_close=0.5),
            ssl=secure,
            decode_text=False,
        )
        self.descriptors = (_socket_of(socket).fileno(),)
        return socket

    def _take_over(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        """From now on this connection's frames are written by our own writer, and by nobody else until it closes."""
        if socket.get_extra_info("sslcontext") is not None:
            self._writer = LoopWriter(socket, self._on_loop)
            return
        raw = _socket_of(socket).dup()
        raw.setblocking(False)
        self.descriptors = (*self.descriptors, raw.fileno())
        self._writer = DirectWriter(raw, lambda fd: self._on_loop(self._watch, fd))

    def _watch(self, fd: int) -> None:
        """The socket is full: go on when it takes more."""
        loop, writer = self._loop, self._writer
        if loop is None or not isinstance(writer, DirectWriter) or writer.fd != fd:
            return

        def writable() -> None:
            loop.remove_writer(fd)
            writer.resume()

        loop.add_writer(fd, writable)

    def _let_go(self) -> None:
        writer, self._writer, self.descriptors = self._writer, None, ()
        if isinstance(writer, DirectWriter) and self._loop is not None:
            self._loop.remove_writer(writer.fd)
        if writer is not None:
            writer.drop()

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> wire.Welcome:
        await socket.send_frame(self._peer.hello(), aiohttp.WSMsgType.TEXT)
        while True:
            message = await socket.receive()
            if message.type not in DATA:
                raise aiohttp.ClientConnectionError(f"closed during the greeting (code {socket.close_code})")
            frame = decode(message.data)
            if isinstance(frame, wire.ProblemFrame):
                raise Unwelcome(str(frame.problem.get("detail", "the sidecar refused this process")), frame.fatal)
            if isinstance(frame, wire.Welcome):
                return _agreed(frame)

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self._heard = time.monotonic()
        async with asyncio.timeout(None) as patience:
            helpers = [asyncio.create_task(self._beat(patience)), asyncio.create_task(self._close_when_halted(socket))]
            try:
                await self._read_all(socket)
            finally:
                for task in helpers:
                    task.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    async def _read_all(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        while not self._stopping.is_set():
            message = await socket.receive()
            self._heard = time.monotonic()
            if message.type in DATA:
                frame = decode(message.data)
                if frame is not None:
                    self._peer.receive(frame)
            elif message.type is PING:
                self._say(PONG, message.data)
            elif message.type is not PONG:
                return

    def _say(self, opcode: aiohttp.WSMsgType, data: bytes) -> None:
        if self._writer is not None:
            self._writer.put(data, opcode=opcode, urgent=True)
            self._writer.flush()

    async def _close_when_halted(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        await self._halted.wait()
        while self._writer is not None and not self._writer.empty:
            self._writer.flush()
            await asyncio.sleep(0.002)
        await socket.close()

    async def _beat(self, patience: asyncio.Timeout) -> None:
        """Say that we are here, ask whether they are, and end the connection when nothing was heard for too long."""
        pinged = time.monotonic()
        while True:
            await asyncio.sleep(min(self._heartbeat_s, PING_S))
            now = time.monotonic()
            if now - self._heard > 1.5 * PING_S:
                patience.reschedule(asyncio.get_running_loop().time())
                return
            self._say(aiohttp.WSMsgType.TEXT, HEARTBEAT)
            if now - pinged >= PING_S and now - self._heard >= PING_S / 2:
                pinged = now
                self._say(PING, b"")


class Gate:
    """A lock. What was posted under it is sent behind it: a write to a socket is no business of the lock's."""

    __slots__ = ("_link", "_lock")

    def __init__(self, link: Link) -> None:
        self._lock = threading.Lock()
        self._link = link

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._link.flush()


def _socket_of(socket: aiohttp.ClientWebSocketResponse[bool]) -> sockets.socket:
    """The connection's own. Raises ClientConnectionError when it is gone already."""
    found = socket.get_extra_info("socket")
    if found is None:
        raise aiohttp.ClientConnectionError("the connection ended during the handshake")
    return found  # type: ignore[no-any-return]


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


DATA = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)
HEARTBEAT = wire.encode_frame(wire.Heartbeat())


def decode(data: bytes | str) -> wire.FromGateway | None:
    """A frame, or None for one that this version does not know: a newer sidecar may say more."""
    try:
        return wire.decode_from_gateway.decode(data)
    except ValueError as error:  # msgspec's errors are ValueErrors
        log.debug("a frame of the sidecar was ignored: %s", error)
        return None


def _agreed(welcome: wire.Welcome) -> wire.Welcome:
    if not wire.OLDEST_PROTOCOL <= welcome.protocol <= wire.PROTOCOL:
        raise Unwelcome(
            f"the sidecar speaks protocol {welcome.protocol} and this adapter {wire.OLDEST_PROTOCOL} to "
            f"{wire.PROTOCOL}; install versions of outrider that are closer to each other on both sides"
        )
    return welcome


def _said(error: aiohttp.WSServerHandshakeError) -> str:
    """The sidecar's own sentence, which stands in a header: the body of such an answer is not read."""
    headers = error.headers
    said = re.search(r'error_description="([^"]*)"', headers.get("WWW-Authenticate", "")) if headers else None
    return f": {said[1]}" if said else ""


def _handshake_trouble(error: aiohttp.WSServerHandshakeError) -> tuple[str, bool]:
    if error.status in {401, 403}:
        return f"it refused this process's token, see OUTRIDER_TOKEN (HTTP {error.status}){_said(error)}", True
    if error.status == 404:
        return "something answers there, but not a sidecar's data plane (HTTP 404)", True
    return f"it answered HTTP {error.status}", False

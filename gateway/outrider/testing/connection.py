"""One connection of a scripted upstream: reads requests and does with each what its step says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from outrider import clock
from outrider.testing.http_wire import MAX_HEAD_BYTES, NotHttp, Received, head_of, read_request
from outrider.testing.script import Action, Step

CHUNK = b"x" * 65536
CONTROL_PREFIX = "/__"


class Host(Protocol):
    """What a connection asks of its upstream."""

    gate: asyncio.Event  # opens for the requests on hold; later ones wait for another

    def accept_request(self, received: Received, *, unscripted: str = "") -> Step: ...

    def refuse_soon(self, for_s: float | None) -> None: ...

    async def answer_control(self, received: Received) -> tuple[int, bytes]: ...


class Wire(asyncio.StreamReaderProtocol):
    """A stream protocol that notices at once when the client goes away, also while nothing is read."""

    def __init__(self, opened: Opened) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await opened(self, reader, writer)

        reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES)
        super().__init__(reader, connected)
        self.gone = asyncio.Event()

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


Opened = Callable[[Wire, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Connection:
    """``number`` counts the upstream's connections from 1."""

    host: Host
    number: int
    wire: Wire
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stale: bool = False

    async def serve(self) -> None:
        """Requests one after another, until either side closes."""
        with contextlib.suppress(ConnectionError):
            try:
                while await self._serve_one():
                    pass
            except NotHttp as why:
                self._send(400, {}, f"{why}\n".encode(), keep_alive=False)
        self.writer.close()

    async def _serve_one(self) -> bool:
        """One request; False when the connection is not to be used again."""
        received = await read_request(self.reader, self.writer)
        if received is None:
            return False
        if received.path.startswith(CONTROL_PREFIX):
            status, body = await self.host.answer_control(received)
            self._send(status, {"Content-Type": "application/json"}, body, keep_alive=received.keep_alive)
            return received.keep_alive
        received.connection = self.number
        if self.stale:
            self.host.accept_request(received, unscripted=Action.CLOSE)
            return False
        step = self.host.accept_request(received)
        if not received.whole:
            return False
        if step.latency_s and not await self._wait(step.latency_s, received):
            return False
        return await _ACTIONS[step.do](self, step, received)

    async def _wait(self, seconds: float | None, received: Received) -> bool:
        """Wait unless the client leaves; False when it did."""
        began = clock.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wire.gone.wait()
        if self.wire.gone.is_set():
            received.left_after_s = clock.monotonic() - began
            return False
        return True

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, *, keep_alive: bool) -> None:
        self.writer.write(head_of(status, headers, len(body), keep_alive=keep_alive) + body)

    def reset(self) -> None:
        """TCP RST: with a linger time of zero, closing throws away what is unsent and tells the peer so."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    # --- the actions; each returns whether the connection may be used again

    async def _respond(self, step: Step, received: Received) -> bool:
        head = head_of(step.status, step.headers, len(step.body), keep_alive=received.keep_alive)
        self.writer.write(head if received.method == "HEAD" else head + step.body)
        await self.writer.drain()
        return received.keep_alive and not step.then_close

    async def _echo(self, step: Step, received: Received) -> bool:
        shown = {
            "method": received.method,
            "path": received.path,
            "query": received.query,
            "headers": received.headers,
            "body": received.text,
        }
        headers = {"Content-Type": "application/json"}
        self._send(200, headers, json.dumps(shown).encode(), keep_alive=received.keep_alive)
        await self.writer.drain()
        return received.keep_alive

    async def _hang(self, step: Step, received: Received) -> bool:
        await self._wait(step.for_s, received)
        return False

    async def _hold(self, step: Step, received: Received) -> bool:
        gate = self.host.gate  # before any await, so that a release after the request was counted is not missed
        released = asyncio.ensure_future(gate.wait())
        left = asyncio.ensure_future(self._wait(None, received))
        try:
            await asyncio.wait({released, left}, return_when=asyncio.FIRST_COMPLETED)
            return gate.is_set() and await self._respond(step, received)
        finally:
            released.cancel()
            left.cancel()

    async def _reset(self, step: Step, received: Received) -> bool:
        self.reset()
        return False

    async def _reset_after_headers(self, step: Step, received: Received) -> bool:
        await self._send_part(step, announced=len(step.body) + 1)
        self.reset()
        return False

    async def _truncate(self, step: Step, received: Received) -> bool:
        await self._send_part(step, announced=len(step.body))
        return False

    async def _send_part(self, step: Step, announced: int) -> None:
        headers = {"Content-Type": "application/json"} | dict(step.headers)
        self.writer.write(head_of(step.status, headers, announced, keep_alive=True) + step.body[: step.size])
        await self.writer.drain()

    async def _drip(self, step: Step, received: Received) -> bool:
        headers = {"Content-Type": "application/json"} | dict(step.headers)
        self.writer.write(head_of(step.status, headers, len(step.body), keep_alive=received.keep_alive))
        for start in range(0, len(step.body), step.chunk):
            await self.writer.drain()
            if not await self._wait(step.every_s, received):
                return False
            self.writer.write(step.body[start : start + step.chunk])
        await self.writer.drain()
        return received.keep_alive

    async def _garbage(self, step: Step, received: Received) -> bool:
        self.writer.write(step.body)
        await self.writer.drain()
        return False

    async def _huge(self, step: Step, received: Received) -> bool:
        headers = {"Content-Type": "application/json"} | dict(step.headers)
        self.writer.write(head_of(step.status, headers, step.size, keep_alive=received.keep_alive) + b'"')
        left = step.size - 2
        while left > 0:
            await self.writer.drain()
            self.writer.write(CHUNK[:left])
            left -= len(CHUNK)
        self.writer.write(b'"')
        await self.writer.drain()
        return received.keep_alive

    async def _close(self, step: Step, received: Received) -> bool:
        return False

    async def _stale(self, step: Step, received: Received) -> bool:
        self.stale = True
        return await self._respond(step, received)

    async def _refuse(self, step: Step, received: Received) -> bool:
        self.host.refuse_soon(step.for_s)
        return False


_ACTIONS: Mapping[Action, Callable[[Connection, Step, Received], Awaitable[bool]]] = {
    Action.RESPOND: Connection._respond,
    Action.ECHO: Connection._echo,
    Action.HANG: Connection._hang,
    Action.HOLD: Connection._hold,
    Action.RESET: Connection._reset,
    Action.RESET_AFTER_HEADERS: Connection._reset_after_headers,
    Action.TRUNCATE: Connection._truncate,
    Action.DRIP: Connection._drip,
    Action.GARBAGE: Connection._garbage,
    Action.HUGE: Connection._huge,
    Action.CLOSE: Connection._close,
    Action.STALE: Connection._stale,
    Action.REFUSE: Connection._refuse,
}

"""One answer to one request: JSON, or a stream of events from the moment on that something is told before it.

The choice stays open until the first notification, or until a client has waited so long that a proxy on the way might
think nobody is there: so an early refusal still gets its own HTTP status.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from outrider.mcp_wire import Message

KEEP_ALIVE_S = 15.0
MAX_WAITING = 1_000
"""Messages that wait for a client which reads slowly. One that falls further behind misses what may be missed, and is
cut off where it would miss more."""
STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
encode = msgspec.json.Encoder(enc_hook=str).encode


def event(message: Message) -> bytes:
    """A message as one event."""
    return b"event: message\ndata: " + encode(message) + b"\n\n"


class Answer:
    """Use it from the request's handler: ``tell`` while the work runs, then ``finish``.

    ``streams``: whether the client takes events at all. ``headers`` go with the answer, whatever its form."""

    def __init__(self, request: web.Request, *, streams: bool, headers: Mapping[str, str] | None = None) -> None:
        self._request = request
        self._streams = streams
        self._headers = dict(headers or {})
        self._stream: web.StreamResponse | None = None
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        """The client reads too slowly, or is gone."""

    def tell(self, message: Message) -> bool:
        """Queue a message; never waits. False: it cannot be told, because the client takes none or is lost."""
        if not self._streams or self.lost.is_set():
            return False
        if len(self._waiting) >= MAX_WAITING:
            self._lose()
            return False
        self._waiting.append(event(message))
        self._start()
        self._wake.set()
        return True

    def offer(self, message: Message) -> None:
        """Queue a message that may be missed: a server that says more than its client can read must not cost the client
        its answer."""
        if len(self._waiting) < MAX_WAITING:
            self.tell(message)

    def keep_alive(self) -> None:
        """From now on there is a stream, with a comment now and then."""
        if self._streams:
            self._start()

    async def finish(self, message: Message, status: int = 200) -> web.StreamResponse:
        """The last message. ``status`` counts only where no stream has begun."""
        if self._writing is None:
            return web.Response(
                body=encode(message), status=status, content_type="application/json", headers=self._headers
            )
        self._waiting.append(event(message))
        return await self.end()

    async def end(self) -> web.StreamResponse:
        """Write what waits, and close the stream. Only where one has begun."""
        assert self._writing is not None
        self._waiting.append(b"")
        self._wake.set()
        await self._writing
        assert self._stream is not None
        return self._stream

    def _start(self) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    def _lose(self) -> None:
        self.lost.set()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _write(self) -> None:
        self._stream = web.StreamResponse(headers={**STREAM_HEADERS, **self._headers})
        try:
            await self._stream.prepare(self._request)
            while await self._written(self._stream):
                pass
        except (ConnectionError, RuntimeError):
            self.lost.set()

    async def _written(self, stream: web.StreamResponse) -> bool:
        """One chunk, or a comment after a time of silence. False: that was all."""
        while not self._waiting:
            self._wake.clear()
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await self._wake.wait()
            except TimeoutError:
                await stream.write(b": still here\n\n")
        chunk = self._waiting.popleft()
        if chunk:
            await stream.write(chunk)
            return True
        await stream.write_eof()
        return False

    async def close(self) -> None:
        """The handler is over, however it ended."""
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)


def json_error(id_: Any, error: Mapping[str, Any]) -> Message:
    return {"jsonrpc": "2.0", "id": id_, "error": dict(error)}


def json_result(id_: Any, result: Message) -> Message:
    return {"jsonrpc": "2.0", "id": id_, "result": result}

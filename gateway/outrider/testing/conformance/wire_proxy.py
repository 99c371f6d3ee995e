"""Stands between an agent's process and its sidecar, and makes one of them speak another version of the channel."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Any

import aiohttp
from aiohttp import web

from outrider.testing.conformance.waiting import wait_for
from outrider.wire import OLDEST_PROTOCOL

MAX_FRAME_BYTES = 4 * 1024 * 1024
UNKNOWN_FRAME = json.dumps({"type": "weather", "outlook": "fair"})


class Dialect(StrEnum):
    """How the two speak."""

    SAME = "same"  # as they are
    OLDER_SIDECAR = "older sidecar"  # the welcome names a version that no adapter of today speaks any more
    OLDER_ADAPTER = "older adapter"  # the hello does
    WORDY_SIDECAR = "wordy sidecar"  # fields and frames that the adapter does not know, and none it can do without


class WireProxy:
    """A server on a thread of its own."""

    def __init__(self, sidecar_url: str) -> None:
        self._sidecar_url = sidecar_url
        self._sockets: set[web.WebSocketResponse] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._dialect = Dialect.SAME
        self.url = ""

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self.url, "a proxy that listens")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10.0)

    def speak(self, dialect: Dialect) -> None:
        """From now on; connections that are open are broken, so that both greet each other anew. Where they speak like
        this already nothing is broken: a call that comes at that moment would be lost with its connection."""
        if dialect is self._dialect:
            return
        self._dialect = dialect
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(10.0)

    async def _drop(self) -> None:
        for socket in list(self._sockets):
            await socket.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/channel", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        await self._stop.wait()
        await self._drop()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.WebSocketResponse:
        dialect = self._dialect
        near = web.WebSocketResponse(compress=False, max_msg_size=MAX_FRAME_BYTES)
        await near.prepare(request)
        self._sockets.add(near)
        try:
            async with self._far(request) as far:
                await _either(_upward(near, far, dialect), _downward(far, near, dialect))
        except aiohttp.ClientError:
            pass  # no sidecar there: the adapter sees a connection that ends
        finally:
            self._sockets.discard(near)
            await near.close()
        return near

    @asynccontextmanager
    async def _far(self, request: web.Request) -> AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]:
        headers = {"Authorization": request.headers.get("Authorization", "")}
        async with (
            aiohttp.ClientSession(trust_env=False) as http,
            http.ws_connect(f"{self._sidecar_url}/v1/channel", headers=headers, max_msg_size=MAX_FRAME_BYTES) as far,
        ):
            yield far


async def _either(*ways: Any) -> None:
    """Until one side ends."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _upward(near: web.WebSocketResponse, far: aiohttp.ClientWebSocketResponse[bool], dialect: Dialect) -> None:
    async for message in near:
        if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            return
        frame = json.loads(message.data)
        if frame["type"] == "hello" and dialect is Dialect.OLDER_ADAPTER:
            frame["protocol"] = OLDEST_PROTOCOL - 1
        await far.send_str(json.dumps(frame))


async def _downward(far: aiohttp.ClientWebSocketResponse[bool], near: web.WebSocketResponse, dialect: Dialect) -> None:
    async for message in far:
        if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            return
        frame = json.loads(message.data)
        if frame["type"] == "welcome" and dialect is Dialect.OLDER_SIDECAR:
            frame["protocol"] = OLDEST_PROTOCOL - 1
        if dialect is Dialect.WORDY_SIDECAR:
            frame = _wordy(frame)
        with suppress(ConnectionError):
            await near.send_str(json.dumps(frame))
            if dialect is Dialect.WORDY_SIDECAR:
                await near.send_str(UNKNOWN_FRAME)


def _wordy(frame: dict[str, Any]) -> dict[str, Any]:
    """More than this version says, and of the welcome only what it must say."""
    if frame["type"] == "welcome":
        frame = {key: frame[key] for key in ("type", "protocol", "incarnation", "agent")}
    return {**frame, "mood": "good", "tags": ["new"]}

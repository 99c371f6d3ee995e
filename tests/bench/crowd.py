"""Agents' processes that are connected and do nothing: a thousand channels in one process.

``python -m tests.bench.crowd`` reads one command a line from standard input: ``{"port", "token", "count"}`` connects so
many more, each under a name and session of its own, and answers ``{"connected": N}`` once each was welcomed. From then
on each says what an idle adapter says: a heartbeat and a ping every five seconds.
"""

from __future__ import annotations

import asyncio
import json
import random

import aiohttp

from outrider import wire
from tests.bench.client import PATIENCE_S, commands
from tests.bench.serving import run, say

EVERY_S = 5.0
AT_ONCE = 50
HEARTBEAT = wire.encode_frame(wire.Heartbeat()).decode()


def _hello(number: int) -> str:
    hello = wire.Hello(
        protocol=wire.PROTOCOL,
        agent=f"crowd-{number:05}",
        framework="bench",
        instance=f"host-{number}",
        session_key=f"session-key-{number:08}",
        versions={"outrider": "0", "python": "3.11.7", "langgraph": "1.0.0"},
        host=f"host-{number}",
        pid=number + 1,
        tools=tuple(wire.Tool(f"local.tool_{n}", f"sha256:{n:064x}") for n in range(10)),
    )
    return wire.encode_frame(hello).decode()


class Crowd:
    """The connections."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._tasks: list[asyncio.Task[None]] = []
        self._room = asyncio.Semaphore(AT_ONCE)
        self.broken = 0

    async def join(self, port: int, token: str, count: int) -> int:
        first = len(self._tasks)
        sockets = await asyncio.gather(*(self._connect(port, token, first + n) for n in range(count)))
        self._tasks += [asyncio.create_task(self._idle(socket)) for socket in sockets]
        return len(self._tasks)

    async def _connect(self, port: int, token: str, number: int) -> aiohttp.ClientWebSocketResponse[bool]:
        async with self._room, asyncio.timeout(PATIENCE_S):
            headers = {"Authorization": f"Bearer {token}"}
            socket = await self._http.ws_connect(f"http://127.0.0.1:{port}/v1/channel", headers=headers)
            await socket.send_str(_hello(number))
            welcome = await socket.receive()
            if '"welcome"' not in str(welcome.data):
                raise ConnectionError(f"not welcome: {welcome.data}")
            return socket

    async def _idle(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        reading = asyncio.create_task(self._read(socket))
        await asyncio.sleep(random.uniform(0, EVERY_S))
        while not socket.closed:
            await socket.send_str(HEARTBEAT)
            await socket.ping()
            await asyncio.sleep(EVERY_S)
        await reading

    async def _read(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        async for _ in socket:
            continue
        self.broken += 1


async def _main() -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        crowd = Crowd(http)
        lines = commands()
        while (command := await asyncio.to_thread(next, lines, None)) is not None:
            try:
                if "count" in command:
                    await crowd.join(command["port"], command["token"], command["count"])
                say(json.dumps({"connected": len(crowd._tasks) - crowd.broken}))
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                say(json.dumps({"error": f"{type(error).__name__}: {error}"}))


if __name__ == "__main__":
    run(_main)

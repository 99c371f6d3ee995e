"""Calls that hang: a tool server that never answers, and the callers of it.

``python -m tests.bench.held`` prints the port of the tool server, then reads one command a line from standard input:
``{"hold": [[port, request], …]}`` sends each whole request on a connection of its own, and answers ``{"held": N}`` once
so many have reached the tool server; ``{"collect": N}`` answers when each caller was answered:
``{"at": [seconds …], "wrong": N}``, by the monotonic clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast

from tests.bench.client import PATIENCE_S, commands
from tests.bench.serving import run, say


class Silent(asyncio.Protocol):
    """The tool server: it counts what it is asked and says nothing."""

    asked = 0

    def data_received(self, data: bytes) -> None:
        Silent.asked += data.count(b"POST ")


class Caller(asyncio.Protocol):
    """One call, and when it was answered."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answered: asyncio.Future[tuple[float, bool]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result((time.monotonic(), b'"call_id"' in data))
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(error or ConnectionError("closed without an answer"))


async def _hold(wanted: list[tuple[int, str]]) -> list[Caller]:
    loop = asyncio.get_running_loop()
    before = Silent.asked
    callers = [Caller(request.encode()) for _, request in wanted]
    for (port, _), caller in zip(wanted, callers, strict=True):
        await loop.create_connection(lambda one=caller: one, "127.0.0.1", port)  # type: ignore[misc]
    async with asyncio.timeout(PATIENCE_S):
        while Silent.asked - before < len(wanted):
            await asyncio.sleep(0.01)
    return callers


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0, backlog=1024)
    say(server.sockets[0].getsockname()[1])
    callers: list[Caller] = []
    lines = commands()
    while (command := await asyncio.to_thread(next, lines, None)) is not None:
        try:
            if "hold" in command:
                callers = await _hold(command["hold"])
                say(json.dumps({"held": len(callers)}))
            else:
                async with asyncio.timeout(PATIENCE_S):
                    ends = [await caller.answered for caller in callers]
                say(json.dumps({"at": [at for at, _ in ends], "wrong": sum(not good for _, good in ends)}))
        except (OSError, TimeoutError) as error:
            say(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    server.close()


if __name__ == "__main__":
    run(_main)

"""The tool servers of the bench: one as fast as asyncio gets, so that it is never what is measured, and an ordinary
one, made with aiohttp as people make them.

``python -m tests.bench.upstream [ordinary]``: prints its port; answers every request that has a Content-Length or no
body with the same small JSON.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

from aiohttp import web

from tests.bench.serving import run, say, until_closed

BODY = b'{"id":"42","balance":1730,"currency":"EUR","ok":true}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Upstream(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        while data:
            size = _request_bytes(data)
            if size is None or size > len(data):
                break
            self._transport.write(ANSWER)
            data = data[size:]
        self._rest = data


def _request_bytes(data: bytes) -> int | None:
    """The length of the request that ``data`` begins with; None while its head is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = LENGTH.search(data, 0, end)
    return end + 4 + (int(found.group(1)) if found else 0)


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    say(server.sockets[0].getsockname()[1])
    await until_closed()
    server.close()


async def _ordinary() -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.json()
        return web.Response(body=BODY, content_type="application/json")

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(runner.addresses[0][1])
    await until_closed()
    await runner.cleanup()


if __name__ == "__main__":
    run(_ordinary if sys.argv[1:] == ["ordinary"] else _main)

"""The tool server of the soak: ``python -m tests.soak.upstream FOLDER``, on a free port that it prints.

It misbehaves by chance, and writes every order that took effect into ``FOLDER/orders``, before anything can go wrong
with the answer: a line that stands there twice is a side effect that happened twice. A file ``FOLDER/dead`` makes it
reset every connection.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from aiohttp import web


class Shop:
    def __init__(self, folder: Path) -> None:
        self._dead = folder / "dead"
        self._orders = os.open(folder / "orders", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self._dead.exists() or random.random() < 0.02:
            return await _reset(request)
        text = (await request.json())["text"]
        if random.random() < 0.05:
            return web.Response(status=503, headers={"Retry-After": "1"} if random.random() < 0.3 else {})
        await asyncio.sleep(random.expovariate(1 / 0.01))
        if request.match_info["operation"].startswith("write_"):
            os.write(self._orders, f"{text}\n".encode())
        return await self._answer(request, text)

    async def _answer(self, request: web.Request, text: str) -> web.StreamResponse:
        """What happened has happened; the answer may be lost, late, cut or garbage."""
        chance = random.random()
        if chance < 0.03:
            return await _reset(request)
        if chance < 0.05:
            await asyncio.sleep(3.0)  # longer than an attempt may take
        if chance < 0.07:
            answer = web.StreamResponse(headers={"Content-Length": "1000"})
            await answer.prepare(request)
            await answer.write(b'{"half')
            return await _reset(request)
        if chance < 0.08:
            return web.Response(status=500, text="an error of the shop")
        return web.json_response({"done": text})


async def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def main() -> None:
    app = web.Application()
    app.router.add_post("/{operation}", Shop(Path(sys.argv[1])).handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    print(f"shop ready listen={host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

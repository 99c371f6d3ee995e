"""An answer of the MCP endpoint: what a client that reads slowly misses, and what costs it the connection."""

from __future__ import annotations

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from outrider.mcp.answering import MAX_WAITING, Answer, json_result


async def _asked(offer: bool) -> tuple[int, bytes]:
    """Status and body of a request whose handler says more than is kept, without a pause; 0 where it was cut off."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = Answer(request, streams=True)
        try:
            for n in range(MAX_WAITING * 2):
                (answer.offer if offer else answer.tell)({"n": n})
            if answer.lost.is_set():
                raise ConnectionResetError
            return await answer.finish(json_result(7, {"answer": "it"}))
        finally:
            await answer.close()

    app = web.Application()
    app.router.add_get("/", handle)
    async with TestClient(TestServer(app)) as client:
        try:
            async with client.get("/") as response:
                return response.status, await response.read()
        except aiohttp.ClientError:
            return 0, b""


async def test_a_chatty_server_does_not_cost_its_client_the_answer() -> None:
    """What may be missed is dropped; the answer comes whole, and last."""
    status, body = await _asked(offer=True)
    events = body.strip().split(b"\n\n")
    assert status == 200 and len(events) == MAX_WAITING + 1
    assert events[-1].endswith(b'{"jsonrpc":"2.0","id":7,"result":{"answer":"it"}}')


async def test_who_would_miss_what_must_be_heard_is_cut_off() -> None:
    """So that it notices, and asks anew."""
    assert await _asked(offer=False) == (0, b"")

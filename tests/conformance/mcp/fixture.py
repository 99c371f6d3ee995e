"""The fixture: an MCP server of both eras over streamable HTTP, hand-written, for the official conformance suite and
for faults. ``python -m tests.conformance.mcp.fixture`` prints where it listens.

It serves one process's tests, so it keeps no session from growing old.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from outrider.mcp.inbound import Inbound, Rejected, argument_error, read
from outrider.mcp_wire import (
    META_SERVER,
    META_SUBSCRIPTION,
    MODERN,
    SESSION_HEADER,
    STATUS_OF,
    SUPPORTED,
)
from tests.conformance.mcp.fixture_content import (
    METHOD_NOT_FOUND,
    PROMPTS,
    RESOURCES,
    TEMPLATE,
    TOOLS,
    Context,
    Message,
    Refused,
    get_prompt,
    read_resource,
)

INFO = {"name": "fixture", "version": "1.0.0"}
CAPABILITIES: Message = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "completions": {},
    "logging": {},
}
CACHED: Message = {"ttlMs": 1000, "cacheScope": "public"}
LEGACY_ONLY = {"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}
KINDS = {"tools": "toolsListChanged", "prompts": "promptsListChanged"}


@dataclass(eq=False)
class Session:
    capabilities: Message
    waiting: dict[str, asyncio.Future[Message]] = field(default_factory=dict)
    heard: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)


class Fixture:
    """``requests`` counts what came, by method and by tool."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.listeners: dict[asyncio.Queue[Message], Message] = {}
        self.requests: list[str] = []
        self._ids = itertools.count(1)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_own_host])
        app.router.add_post("/mcp", self.post)
        app.router.add_get("/mcp", self.get)
        app.router.add_delete("/mcp", self.delete)
        return app

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def post(self, request: web.Request) -> web.StreamResponse:
        found = read(await request.read(), request.headers)
        if isinstance(found, Rejected):
            return _error(found.id, found.error.as_dict(), found.status)
        if found.modern:
            return await self._modern(request, found)
        return await self._legacy(request, found)

    async def get(self, request: web.Request) -> web.StreamResponse:
        session = self.sessions.get(request.headers.get(SESSION_HEADER, ""))
        if session is None:
            return web.Response(status=405 if SESSION_HEADER not in request.headers else 404)
        stream = Stream(request)
        await stream.open()
        while True:
            await stream.write(await session.heard.get())

    async def delete(self, request: web.Request) -> web.Response:
        if SESSION_HEADER not in request.headers:
            return web.Response(status=405)
        gone = self.sessions.pop(request.headers[SESSION_HEADER], None)
        return web.Response(status=204 if gone is not None else 404)

    async def _modern(self, request: web.Request, found: Inbound) -> web.StreamResponse:
        if not found.wants_answer:
            return web.Response(status=202)
        if found.method == "tools/call":
            known = TOOLS.get(str(found.params.get("name")))
            schema = known[0].get("inputSchema") if known else None
            wrong = argument_error(schema, found.params.get("arguments"), request.headers)
            if wrong is not None:
                return _error(found.id, wrong.as_dict(), 400)
        if found.method == "subscriptions/listen":
            return await self._listen(request, found)
        stream = Stream(request)
        context = self._context(found, stream, found.capabilities, None)
        return await self._answered(found, context, stream)

    async def _listen(self, request: web.Request, found: Inbound) -> web.StreamResponse:
        stream, heard = Stream(request), asyncio.Queue[Message]()
        tag = {"_meta": {META_SUBSCRIPTION: found.id}}
        wanted = found.params.get("notifications") or {}
        await stream.open()
        params = {**tag, "notifications": wanted}
        await stream.write({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params})
        self.listeners[heard] = wanted
        try:
            while True:
                message = await heard.get()
                await stream.write({**message, "params": {**(message.get("params") or {}), **tag}})
        finally:
            del self.listeners[heard]

    async def _legacy(self, request: web.Request, found: Inbound) -> web.StreamResponse:
        if found.method == "initialize":
            return self._initialize(found)
        session = self.sessions.get(request.headers.get(SESSION_HEADER, ""))
        if session is None:
            return _error(found.id, {"code": -32600, "message": "no such session"}, 404)
        if not found.wants_answer:
            if "method" not in found.message:
                waiting = session.waiting.pop(str(found.id), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(found.message)
            return web.Response(status=202)
        stream = Stream(request)

        async def ask(method: str, params: Message) -> Message:
            id_ = f"q{next(self._ids)}"
            answer = session.waiting[id_] = asyncio.get_running_loop().create_future()
            await stream.open()
            await stream.write({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})
            message = await answer
            if "error" in message:
                raise Refused(message["error"]["code"], message["error"]["message"])
            return message["result"]

        return await self._answered(found, self._context(found, stream, session.capabilities, ask), stream)

    def _initialize(self, found: Inbound) -> web.Response:
        asked = found.params.get("protocolVersion")
        version = asked if asked in SUPPORTED and asked != MODERN else SUPPORTED[1]
        id_ = secrets.token_hex(16)
        self.sessions[id_] = Session(found.params.get("capabilities") or {})
        result = {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": INFO}
        return web.json_response({"jsonrpc": "2.0", "id": found.id, "result": result}, headers={SESSION_HEADER: id_})

    def _context(
        self,
        found: Inbound,
        stream: Stream,
        capabilities: Message,
        ask: Callable[[str, Message], Awaitable[Message]] | None,
    ) -> Context:
        return Context(found.modern, found.params, capabilities, stream.tell, ask, self.changed, found.meta)

    async def _answered(self, found: Inbound, context: Context, stream: Stream) -> web.StreamResponse:
        self.requests.append(f"{found.method} {found.params.get('name', '')}".strip())
        try:
            result = await self._result(found.method, context)
        except Refused as refused:
            status = STATUS_OF.get(refused.error["code"], 200) if found.modern else 200
            return await stream.end({"jsonrpc": "2.0", "id": found.id, "error": refused.error}, status)
        if found.modern:
            meta = {META_SERVER: INFO, **(result.get("_meta") or {})}
            result = {"resultType": "complete", **result, "_meta": meta}
        return await stream.end({"jsonrpc": "2.0", "id": found.id, "result": result}, 200)

    def changed(self, what: str) -> None:
        """Tell everybody who wants to know."""
        message = {"jsonrpc": "2.0", "method": f"notifications/{what}/list_changed"}
        for heard, wanted in self.listeners.items():
            if wanted.get(KINDS[what]):
                heard.put_nowait(message)
        for session in self.sessions.values():
            session.heard.put_nowait(message)

    # ── methods ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _result(self, method: str, context: Context) -> Message:
        if context.modern and method in LEGACY_ONLY:
            raise Refused(METHOD_NOT_FOUND, f"no {method}")
        if method == "tools/call":
            return await self._call(context)
        if method == "prompts/get":
            return get_prompt(context)
        if method == "resources/read":
            cached = CACHED if context.modern else {}
            return {"contents": [read_resource(str(context.params.get("uri")))], **cached}
        plain: dict[str, Message] = {
            "server/discover": {"supportedVersions": list(SUPPORTED), "capabilities": CAPABILITIES, **CACHED},
            "tools/list": {"tools": [described for described, _ in TOOLS.values()], **CACHED},
            "prompts/list": {"prompts": PROMPTS, **CACHED},
            "resources/list": {"resources": RESOURCES, **CACHED},
            "resources/templates/list": {"resourceTemplates": [TEMPLATE], **CACHED},
            "completion/complete": {"completion": {"values": ["paris", "park", "party"], "hasMore": False}},
            "ping": {},
            "logging/setLevel": {},
            "resources/subscribe": {},
            "resources/unsubscribe": {},
        }
        if method not in plain:
            raise Refused(METHOD_NOT_FOUND, f"no {method}")
        return plain[method]

    async def _call(self, context: Context) -> Message:
        known = TOOLS.get(str(context.params.get("name")))
        if known is None:
            raise Refused(-32602, f"unknown tool: {context.params.get('name')}")
        return await known[1](context)


class Stream:
    """An answer: JSON, or events from the first thing that is told before it."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None
        self._told: list[asyncio.Task[None]] = []
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        if self._response is None:
            self._response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await self._response.prepare(self._request)

    def tell(self, message: Message) -> None:
        self._told.append(asyncio.get_running_loop().create_task(self.write(message)))

    async def write(self, message: Message) -> None:
        async with self._lock:
            await self.open()
            assert self._response is not None
            with contextlib.suppress(ConnectionError):
                await self._response.write(f"data: {json.dumps(message)}\n\n".encode())

    async def end(self, message: Message, status: int) -> web.StreamResponse:
        await asyncio.gather(*self._told)
        if self._response is None:
            return web.json_response(message, status=status)
        await self.write(message)
        await self._response.write_eof()
        return self._response


@web.middleware
async def _own_host(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
    origin = request.headers.get("Origin", "")
    if host not in {"127.0.0.1", "localhost", "[::1]"} or (origin and request.host not in origin):
        return web.Response(status=403)
    return await handler(request)


def _error(id_: Any, error: Message, status: int) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": id_, "error": error}, status=status)


async def main() -> None:
    runner = web.AppRunner(Fixture().app(), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    print(f"fixture ready listen={host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

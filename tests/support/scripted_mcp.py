"""An MCP server over streamable HTTP of either era, byte by byte: it does with each call as it is told, and counts what
reached it on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from outrider.mcp_wire import LEGACY, MODERN

Message = dict[str, Any]
TOOLS = [
    {"name": name, "description": f"does {name}", "inputSchema": {"type": "object"}} for name in ("look", "pay", "ask")
]


@dataclass
class Exchange:
    """One HTTP request, and how it is answered."""

    method: str
    headers: dict[str, str]
    message: Message
    writer: asyncio.StreamWriter
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def head(self, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        """A status line and headers; the body ends with the connection."""
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    def json(self, message: Any, status: int = 200, **headers: str) -> None:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.head(status, Content_Length=str(len(body)), **headers)
        self.writer.write(body)

    def result(self, result: Message, **headers: str) -> None:
        self.json({"jsonrpc": "2.0", "id": self.message["id"], "result": result}, **headers)

    def error(self, code: int, text: str, status: int = 200, **data: Any) -> None:
        told = {"code": code, "message": text, **({"data": data} if data else {})}
        self.json({"jsonrpc": "2.0", "id": self.message["id"], "error": told}, status)

    def stream(self) -> None:
        self.head(kind="text/event-stream")

    def event(self, message: Message, id_: str = "") -> None:
        said = f"id: {id_}\n" if id_ else ""
        self.writer.write(f"{said}data: {json.dumps(message)}\n\n".encode())

    def answered(self, text: str = "done") -> None:
        """The result of a call as the last event of a stream."""
        self.event({"jsonrpc": "2.0", "id": self.message["id"], "result": said(text)})

    def reset(self) -> None:
        """The connection breaks at once, with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        await self.closed.wait()


Do = Callable[[Exchange], Awaitable[None] | None]


def said(text: str) -> Message:
    return {"content": [{"type": "text", "text": text}]}


def says(text: str = "done") -> Do:
    return lambda exchange: exchange.result(said(text))


class ScriptedMcp:
    """``calls`` says what is done with each ``tools/call``, the last for ever; ``on`` with other methods. What came is
    in ``seen``, oldest first: JSON-RPC messages, and ``GET`` and ``DELETE`` as messages without a method."""

    def __init__(self, era: str = MODERN, *calls: Do) -> None:
        self.era = era
        self.calls = list(calls) or [says()]
        self.on: dict[str, Do] = {}
        self.tools: list[Message] = list(TOOLS)
        self.seen: list[Exchange] = []
        self.sessions: set[str] = set()
        self._opened = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedMcp:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def methods(self) -> list[str]:
        """Of all messages that came, in order; answers of the client as ``answer``."""
        return [one.message.get("method", "answer" if one.message else one.method) for one in self.seen]

    def count(self, method: str) -> int:
        return self.methods().count(method)

    def sent(self, method: str) -> list[Message]:
        return [one.message for one in self.seen if one.message.get("method") == method]

    def open(self) -> list[Exchange]:
        """The listening streams that are open: GET streams, and subscriptions."""
        kinds = ("GET", "subscriptions/listen")
        return [
            one
            for one in self.seen
            if (one.method in kinds or one.message.get("method") in kinds) and not one.closed.is_set()
        ]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        exchange = Exchange(first.split()[0], headers, json.loads(body) if body else {}, writer)
        self.seen.append(exchange)
        watch = asyncio.create_task(self._watch(reader, exchange))
        try:
            done = self._answer(exchange)
            if done is not None:
                await done
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        finally:
            watch.cancel()
            exchange.closed.set()
        return False

    async def _watch(self, reader: asyncio.StreamReader, exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
        exchange.closed.set()

    def _answer(self, exchange: Exchange) -> Awaitable[None] | None:
        method = exchange.message.get("method", exchange.method)
        if method in self.on:
            return self.on[method](exchange)
        if "id" not in exchange.message or "method" not in exchange.message:
            return exchange.head(405 if exchange.method == "GET" else 202, Content_Length="0")
        if self.era in LEGACY:
            return self._legacy(exchange, method)
        return self._modern(exchange, method)

    def _modern(self, exchange: Exchange, method: str) -> Awaitable[None] | None:
        if method == "server/discover":
            return exchange.result({"supportedVersions": [MODERN], "capabilities": {"tools": {"listChanged": True}}})
        if method == "tools/list":
            return exchange.result({"tools": self.tools, "ttlMs": 300_000, "cacheScope": "public"})
        if method == "tools/call":
            return self._next()(exchange)
        return exchange.error(-32601, "no such method", 404)

    def _legacy(self, exchange: Exchange, method: str) -> Awaitable[None] | None:
        if method == "initialize":
            self._opened += 1
            self.sessions.add(f"s{self._opened}")
            told = {"protocolVersion": self.era, "capabilities": {"tools": {"listChanged": True}}}
            return exchange.result({**told, "serverInfo": {"name": "x"}}, Mcp_Session_Id=f"s{self._opened}")
        if method == "server/discover":
            return exchange.error(-32600, "begin with initialize", 400)
        if exchange.headers.get("mcp-session-id") not in self.sessions:
            return exchange.error(-32001, "unknown session", 404)
        if method == "tools/list":
            return exchange.result({"tools": self.tools})
        if method == "tools/call":
            return self._next()(exchange)
        return exchange.error(-32601, "no such method")

    def _next(self) -> Do:
        return self.calls.pop(0) if len(self.calls) > 1 else self.calls[0]

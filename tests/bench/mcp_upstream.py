"""The plainest MCP servers: they answer every call at once, and nothing else of them costs.

``python -m tests.bench.mcp_upstream`` serves streamable HTTP, in both eras, on a free port, which it prints; with
``stdio`` it speaks over standard input and output, and wants a handshake.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any, cast

from tests.bench.serving import run, say, until_closed

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
VERSION = "io.modelcontextprotocol/protocolVersion"
MODERN, LEGACY = "2026-07-28", "2025-11-25"
SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}, "amount": {"type": "integer"}}}
TOOLS = [{"name": "read", "description": "Reads an account.", "inputSchema": SCHEMA}]
STRUCTURED = {"id": "42", "balance": 1730, "currency": "EUR", "ok": True}
CALLED = {"content": [{"type": "text", "text": json.dumps(STRUCTURED)}], "structuredContent": STRUCTURED}
INFO = {"name": "bench", "version": "1"}
FRESH = {"ttlMs": 3_600_000, "cacheScope": "public"}


def answered(message: dict[str, Any], *, both: bool) -> bytes:
    """The answer to a request, empty for what wants none."""
    modern = both and VERSION in ((message.get("params") or {}).get("_meta") or {})
    if "id" not in message or "method" not in message:
        return b""
    result = _result(message["method"], modern)
    found = {"result": result} if result is not None else {"error": {"code": -32601, "message": "no such method"}}
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], **found}, separators=(",", ":")).encode()


def _result(method: str, modern: bool) -> dict[str, Any] | None:
    plain = {"resultType": "complete"} if modern else {}
    if method == "tools/call":
        return {**plain, **CALLED}
    if method == "tools/list":
        return {**plain, "tools": TOOLS, **(FRESH if modern else {})}
    if method == "server/discover" and modern:
        return {**plain, "supportedVersions": [MODERN], "capabilities": {"tools": {}}, **FRESH}
    if method == "initialize" and not modern:
        return {"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": INFO}
    return {} if method == "ping" else None


class Upstream(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(data, 0, end)
            size = end + 4 + (int(found.group(1)) if found else 0)
            if size > len(data):
                break
            body = answered(json.loads(data[end + 4 : size]), both=True) if data.startswith(b"POST") else b""
            status = b"200 OK" if body else b"202 Accepted" if data.startswith(b"POST") else b"405 Not Allowed"
            head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
            self._transport.write(head + body)
            data = data[size:]
        self._rest = data


async def _http() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    say(server.sockets[0].getsockname()[1])
    await until_closed()
    server.close()


def _stdio() -> None:
    for line in sys.stdin.buffer:
        answer = answered(json.loads(line), both=False)
        if answer:
            sys.stdout.buffer.write(answer + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["stdio"]:
        _stdio()
    else:
        run(_http)

"""A small MCP client of both eras, hand-written: what the suite's client scenarios, the faults and the bench ask with.

It does nothing by itself: no retry, no list before a call, no check of what comes back.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp

from outrider.mcp_wire import (
    META_CAPABILITIES,
    META_CLIENT,
    META_VERSION,
    METHOD_HEADER,
    MODERN,
    NAME_HEADER,
    NAMED_BY,
    PARAM_HEADER,
    SESSION_HEADER,
    VERSION_HEADER,
    Message,
    encode_header,
    header_text,
    mirrored,
)

INFO = {"name": "talker", "version": "1"}
CAPABILITIES: Message = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
ACCEPT = "application/json, text/event-stream"


class Refused(Exception):
    """A JSON-RPC error, or an HTTP status without one."""

    def __init__(self, status: int, error: Message) -> None:
        super().__init__(f"HTTP {status}: {json.dumps(error)[:500]}")
        self.status = status
        self.error = error


@dataclass
class Talker:
    """``async with Talker(url, version, headers) as talker``. ``answer`` gets the server's requests and makes their
    result; ``told`` collects what the server tells before an answer."""

    url: str
    version: str = MODERN
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Callable[[Message], Message] = lambda message: {"action": "decline"}
    told: list[Message] = field(default_factory=list)

    async def __aenter__(self) -> Talker:
        self._ids = itertools.count(1)
        self._session = ""
        self._tools: dict[str, Message] = {}
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=120)
        self._http = aiohttp.ClientSession(headers=dict(self.headers), connector=connector, timeout=timeout)
        if not self.modern:
            try:
                await self._begin()
            except BaseException:
                await self._http.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    @property
    def modern(self) -> bool:
        return self.version == MODERN

    async def _begin(self) -> None:
        params = {"protocolVersion": self.version, "capabilities": CAPABILITIES, "clientInfo": INFO}
        await self.request("initialize", params)
        await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def tools(self) -> list[Message]:
        """Those that the server lists; their schemas are heeded from then on."""
        found = (await self.request("tools/list"))["tools"]
        self._tools = {tool["name"]: tool for tool in found}
        return found

    async def call(self, tool: str, arguments: Message | None = None, **more: Any) -> Message:
        """One ``tools/call``. ``more`` goes into its parameters. Raises Refused."""
        return await self.request("tools/call", {"name": tool, "arguments": arguments or {}, **more})

    async def request(self, method: str, params: Message | None = None) -> Message:
        """One request, its result. Raises Refused, and what aiohttp raises for a broken answer."""
        message: Message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": dict(params or {})}
        if self.modern:
            own = {META_VERSION: MODERN, META_CAPABILITIES: CAPABILITIES, META_CLIENT: INFO}
            message["params"]["_meta"] = {**own, **message["params"].get("_meta", {})}
        answer = await self.post(message)
        if "result" not in answer:
            raise Refused(200, answer.get("error", answer))
        return answer["result"]

    async def post(self, message: Message) -> Message:
        """Any message as it is; the answer, empty where there is none."""
        async with self._http.post(self.url, data=json.dumps(message), headers=self._dress(message)) as response:
            self._session = response.headers.get(SESSION_HEADER, self._session)
            if response.content_type == "text/event-stream":
                return await self._events(response, message["id"])
            body = await response.read()
            answer = json.loads(body) if body else {}
            if response.status >= 400:
                raise Refused(response.status, answer.get("error", answer))
            return answer

    async def _events(self, response: aiohttp.ClientResponse, id_: Any) -> Message:
        async for line in response.content:
            if not line.startswith(b"data:") or not line[5:].strip():
                continue
            message = json.loads(line[5:])
            if message.get("id") == id_ and "method" not in message:
                return message
            if "id" in message:
                result = self.answer(message)
                await self.post({"jsonrpc": "2.0", "id": message["id"], "result": result})
            else:
                self.told.append(message)
        raise aiohttp.ClientPayloadError("the stream ended before the answer")

    def _dress(self, message: Message) -> dict[str, str]:
        headers = {"Accept": ACCEPT, "Content-Type": "application/json"}
        if message.get("method") != "initialize":
            headers[VERSION_HEADER] = self.version
        if self._session:
            headers[SESSION_HEADER] = self._session
        if not self.modern or "method" not in message:
            return headers
        params = message.get("params", {})
        headers[METHOD_HEADER] = message["method"]
        if (name := params.get(NAMED_BY.get(message["method"], ""))) is not None:
            headers[NAME_HEADER] = encode_header(name)
        tool = self._tools.get(params.get("name", ""), {})
        for header, path in mirrored(tool.get("inputSchema")):
            value = _at(params.get("arguments"), path)
            if value is not None and isinstance(header, str) and (text := header_text(value)) is not None:
                headers[PARAM_HEADER + header] = text
        return headers


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value

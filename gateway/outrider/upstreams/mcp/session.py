"""One conversation with a server, in one era: how it is opened, and how each request is dressed for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from outrider import __version__
from outrider.mcp_wire import (
    LEGACY,
    META_CAPABILITIES,
    META_CLIENT,
    META_VERSION,
    METHOD_HEADER,
    MODERN,
    NAME_HEADER,
    NAMED_BY,
    PARAM_HEADER,
    UNSUPPORTED_VERSION,
    VERSION_HEADER,
    Message,
    encode_header,
    header_text,
    mirrored,
)
from outrider.upstreams.mcp.transport import Listener, McpFailure, Phase, Sending, Transport

OURSELVES = {"name": "outrider", "version": __version__}
CAPABILITIES: Mapping[str, Any] = {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}}
"""What a legacy session declares: it is one for many clients, and each may be able to do all of it. What a client
cannot do is refused when it is asked."""
MODERN_KEYS = frozenset({META_VERSION, META_CAPABILITIES, META_CLIENT})


@dataclass(frozen=True, slots=True)
class Server:
    """What a server said of itself. ``versions``: all that it speaks, as far as it told."""

    version: str
    versions: tuple[str, ...]
    info: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    instructions: str = ""


class Session:
    """Made by ``open_modern`` or ``open_legacy``. Ids of requests are never used twice."""

    def __init__(self, transport: Transport, server: Server, ids: itertools.count[int]) -> None:
        self.transport = transport
        self.server = server
        self._ids = ids

    @property
    def modern(self) -> bool:
        return self.server.version == MODERN

    def next_id(self) -> int:
        return next(self._ids)

    async def request(self, message: Message, listener: Listener, sending: Sending) -> Message:
        """Send a dressed request; the whole answer. Raises McpFailure."""
        return await self.transport.request(message, listener, sending)

    def dressed(
        self,
        method: str,
        params: Mapping[str, Any],
        meta: Mapping[str, Any],
        *,
        capabilities: Mapping[str, Any] | None = None,
        tool: Mapping[str, Any] | None = None,
    ) -> tuple[Message, dict[str, str]]:
        """The JSON-RPC request and its headers. ``meta`` is put over the ``_meta`` of ``params``; ``capabilities`` are
        the client's; ``tool`` is what the catalog has of the tool that is called."""
        own = dict(params.get("_meta") or {}) | dict(meta)
        headers = {VERSION_HEADER: self.server.version}
        if self.modern:
            own = {META_CLIENT: OURSELVES, META_CAPABILITIES: dict(capabilities or {}), **own, META_VERSION: MODERN}
            headers |= _mirror(method, params, tool)
        else:
            own = {key: value for key, value in own.items() if key not in MODERN_KEYS}
        dressed = {key: value for key, value in params.items() if key != "_meta"}
        if own:
            dressed["_meta"] = own
        return {"jsonrpc": "2.0", "id": self.next_id(), "method": method, "params": dressed}, headers


def _mirror(method: str, params: Mapping[str, Any], tool: Mapping[str, Any] | None) -> dict[str, str]:
    """What the modern era wants repeated in headers: method, name, and the arguments that the tool's schema names."""
    headers = {METHOD_HEADER: method}
    name = params.get(NAMED_BY.get(method, ""))
    if isinstance(name, str):
        headers[NAME_HEADER] = encode_header(name)
    for header, path in mirrored(tool.get("inputSchema")) if tool is not None else ():
        value = _at(params.get("arguments"), path)
        text = header_text(value) if value is not None else None
        if isinstance(header, str) and text is not None:
            headers[PARAM_HEADER + header] = text
    return headers


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def _nobody(_message: Message) -> Message:
    return {}


SILENT = Listener(sent=lambda: None, told=lambda message: None, asked=_nobody)
"""For requests of our own."""


async def open_modern(transport: Transport, sending: Sending, ids: itertools.count[int]) -> Session | tuple[str, ...]:
    """Ask a server to tell about itself; the versions that it speaks where that is not the modern one (none: it did
    not say). Raises McpFailure where nobody could be asked."""
    session = Session(transport, Server(MODERN, (MODERN,)), ids)
    answer = await _discovered(session, sending)
    if answer is not None and MODERN in _supported(answer.get("error")):
        answer = await _discovered(session, sending)  # it speaks our version and did not take it at first
    if answer is None:
        return ()
    if "error" in answer:
        return _supported(answer["error"])
    result = answer["result"] if isinstance(answer["result"], dict) else {}
    said = result.get("supportedVersions")
    versions = tuple(str(version) for version in said) if isinstance(said, list) else ()
    if MODERN not in versions:
        return versions  # none: a server of the older era that answers whatever it does not know with an empty result
    info = (result.get("_meta") or {}).get("io.modelcontextprotocol/serverInfo") or result.get("serverInfo") or {}
    session.server = Server(
        MODERN, versions, info, result.get("capabilities") or {}, str(result.get("instructions") or "")
    )
    return session


async def _discovered(session: Session, sending: Sending) -> Message | None:
    """The answer to ``server/discover``; None of a server of the older era, which wants a handshake first. Raises
    McpFailure."""
    message, headers = session.dressed("server/discover", {}, {})
    try:
        return await session.request(message, SILENT, replace(sending, headers=headers))
    except McpFailure as failure:
        if failure.peer and failure.status in {400, 404, 405, 406, 415, 422}:
            return None
        raise


def _supported(error: Any) -> tuple[str, ...]:
    if not isinstance(error, dict) or error.get("code") != UNSUPPORTED_VERSION:
        return ()
    data = error.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    return tuple(str(version) for version in supported) if isinstance(supported, list) else ()


async def open_legacy(
    transport: Transport, sending: Sending, ids: itertools.count[int], version: str = LEGACY[0]
) -> Session:
    """The handshake. Raises McpFailure, which then proves that no call was executed."""
    session = Session(transport, Server(version, (version,)), ids)
    params = {"protocolVersion": version, "capabilities": dict(CAPABILITIES), "clientInfo": OURSELVES}
    message = {"jsonrpc": "2.0", "id": session.next_id(), "method": "initialize", "params": params}
    answer = await session.request(message, SILENT, sending)
    if "error" in answer or not isinstance(answer.get("result"), dict):
        raise McpFailure(Phase.CONNECT, f"the handshake failed: {str(answer.get('error'))[:300]}", peer=True)
    result = answer["result"]
    agreed = str(result.get("protocolVersion") or "")
    if agreed not in LEGACY:
        raise McpFailure(Phase.CONNECT, f"the handshake failed: the server speaks '{agreed[:40]}'", peer=True)
    session.server = Server(
        agreed,
        (agreed,),
        result.get("serverInfo") or {},
        result.get("capabilities") or {},
        str(result.get("instructions") or ""),
    )
    transport.version = agreed
    await transport.notify({"jsonrpc": "2.0", "method": "notifications/initialized"})
    return session

"""The words of the Model Context Protocol: versions, methods, headers, codes, and how values travel in headers.

Two eras live side by side. *Legacy* versions begin with an ``initialize`` handshake and may keep a session; the
*modern* one is stateless: every request says in ``params._meta`` who asks and in which version. Messages stay JSON
objects all the way, so that what this version does not know survives.

Source: the specification's 2026-07-28 and 2025-11-25 revisions (https://modelcontextprotocol.io/specification).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Final

MODERN: Final = "2026-07-28"
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Newest first."""
SUPPORTED: Final = (MODERN, *LEGACY)

# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────

VERSION_HEADER: Final = "MCP-Protocol-Version"
SESSION_HEADER: Final = "Mcp-Session-Id"
METHOD_HEADER: Final = "Mcp-Method"
NAME_HEADER: Final = "Mcp-Name"
PARAM_HEADER: Final = "Mcp-Param-"
NAMED_BY: Final[Mapping[str, str]] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""The parameter that ``Mcp-Name`` repeats, by method."""

# ── keys of _meta ────────────────────────────────────────────────────────────────────────────────────────────────

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
META_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"
META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
META_PROGRESS: Final = "progressToken"
META_TRACE: Final = ("traceparent", "tracestate", "baggage")
OWN: Final = "dev.outrider/"
"""The prefix of our own keys: ``problem``, ``call-id``, ``run``, ``session``, ``parent``, ``deadline-ms``."""

# ── codes of JSON-RPC errors ─────────────────────────────────────────────────────────────────────────────────────

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
NO_WORD: Final = frozenset({-32000, -32001})
"""What SDKs say where they lost a connection, or did not wait for an answer: no word on what became of the request."""
STATUS_OF: Final[Mapping[int, int]] = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""The HTTP status that the modern era demands for an error; every other one travels with 200."""

Message = dict[str, Any]


class RpcError(Exception):
    """A JSON-RPC error object, of the other side or for it."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def as_dict(self) -> Message:
        error: Message = {"code": self.code, "message": self.message}
        return error if self.data is None else {**error, "data": self.data}

    @classmethod
    def of(cls, error: Any) -> RpcError:
        """What another side sent, however it is spelled."""
        if not isinstance(error, Mapping):
            return cls(INTERNAL_ERROR, "an error that is not one was answered")
        code, message = error.get("code"), error.get("message")
        known = code if isinstance(code, int) and not isinstance(code, bool) else INTERNAL_ERROR
        return cls(known, str(message)[:2000], error.get("data"))


def is_request(message: Mapping[str, Any]) -> bool:
    """It asks for an answer."""
    return isinstance(message.get("method"), str) and message.get("id") is not None


def is_notification(message: Mapping[str, Any]) -> bool:
    """It tells something."""
    return isinstance(message.get("method"), str) and "id" not in message


def is_answer(message: Mapping[str, Any]) -> bool:
    """It answers a request, well or with an error."""
    return "method" not in message and "id" in message and ("result" in message) != ("error" in message)


# ── values in headers ────────────────────────────────────────────────────────────────────────────────────────────

_OPEN, _CLOSE = "=?base64?", "?="


def encode_header(value: str) -> str:
    """As it is where a header can hold it, else in base64 between marks. What looks marked is marked too."""
    plain = value.isascii() and value.isprintable() and value == value.strip() and not _is_marked(value)
    if plain:
        return value
    return f"{_OPEN}{base64.b64encode(value.encode()).decode()}{_CLOSE}"


def decode_header(text: str) -> str:
    """Raises ValueError where what is marked as base64 is not, or is no UTF-8."""
    if not _is_marked(text):
        return text
    try:
        return base64.b64decode(text[len(_OPEN) : -len(_CLOSE)], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(f"a header's base64 cannot be read: {error}") from None


def _is_marked(text: str) -> bool:
    return text.startswith(_OPEN) and text.endswith(_CLOSE) and len(text) >= len(_OPEN) + len(_CLOSE)


MAX_SCHEMA_NODES: Final = 10_000


def mirrored(schema: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """What a tool's input schema says with ``x-mcp-header`` (a header's name), each with its argument's path.
    What is behind ``$ref`` or in a list is not looked at: the specification allows plain properties only."""
    waiting: list[tuple[Any, tuple[str, ...]]] = [(schema, ())]
    for _ in range(MAX_SCHEMA_NODES):
        if not waiting:
            return
        node, path = waiting.pop()
        properties = node.get("properties") if isinstance(node, Mapping) else None
        for name, inner in properties.items() if isinstance(properties, Mapping) else ():
            if isinstance(inner, Mapping):
                waiting.append((inner, (*path, str(name))))
                if "x-mcp-header" in inner:
                    yield inner["x-mcp-header"], (*path, str(name))


def header_text(value: Any) -> str | None:
    """An argument as a header says it; None for one that no header can hold (null, a list, an object, a fraction)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return encode_header(value)
    return str(value) if isinstance(value, int) else None

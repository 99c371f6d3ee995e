"""What came in a POST: a message in one of the eras, or what is wrong with it. Pure: headers and bytes in, a value out.

Source of the order of checks and of the statuses: the specification's 2026-07-28 revision, transports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from outrider.mcp_wire import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY,
    META_CAPABILITIES,
    META_VERSION,
    METHOD_HEADER,
    MODERN,
    NAME_HEADER,
    NAMED_BY,
    PARAM_HEADER,
    PARSE_ERROR,
    STATUS_OF,
    SUPPORTED,
    UNSUPPORTED_VERSION,
    VERSION_HEADER,
    Message,
    RpcError,
    decode_header,
    header_text,
    is_answer,
    mirrored,
)

MAX_ID_CHARS = 200
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message that may be handled. ``version`` is MODERN or, in the legacy era, what its header says (empty: none).
    ``id`` is None for what wants no answer."""

    message: Message
    version: str

    @property
    def modern(self) -> bool:
        return self.version == MODERN

    @property
    def method(self) -> str:
        return str(self.message.get("method", ""))

    @property
    def id(self) -> Any:
        return self.message.get("id")

    @property
    def wants_answer(self) -> bool:
        return "method" in self.message and "id" in self.message

    @property
    def params(self) -> Message:
        return self.message.get("params") or {}

    @property
    def meta(self) -> Message:
        return self.params.get("_meta") or {}

    @property
    def capabilities(self) -> Message:
        """What a modern client declared with this request."""
        return self.meta.get(META_CAPABILITIES) or {}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that is answered with an error before anything is done."""

    error: RpcError
    id: Any = None
    modern: bool = True

    @property
    def status(self) -> int:
        return STATUS_OF.get(self.error.code, 400)


def read(body: bytes, headers: Mapping[str, str]) -> Inbound | Rejected:
    """``headers`` must not mind the case of names."""
    said = headers.get(VERSION_HEADER, "")
    try:
        message = _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        return Rejected(RpcError(PARSE_ERROR, f"the body is no JSON: {error}"))
    if not isinstance(message, dict):
        return Rejected(RpcError(INVALID_REQUEST, "the body is one JSON-RPC message, not a batch or a bare value"))
    wrong = _shape(message)
    if wrong:
        return Rejected(RpcError(INVALID_REQUEST, wrong), _id_of(message))
    if is_legacy(message, said):
        return Inbound(message, said)
    return _modern(message, headers, said)


def is_legacy(message: Message, said: str) -> bool:
    """By the header, and by the handshake, where there is none: the modern era always says its version."""
    if said in LEGACY:
        return True
    meta = (message.get("params") or {}).get("_meta")
    says_version = isinstance(meta, dict) and META_VERSION in meta
    return (
        not said
        and (message.get("method") == "initialize" or not says_version)
        and message.get("method") != ("server/discover")
    )


def _shape(message: Message) -> str:
    """What is wrong with it as a JSON-RPC message; empty for nothing."""
    if message.get("jsonrpc") != "2.0":
        return "'jsonrpc' must be \"2.0\""
    if "method" not in message:
        return "" if is_answer(message) else "this is no request, no notification and no answer"
    if not isinstance(message["method"], str):
        return "'method' must be a text"
    if not isinstance(message.get("params") or {}, dict):
        return "'params' must be an object"
    if not isinstance((message.get("params") or {}).get("_meta") or {}, dict):
        return "'params._meta' must be an object"
    if "id" in message and _id_of(message) is None:
        return f"'id' must be a whole number or a text of at most {MAX_ID_CHARS} characters"
    return ""


def _id_of(message: Message) -> Any:
    given = message.get("id")
    if isinstance(given, str):
        return given if len(given) <= MAX_ID_CHARS else None
    return given if isinstance(given, int) and not isinstance(given, bool) else None


# ── the modern era ───────────────────────────────────────────────────────────────────────────────────────────────


def _modern(message: Message, headers: Mapping[str, str], said: str) -> Inbound | Rejected:
    found = Inbound(message, MODERN)
    if not found.wants_answer:
        return found
    error = _meta_error(found.meta) or _version_error(found.meta, said) or header_error(found, headers)
    return found if error is None else Rejected(error, found.id)


def _meta_error(meta: Message) -> RpcError | None:
    for key, kind in ((META_VERSION, str), (META_CAPABILITIES, dict)):
        if not isinstance(meta.get(key), kind):
            return RpcError(INVALID_PARAMS, f"'params._meta[\"{key}\"]' is missing or of another type")
    return None


def _version_error(meta: Message, said: str) -> RpcError | None:
    wanted = meta[META_VERSION]
    if said != wanted:
        return RpcError(
            HEADER_MISMATCH, f"the header {VERSION_HEADER} ({said[:40]!a}) does not equal the body's version"
        )
    if wanted != MODERN:
        data = {"supported": list(SUPPORTED), "requested": wanted[:40]}
        return RpcError(UNSUPPORTED_VERSION, f"version {wanted[:40]!a} is not supported here", data)
    return None


def header_error(found: Inbound, headers: Mapping[str, str]) -> RpcError | None:
    """Method and name must stand in headers as they stand in the body: whoever reads only headers on the way must not
    be told something else."""
    said = headers.get(METHOD_HEADER)
    if said is None or said.strip() != found.method:
        return RpcError(HEADER_MISMATCH, f"the header {METHOD_HEADER} is missing or does not equal the body's method")
    named_by = NAMED_BY.get(found.method)
    if named_by is None:
        return None
    given = headers.get(NAME_HEADER)
    try:
        name = None if given is None else decode_header(given.strip())
    except ValueError as error:
        return RpcError(HEADER_MISMATCH, str(error))
    if name is None or name != found.params.get(named_by):
        return RpcError(HEADER_MISMATCH, f"the header {NAME_HEADER} is missing or does not equal 'params.{named_by}'")
    return None


def argument_error(schema: Any, arguments: Any, headers: Mapping[str, str]) -> RpcError | None:
    """Arguments that the tool's schema wants repeated in headers (``x-mcp-header``) must stand there, and be equal."""
    for header, path in mirrored(schema):
        if not isinstance(header, str):
            continue
        value = _at(arguments, path)
        expected = None if value is None else header_text(value)
        given = headers.get(PARAM_HEADER + header)
        if not _agree(given, value, expected):
            name = PARAM_HEADER + header[:60]
            return RpcError(HEADER_MISMATCH, f"the header {name} is missing, or does not equal its argument")
    return None


def _agree(given: str | None, value: Any, expected: str | None) -> bool:
    if given is None or expected is None:
        return given is None and expected is None
    try:
        decoded = decode_header(given.strip())
    except ValueError:
        return False
    return decoded == (value if isinstance(value, str) else expected)


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value

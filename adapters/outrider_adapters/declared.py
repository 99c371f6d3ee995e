"""What this process declares of its tools: a digest of each one's name, description and schema.

It is made once for each tool as it is, not for each call, and sent with the first call on a connection and whenever it
has changed. A tool that cannot be described has no digest, and nothing is said of it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any

import msgspec

log = logging.getLogger("outrider")

MAX_KEPT = 2000
"""Digests kept; a program that makes tools without end makes them again."""
MAX_AT_HELLO = 200
"""Governed functions that are declared with the greeting."""

_canonical = msgspec.json.Encoder(order="sorted", enc_hook=str).encode
_kept: dict[Hashable, tuple[str, Any]] = {}
_functions: dict[str, str] = {}
_lock = threading.Lock()


def digest(name: str, description: str, schema: Any) -> str:
    """``sha256:…`` of all that a model is told of a tool."""
    told = _canonical({"name": name, "description": description, "schema": schema})
    return f"sha256:{hashlib.sha256(told).hexdigest()}"


def of(tool: Hashable, holds: Any, describe: Callable[[], tuple[str, str, Any]]) -> str:
    """The digest of a tool that ``tool`` tells apart from every other one as it is now; empty where there is none.
    ``holds`` is what must live as long as that is true: an object whose ``id`` is a part of it."""
    try:
        kept = _kept.get(tool)
    except TypeError:  # something of it has no hash
        return ""
    if kept is None:
        kept = _made(describe), holds
        with _lock:
            if len(_kept) >= MAX_KEPT:
                _kept.clear()
            _kept[tool] = kept
    return kept[0]


def _made(describe: Callable[[], tuple[str, str, Any]]) -> str:
    try:
        return digest(*describe())
    except Exception as error:  # whatever a framework or a schema does; the call itself must not suffer
        log.debug("a tool cannot be described: %s", error)
        return ""


def governs(tool: str, made: str) -> None:
    """A function is governed from now on; the next greeting says so."""
    with _lock:
        if made and len(_functions) < MAX_AT_HELLO:
            _functions[tool] = made


def at_hello() -> list[tuple[str, str]]:
    """The governed functions and their digests."""
    with _lock:
        return list(_functions.items())


def schema_of(model: Any) -> Any:
    """The JSON schema of a pydantic model, or what is one already."""
    return model if isinstance(model, dict) else model.model_json_schema()

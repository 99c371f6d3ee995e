"""What the gateway is told of an exception: its qualified names along the MRO, its text, a status, a wait.

The gateway judges (it holds the tables); this file only reads what the common libraries put on their exceptions:
requests, httpx, aiohttp, urllib, botocore and gRPC.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from outrider.wire import Raised

TEXT_CHARS = 2000
MAX_NAMES = 40
MAX_WAIT_S = 86_400.0
MAX_GROUPS = 10
MCP_CLOSED = -32000
"""How the MCP client tells a request whose connection broke, in the place of the server's answer."""
OUTERMOST = frozenset({object, BaseException})


def raised(error: BaseException) -> Raised:
    """Never raises: an exception whose own methods raise is told by its class."""
    error = alone(error)
    names = names_of(error)
    return Raised(_name(type(error)), text_of(error), names, _guarded(_status, error), _guarded(_retry_after_s, error))


def alone(error: BaseException) -> BaseException:
    """The one exception inside a group, which a task group puts around whatever passes it; else the error itself."""
    for _ in range(MAX_GROUPS):
        if not isinstance(error, BaseExceptionGroup) or len(error.exceptions) != 1:
            break
        error = error.exceptions[0]
    return error


def names_of(error: BaseException) -> tuple[str, ...]:
    """Qualified names, most specific first. requests and urllib3 hide *why* no connection was made inside their
    arguments; that reason is more specific than the wrapper, and tells "never sent" from "may have run"."""
    inner = _guarded(_inner_reason, error)
    kinds = [*(type(inner).__mro__ if inner is not None else ()), *type(error).__mro__]
    names = dict.fromkeys(_name(kind) for kind in kinds if kind not in OUTERMOST)
    return tuple(names)[:MAX_NAMES]


def text_of(error: BaseException) -> str:
    """The exception's own words, cut."""
    try:
        text = str(error)
    except Exception:
        return ""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _guarded(reader: Any, error: BaseException) -> Any:
    try:
        return reader(error)
    except Exception:
        return None


def _inner_reason(error: BaseException) -> BaseException | None:
    """requests' ``ConnectionError(MaxRetryError(…, reason=NewConnectionError(…)))``; urllib3's and urllib's own; the
    MCP client's lost connection, which has the form of an answer."""
    if getattr(getattr(error, "error", None), "code", None) == MCP_CLOSED and type(error).__name__ == "McpError":
        return ConnectionResetError()
    for holder in (error, error.args[0] if error.args else None):
        reason = getattr(holder, "reason", None)
        if isinstance(reason, BaseException):
            return reason
    return None


def _status(error: Any) -> int | None:
    """The other side's status. ``requests.Response`` is falsy for an error status: never test it for truth."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        return _whole(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for holder, attribute in ((response, "status_code"), (response, "status"), (error, "status_code")):
        found = _whole(getattr(holder, attribute, None))
        if found is not None:
            return found
    return _whole(getattr(error, "status", None)) or _code(error)


def _code(error: Any) -> int | None:
    """urllib's ``code`` is a number; gRPC's is a method whose answer's value is (number, text)."""
    code = getattr(error, "code", None)
    if callable(code):
        return _whole(code().value[0])
    return _whole(code)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1000 else None


def _retry_after_s(error: Any) -> float | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        headers: Any = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    else:
        headers = getattr(response, "headers", None) or getattr(error, "headers", None)
    text = _header(headers) if headers is not None else None
    if text is None:
        return _seconds(getattr(error, "retry_after", None))
    return _seconds(text)


def _header(headers: Any) -> str | None:
    """A mapping of a library looks up without regard to case; botocore's is a plain dict in lower case."""
    found = headers.get("Retry-After")
    found = headers.get("retry-after") if found is None else found
    return None if found is None else str(found)


def _seconds(value: Any) -> float | None:
    """Seconds from now: a number, its text, or an HTTP date. Nonsense is no wait."""
    if value is None or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        moment = email.utils.parsedate_to_datetime(str(value))
        seconds = (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return seconds if 0 <= seconds <= MAX_WAIT_S else None

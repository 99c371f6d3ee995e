"""What a scripted upstream does with each request it gets.

A script maps paths to steps. A path's first request gets the first step, its second the second, and so on; the last
step repeats. Steps are made by the functions below and are values: they can be written to JSON and read back.

    {
        "/pay": [unavailable(retry_after_s=1), reset(), respond(json={"paid": True})],
        "GET /accounts/*": [hang().times(2), respond(json={"balance": 7}).after(0.05)],
        "*": [echo()],
    }

A path is exact or a prefix with ``*``, with a method before it or without. The most exact one decides: exact over
prefix, longer over shorter, with a method over without. What no path matches gets ``echo()``.
"""

from __future__ import annotations

import base64
import json as json_
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What can be done with a request."""

    RESPOND = "respond"
    ECHO = "echo"
    HANG = "hang"
    HOLD = "hold"
    RESET = "reset"
    RESET_AFTER_HEADERS = "reset_after_headers"
    TRUNCATE = "truncate"
    DRIP = "drip"
    GARBAGE = "garbage"
    HUGE = "huge"
    CLOSE = "close"
    STALE = "stale"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do. Make it with the functions of this module, then ``after(seconds)`` or ``times(n)``."""

    do: Action
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    latency_s: float = 0.0  # before it is done
    for_s: float | None = None  # hang, refuse: how long; None: until the test ends it
    size: int = 0  # huge: bytes of the body; truncate, reset_after_headers: how many of the body are sent
    every_s: float = 0.0  # drip: pause between two chunks
    chunk: int = 1  # drip: bytes in a chunk
    then_close: bool = False  # respond: close the connection afterwards without having said so
    repeat: int = 1  # for how many requests

    def after(self, latency_s: float) -> Step:
        """The same, ``latency_s`` seconds later."""
        return replace(self, latency_s=latency_s)

    def times(self, count: int) -> Step:
        """The same for ``count`` requests in a row."""
        if count < 1:
            raise ValueError("a step is done at least once")
        return replace(self, repeat=count)

    def as_json(self) -> dict[str, Any]:
        """The JSON form: only what differs from the defaults; a body that is not text as ``body_base64``."""
        shown: dict[str, Any] = {"do": self.do.value}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in {"do", "body"} or value in (item.default, {}):
                continue
            shown[item.name] = dict(value) if item.name == "headers" else value
        if self.body:
            try:
                shown["body"] = self.body.decode()
            except UnicodeDecodeError:
                shown["body_base64"] = base64.b64encode(self.body).decode()
        return shown

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Step:
        """Read the JSON form; ``json`` may stand for ``body``. Raises ValueError with what is wrong."""
        given = dict(shown)
        try:
            action = Action(given.pop("do"))
        except (KeyError, ValueError):
            raise ValueError(f"a step needs 'do', one of {', '.join(Action)}; got {dict(shown)!r}") from None
        headers = dict(given.pop("headers", {}))
        body = _body(given.pop("json", _NOTHING), given.pop("body", None), headers)
        if "body_base64" in given:
            body = base64.b64decode(given.pop("body_base64"))
        unknown = given.keys() - {item.name for item in fields(cls)}
        if unknown:
            raise ValueError(f"a step has no {', '.join(sorted(unknown))}; got {dict(shown)!r}")
        return cls(do=action, headers=headers, body=body, **given)


_NOTHING: Any = object()


def respond(
    status: int = 200,
    json: Any = _NOTHING,
    body: str | bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    then_close: bool = False,
) -> Step:
    """An answer. ``then_close``: the connection, kept alive as far as the client knows, is closed right after it."""
    sent = dict(headers or {})
    content = _body(json, body, sent)
    return Step(do=Action.RESPOND, status=status, headers=sent, body=content, then_close=then_close)


def unavailable(retry_after_s: float | str | None = None, status: int = 503) -> Step:
    """503 (or 429 …), with ``Retry-After`` where given: whole seconds, or any text to send as it is."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return respond(status, json={"error": "unavailable"}, headers=headers)


def echo() -> Step:
    """200 with the request as JSON: method, path, query, headers, body."""
    return Step(do=Action.ECHO)


def hang(for_s: float | None = None) -> Step:
    """No answer. After ``for_s`` seconds the connection is closed; None: it stays until the client leaves."""
    return Step(do=Action.HANG, for_s=for_s)


def hold(json: Any = _NOTHING, status: int = 200) -> Step:
    """No answer until the test calls ``release()``, then this one: for tests that need calls in flight."""
    headers: dict[str, str] = {}
    return Step(do=Action.HOLD, status=status, body=_body(json, None, headers), headers=headers)


def reset() -> Step:
    """The connection is reset (TCP RST) after the request was read, before any byte of an answer."""
    return Step(do=Action.RESET)


def reset_after_headers(body: str | bytes = b'{"half": ', sent: int | None = None, status: int = 200) -> Step:
    """A head that announces one byte more than ``body``, ``sent`` bytes of ``body`` (None: all), then TCP RST."""
    content = _bytes(body)
    return Step(do=Action.RESET_AFTER_HEADERS, status=status, body=content, size=len(content) if sent is None else sent)


def truncate(body: str | bytes = b'{"whole": "no, the end is missing"}', sent: int = 10, status: int = 200) -> Step:
    """An answer that announces ``body`` whole, sends ``sent`` bytes of it and closes the connection in good order."""
    return Step(do=Action.TRUNCATE, status=status, body=_bytes(body), size=sent)


def drip(body: str | bytes = b'{"slow": true}', every_s: float = 0.05, chunk: int = 1, status: int = 200) -> Step:
    """A whole answer, ``chunk`` bytes of its body every ``every_s`` seconds."""
    return Step(do=Action.DRIP, status=status, body=_bytes(body), every_s=every_s, chunk=max(1, chunk))


def garbage(body: str | bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n") -> Step:
    """Bytes that are no HTTP, then the connection is closed."""
    return Step(do=Action.GARBAGE, body=_bytes(body))


def huge(size: int, status: int = 200) -> Step:
    """An answer whose body is a JSON string of ``size`` bytes. It is never held in memory whole."""
    return Step(do=Action.HUGE, size=max(2, size), status=status)


def close() -> Step:
    """The connection is closed in good order without any answer."""
    return Step(do=Action.CLOSE)


def stale(json: Any = _NOTHING, status: int = 200) -> Step:
    """An answer that keeps the connection alive, which is then closed by the next request on it, unanswered.

    What a client meets that re-uses a connection at the moment in which the server gives it up. The request that met
    the closing is counted as received."""
    headers: dict[str, str] = {}
    return Step(do=Action.STALE, status=status, body=_body(json, None, headers), headers=headers)


def refuse(for_s: float | None = None) -> Step:
    """Every connection is reset and the port is closed: further ones are refused. The same port opens again after
    ``for_s`` seconds (None: when the test calls ``accept()``)."""
    return Step(do=Action.REFUSE, for_s=for_s)


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body


def _body(json: Any, body: str | bytes | None, headers: dict[str, str]) -> bytes:
    """The body's bytes; ``headers`` gains the content type that goes with JSON."""
    if json is not _NOTHING and body is not None:
        raise ValueError("give a step either json or body, not both")
    if json is not _NOTHING:
        headers.setdefault("Content-Type", "application/json")
        return json_.dumps(json).encode()
    return _bytes(body) if body is not None else b""


Steps = Step | Iterable[Step]


class Script:
    """Paths and their steps, and how far each has come."""

    def __init__(self, steps: Mapping[str, Steps] | None = None) -> None:
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._seen: dict[str, int] = {}
        self.update(steps or {})

    def update(self, steps: Mapping[str, Steps]) -> None:
        """Set the steps of these paths; they begin anew."""
        for path, given in steps.items():
            found = (given,) if isinstance(given, Step) else tuple(given)
            if not found:
                raise ValueError(f"'{path}' needs at least one step")
            self._steps[path] = found
            self._seen[path] = 0

    def steps(self) -> Mapping[str, tuple[Step, ...]]:
        """The steps of every path."""
        return self._steps

    def next(self, method: str, path: str) -> Step:
        """The step for this request."""
        key = self._match(method, path)
        if key is None:
            return echo()
        number, self._seen[key] = self._seen[key], self._seen[key] + 1
        for step in self._steps[key]:
            number -= step.repeat
            if number < 0:
                return step
        return self._steps[key][-1]

    def _match(self, method: str, path: str) -> str | None:
        best: tuple[tuple[bool, int, bool], str] | None = None
        for key in self._steps:
            wanted_method, _, pattern = key.rpartition(" ")
            if wanted_method not in ("", method) or not path_matches(pattern, path):
                continue
            rank = (not pattern.endswith("*"), len(pattern), bool(wanted_method))
            if best is None or rank > best[0]:
                best = (rank, key)
        return None if best is None else best[1]

    def as_json(self) -> dict[str, Any]:
        """The JSON form: ``{path: [step, …]}``."""
        return {path: [step.as_json() for step in steps] for path, steps in self._steps.items()}

    @classmethod
    def from_json(cls, shown: Any) -> Script:
        """Read the JSON form; one step may stand without its list. Raises ValueError with what is wrong and where."""
        if not isinstance(shown, dict):
            raise ValueError('a script is an object: {"/path": [{"do": "respond", …}, …], …}')
        return cls({path: _steps_of(path, given) for path, given in shown.items()})


def _steps_of(path: str, given: Any) -> tuple[Step, ...]:
    try:
        return tuple(Step.from_json(step) for step in (given if isinstance(given, list) else [given]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"'{path}': {error}") from None


def path_matches(pattern: str, path: str) -> bool:
    """Whether an exact path or a prefix with ``*`` takes this path (without its query)."""
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern

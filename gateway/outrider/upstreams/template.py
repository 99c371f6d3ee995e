"""How arguments become a request: templates of path, query, headers and body.

``{args.path.to.value}`` is the only thing a template names. In a path every value is percent-encoded whole, slashes
too, and can be neither empty nor a dot segment: an argument must not choose another resource than the template's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from outrider.policy.plans import HttpTemplate

PLACEHOLDER = re.compile(r"\{args((?:\.[A-Za-z0-9_-]+)+)\}")
METHODS_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE"})
_MISSING = object()
encode_json = msgspec.json.Encoder(enc_hook=str).encode


class TemplateError(ValueError):
    """The arguments do not fit the template; the sentence is for the caller."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to send. ``path`` is encoded and includes the query; ``body`` is bytes or None."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


def render(template: HttpTemplate, operation: str, args: Mapping[str, Any]) -> Request:
    """The request for ``operation`` with ``args``. The same arguments give the same bytes, attempt after attempt.

    Raises TemplateError."""
    used: set[str] = set()
    path = _path(template.path, args, used) if template.path else _operation_path(operation)
    query = {name: text for name, value in template.query.items() if (text := _query(value, args, used)) is not None}
    headers = {name: _header(name, value, args, used) for name, value in template.headers.items()}
    method = template.method.upper()
    if template.body is not None:
        body = encode_json(_body(template.body, args, used))
        return Request(method, path + _suffix(query), {"Content-Type": "application/json", **headers}, body)
    rest = {name: value for name, value in args.items() if name not in used}
    if method in METHODS_WITHOUT_BODY:
        query.update((name, _text(value)) for name, value in rest.items() if value is not None)
        return Request(method, path + _suffix(query), headers, None)
    return Request(method, path + _suffix(query), {"Content-Type": "application/json", **headers}, encode_json(rest))


def _suffix(query: Mapping[str, str]) -> str:
    return "?" + urlencode(query) if query else ""


@lru_cache(maxsize=4096)
def _names(template: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each placeholder's text and the path of keys that it names."""
    return tuple((found.group(0), tuple(found.group(1)[1:].split("."))) for found in PLACEHOLDER.finditer(template))


def _lookup(args: Mapping[str, Any], keys: tuple[str, ...], used: set[str]) -> Any:
    value: Any = args
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    used.add(keys[0])
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Every placeholder replaced, in one pass: a value that looks like a placeholder is only a value."""
    return PLACEHOLDER.sub(lambda found: values[found.group(0)], template) if values else template


@lru_cache(maxsize=4096)
def _operation_path(operation: str) -> str:
    """Where a tool without a template is."""
    return f"/{quote(operation, safe='')}"


def _path(template: str, args: Mapping[str, Any], used: set[str]) -> str:
    values: dict[str, str] = {}
    for placeholder, keys in _names(template):
        value = _lookup(args, keys, used)
        if value is _MISSING or value is None or value == "":
            raise TemplateError(f"the argument '{'.'.join(keys)}' is needed: it is part of the path {template}")
        values[placeholder] = quote(_text(value), safe="")
    filled = _fill(template, values)
    segments = zip(template.split("/"), filled.split("/"), strict=True)  # a value holds no slash once it is encoded
    if any("{" in pattern and segment in {"", ".", ".."} for pattern, segment in segments):
        raise TemplateError(f"the arguments make an empty or dot segment in the path {template}")
    return filled if filled.startswith("/") else "/" + filled


def _query(template: str, args: Mapping[str, Any], used: set[str]) -> str | None:
    """The value of one query parameter; None leaves it out, where an argument that it names is not given."""
    values: dict[str, str] = {}
    for placeholder, keys in _names(template):
        value = _lookup(args, keys, used)
        if value is _MISSING or value is None:
            return None
        values[placeholder] = _text(value)
    return _fill(template, values)


def _header(name: str, template: str, args: Mapping[str, Any], used: set[str]) -> str:
    text = _query(template, args, used) or ""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise TemplateError(f"the arguments put a control character into the header {name}")
    return text


def _body(template: Any, args: Mapping[str, Any], used: set[str]) -> Any:
    """A body template: a string that is one placeholder becomes the value itself, with its type."""
    if isinstance(template, str):
        names = _names(template)
        if len(names) == 1 and names[0][0] == template:
            value = _lookup(args, names[0][1], used)
            return None if value is _MISSING else value
        return _query(template, args, used)
    if isinstance(template, Mapping):
        return {key: _body(value, args, used) for key, value in template.items()}
    if isinstance(template, (list, tuple)):
        return [_body(value, args, used) for value in template]
    return template

"""An OpenAPI file as data: JSON or YAML, of any size and depth that people write, and bounded for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec
import yaml
from yaml import events as ev

from outrider.errors import Misconfigured

MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_YAML_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 200
MAX_HOPS = 20
"""References that lead to references."""
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


def read(raw: bytes, name: str) -> dict[str, Any]:
    """What the file says. Keys are text. Raises Misconfigured."""
    is_json = raw.lstrip()[:1] == b"{"
    most = MAX_JSON_BYTES if is_json else MAX_YAML_BYTES
    if len(raw) > most:
        raise Misconfigured(f"{name} has {len(raw)} bytes; at most {most} are read.")
    try:
        found = msgspec.json.decode(raw) if is_json else _Yaml(raw).read()
    except (msgspec.DecodeError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise Misconfigured(f"{name} is neither JSON nor YAML: {said}") from None
    if not isinstance(found, dict):
        raise Misconfigured(f"{name} is no OpenAPI document: it is no object.")
    return found


@dataclass(slots=True)
class Document:
    """The whole, for what refers to other places of it."""

    root: dict[str, Any]
    outside: set[str] = field(default_factory=set)  # references that lead out of the file, or nowhere

    def at(self, value: Any) -> dict[str, Any]:
        """An object, behind its references; empty for what is none, leads out of the file or round in circles."""
        for _ in range(MAX_HOPS):
            if not isinstance(value, dict):
                return {}
            pointer = value.get("$ref")
            if not isinstance(pointer, str):
                return value
            value = self._found(pointer)
        return {}

    def _found(self, pointer: str) -> Any:
        value: Any = self.root
        if not pointer.startswith("#/"):
            self.outside.add(pointer[:200])
            return None
        for step in pointer[2:].split("/"):
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if not isinstance(value, dict) or key not in value:
                self.outside.add(pointer[:200])
                return None
            value = value[key]
        return value


class _Yaml:
    """From the parser's events: they need no recursion, so that deep text is a fault and not a crash. Only words are
    told from text; numbers stay text, which is all that is needed of them here."""

    def __init__(self, raw: bytes) -> None:
        self._events: Iterator[ev.Event] = yaml.parse(raw.decode("utf-8-sig"), Loader=yaml.CSafeLoader)
        self._anchors: dict[str, Any] = {}

    def read(self) -> Any:
        for event in self._events:
            if isinstance(event, ev.DocumentStartEvent):
                return self._value(next(self._events), 0)
        return None

    def _value(self, event: ev.Event, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, ev.AliasEvent):
            return self._anchors.get(str(event.anchor))
        value = self._made(event, depth)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[str(anchor)] = value
        return value

    def _made(self, event: ev.Event, depth: int) -> Any:
        if isinstance(event, ev.ScalarEvent):
            text = str(event.value)
            return _WORDS.get(text, text) if event.implicit[0] else text
        if isinstance(event, ev.SequenceStartEvent):
            entries = []
            while not isinstance(inner := next(self._events), ev.SequenceEndEvent):
                entries.append(self._value(inner, depth + 1))
            return entries
        found: dict[str, Any] = {}
        while not isinstance(key := next(self._events), ev.MappingEndEvent):
            if not isinstance(key, ev.ScalarEvent):
                raise ValueError("a key is not text")
            found[str(key.value)] = self._value(next(self._events), depth + 1)
        return found

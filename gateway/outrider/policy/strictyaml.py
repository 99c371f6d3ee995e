"""One YAML file, read strictly as YAML 1.2: data with the line of every value, and every fault found on the way.

Built from the events of libyaml's parser, not from composed nodes: events need no recursion, so that text which nests a
hundred thousand levels deep is a fault and not a crash; and they say where an anchor, an alias or a tag stands. Scalars
are resolved by the YAML 1.2 core schema: ``on``, ``off``, ``yes``, ``1:30`` and ``2024-01-01`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from yaml import events as ev

from outrider.errors import Fault

MAX_DEPTH = 24
"""The deepest a policy nests by itself is 8; the rest is for values of fallbacks and bodies."""
MAX_BYTES = 4 * 1024 * 1024
"""The largest file."""

MAX_FAULTS = 200
"""Of one file, after which it is not read further."""

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_FIRST_OF_NUMBER = frozenset("+-.0123456789")


@dataclass(slots=True)
class Place:
    """Where a value stands, and where what it holds stands. Lines count from 1; of a key's value it is the key's."""

    line: int
    inside: dict[str, Place] | list[Place] | None = None

    def line_of(self, path: Path) -> int:
        """The line of what ``path`` leads to, or of the nearest thing around it."""
        place = self
        for step in path:
            below = place.below(step)
            if below is None:
                break
            place = below
        return place.line

    def below(self, step: str | int) -> Place | None:
        """Where the value of this key or index stands; None where there is none."""
        if isinstance(self.inside, dict) and isinstance(step, str):
            return self.inside.get(step)
        if isinstance(self.inside, list) and isinstance(step, int) and step < len(self.inside):
            return self.inside[step]
        return None


@dataclass(slots=True)
class Document:
    """What one file says. ``data`` is None where nothing could be read."""

    file: str
    data: Any = None
    place: Place = field(default_factory=lambda: Place(1))
    faults: list[Fault] = field(default_factory=list)


class _Stop(Exception):
    """Nothing more of this file can be read."""


def read(file: str, raw: bytes) -> Document:
    """Read one file. Never raises for its content; the faults are in the answer, codes E03 and E40 to E42."""
    document = Document(file)
    reader = _Reader(document)
    try:
        reader.read(raw)
    except _Stop:
        pass
    except yaml.MarkedYAMLError as bad:
        mark = bad.problem_mark or bad.context_mark
        reader.fault(mark.line + 1 if mark else 0, (), "E40", f"not YAML: {_said(bad)}.", _SYNTAX_FIX)
    except yaml.YAMLError as bad:
        position = getattr(bad, "position", 0)
        line = raw[:position].count(b"\n") + 1
        reader.fault(line, (), "E40", "not YAML: a control character stands in it.", "remove it.")
    return document


_SYNTAX_FIX = (
    "look at the indentation (spaces, never tabs), the quotes and the brackets of this line and the one above."
)


def _said(bad: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (bad.context, bad.problem) if part)


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._events: Iterator[ev.Event] = iter(())
        self._begun = False
        self._anchors: dict[str, tuple[Any, Place]] = {}

    def fault(self, line: int, path: Path, code: str, message: str, fix: str) -> None:
        if len(self._document.faults) >= MAX_FAULTS:
            raise _Stop
        self._document.faults.append(Fault(self._document.file, line, show_path(path), message, fix, code))

    def _stop(self, line: int, path: Path, code: str, message: str, fix: str) -> NoReturn:
        self.fault(line, path, code, message, fix)
        raise _Stop

    def read(self, raw: bytes) -> None:
        if len(raw) > MAX_BYTES:
            self._stop(
                0, (), "E42", f"the file has {len(raw)} bytes; at most {MAX_BYTES}.", "divide it into several files."
            )
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as bad:
            line = raw[: bad.start].count(b"\n") + 1
            self._stop(line, (), "E40", "not UTF-8.", "save the file as UTF-8.")
        self._events = yaml.parse(text, Loader=yaml.CSafeLoader)
        for event in self._events:
            if isinstance(event, ev.DocumentStartEvent):
                self._document_start(event)

    def _document_start(self, event: ev.DocumentStartEvent) -> None:
        if self._begun:
            fix = "put the second document into a file of its own; the files of a folder are one policy."
            self._stop(_line(event), (), "E41", "a second document begins here.", fix)
        self._begun = True
        first = next(self._events)
        self._document.data, self._document.place = self._value(first, _line(first), ())

    def _value(self, event: ev.Event, line: int, path: Path) -> tuple[Any, Place]:
        if isinstance(event, ev.AliasEvent):
            return self._alias(event, path)
        if len(path) > MAX_DEPTH:
            self._stop(line, path[:4], "E42", f"nested deeper than {MAX_DEPTH} levels.", "make it flatter.")
        place = Place(line)
        value: Any
        if isinstance(event, ev.ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, ev.MappingStartEvent):
            value, place.inside = self._mapping(path)
        else:
            value, place.inside = self._sequence(path)
        if isinstance(event, ev.NodeEvent) and event.anchor is not None:
            self._anchors[event.anchor] = (value, place)
            message = f"anchors and aliases are not supported: '&{event.anchor}'."
            self.fault(_line(event), path, "E41", message, "remove it; put what tools share into defaults.")
        if getattr(event, "tag", None) is not None:
            message = f"tags are not supported: '{event.tag}'."  # type: ignore[attr-defined]
            self.fault(_line(event), path, "E41", message, "remove it; quote the value to make it text.")
        return value, place

    def _alias(self, event: ev.AliasEvent, path: Path) -> tuple[Any, Place]:
        line = _line(event)
        message = f"anchors and aliases are not supported: '*{event.anchor}'."
        self.fault(line, path, "E41", message, "write the value out, or put what tools share into defaults.")
        if event.anchor not in self._anchors:
            raise _Stop
        value, place = self._anchors[event.anchor]
        return value, Place(line, place.inside)

    def _mapping(self, path: Path) -> tuple[dict[str, Any], dict[str, Place]]:
        values: dict[str, Any] = {}
        places: dict[str, Place] = {}
        while not isinstance(event := next(self._events), ev.MappingEndEvent):
            line = _line(event)
            key = self._key(event, path)
            value, place = self._value(next(self._events), line, (*path, key))
            if key in places:
                first = places[key].line
                fix = "keep one of the two."
                self.fault(line, (*path, key), "E03", f"duplicate key '{key}' (first at line {first}).", fix)
                continue
            values[key], places[key] = value, place
        return values, places

    def _key(self, event: ev.Event, path: Path) -> str:
        if not isinstance(event, ev.ScalarEvent):
            self._stop(_line(event), path, "E44", "a key is not text.", "write a word as the key.")
        key = str(event.value)
        if event.implicit[0] and not isinstance(_resolve(key), str):
            fix = f"write '{key}' in quotes if it is meant." if key else "write a word before the colon."
            self.fault(_line(event), path, "E44", f"the key '{key}' is not text.", fix)
        return key

    def _sequence(self, path: Path) -> tuple[list[Any], list[Place]]:
        values: list[Any] = []
        places: list[Place] = []
        while not isinstance(event := next(self._events), ev.SequenceEndEvent):
            value, place = self._value(event, _line(event), (*path, len(values)))
            values.append(value)
            places.append(place)
        return values, places

    def _scalar(self, event: ev.ScalarEvent, path: Path) -> Any:
        text = event.value
        if not event.implicit[0]:
            return text
        value = _resolve(text)
        if isinstance(value, _Unfit):
            self.fault(
                _line(event), path, "E44", f"the number {text[:40]} {value.why}.", "write it as text, in quotes."
            )
            return 0
        return value


@dataclass(frozen=True, slots=True)
class _Unfit:
    why: str


def _resolve(text: str) -> Any:
    """A plain scalar by the YAML 1.2 core schema (section 10.3.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _FIRST_OF_NUMBER:
        return text
    if _INT.fullmatch(text):
        return _integer(text)
    if _NOT_FINITE.fullmatch(text):
        return _Unfit("is not a finite number")
    if not _FLOAT.fullmatch(text):
        return text
    number = float(text)
    return number if abs(number) != float("inf") else _Unfit("is too large")


def _integer(text: str) -> int | _Unfit:
    if len(text) > 66:
        return _Unfit("does not fit into 64 bits")
    number = int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    return number if -(2**63) <= number < 2**63 else _Unfit("does not fit into 64 bits")


def _line(event: ev.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def show_path(path: Path) -> str:
    """``tools[3].retry.maxAttempts``."""
    shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return shown.removeprefix(".")

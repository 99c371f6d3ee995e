"""YAML for people, with comments. What agents and policies chose as names cannot leave the line it stands on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from outrider.policy.units import parse_duration, parse_rate, parse_size

WIDTH = 110
HEAD_LINES = 2
"""``apiVersion`` and ``kind`` stand together."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


@dataclass(frozen=True, slots=True)
class Noted:
    """A value with a comment; ``above`` stands on lines of its own."""

    value: Any
    note: str = ""
    above: tuple[str, ...] = ()


def dump(document: Mapping[str, Any]) -> str:
    """A document of mappings, lists and plain values, any of them ``Noted``; a blank line before each section."""
    parts = ["\n".join(_mapping({key: value}, "")) for key, value in document.items()]
    return "".join(f"{'' if n < HEAD_LINES else chr(10)}{part}\n" for n, part in enumerate(parts))


def comment(text: str) -> str:
    """Text for a comment, on one line."""
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def scalar(value: Any) -> str:
    """A plain value as YAML 1.2 reads it back."""
    if not isinstance(value, str):
        return json.dumps(value)
    quantity = parse_duration(value) is not None or parse_size(value) is not None or parse_rate(value) is not None
    if quantity or (_PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return value
    return '"' + "".join(_ESCAPES.get(letter) or _letter(letter) for letter in value) + '"'


def _letter(letter: str) -> str:
    return letter if letter.isprintable() else _escaped(letter)


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _mapping(found: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in found.items():
        yield from _entry(f"{indent}{scalar(key)}:", value, indent)


def _list(found: list[Any], indent: str) -> Iterator[str]:
    for entry in found:
        above, value, note = _taken(entry)
        yield from (f"{indent}# {comment(line)}" for line in above)
        if isinstance(value, dict) and value and _flow(value) is None:
            lines = list(_mapping(value, indent + "  "))
            first = next(n for n, line in enumerate(lines) if not line.lstrip().startswith("#"))
            yield from lines[:first]
            yield f"{indent}- {lines[first].lstrip()}"
            yield from lines[first + 1 :]
        else:
            yield from _entry(f"{indent}-", Noted(value, note), indent)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    above, value, note = _taken(value)
    yield from (f"{indent}# {comment(line)}" for line in above)
    flow = _flow(value)
    if flow is not None and (not _nests(value) or len(head) + len(flow) < WIDTH):
        yield from _with_note(f"{head} {flow}", note, indent)
        return
    yield from _with_note(head, note, indent)
    deeper = indent + "  "
    yield from _mapping(value, deeper) if isinstance(value, dict) else _list(value, deeper)


def _nests(value: Any) -> bool:
    return isinstance(value, dict | list) and bool(value)


def _with_note(line: str, note: str, indent: str) -> Iterator[str]:
    """The comment behind the line where there is room, else above it."""
    said = f"# {comment(note)}"
    if not note:
        yield line
    elif len(line) + len(said) <= WIDTH:
        yield f"{line}  {said}"
    else:
        yield f"{indent}{said}"
        yield line


def _taken(value: Any) -> tuple[tuple[str, ...], Any, str]:
    return (value.above, value.value, value.note) if isinstance(value, Noted) else ((), value, "")


def _flow(value: Any) -> str | None:
    """On one line; None where something inside has a comment, or it is too long for one."""
    if isinstance(value, Noted):
        return None
    if isinstance(value, dict):
        inside = [(scalar(key), _flow(entry)) for key, entry in value.items()]
        return _joined("{", [f"{key}: {entry}" for key, entry in inside], "}", [entry for _, entry in inside])
    if isinstance(value, list):
        entries = [_flow(entry) for entry in value]
        return _joined("[", [str(entry) for entry in entries], "]", entries)
    return scalar(value)


def _joined(opening: str, shown: list[str], closing: str, parts: list[str | None]) -> str | None:
    text = opening + ", ".join(shown) + closing
    return None if None in parts or len(text) > WIDTH else text

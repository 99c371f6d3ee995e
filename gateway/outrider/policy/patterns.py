"""Patterns: an exact name, or a prefix with ``*`` at the end. Indexed, so that a thousand cost what ten do."""

from __future__ import annotations

import re
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_NAME = 200
"""The longest name of a tool or an agent, in characters."""

_OPERATIONS = {
    "http": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*"),
    "mcp": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]*"),
}


def is_operation(text: str, kind: str) -> bool:
    """Whether a tool may be called so inside its group, whose upstream is of that ``kind``. That of an HTTP tool
    becomes part of a path; ``mcp:resources/read`` is a method of an MCP server; that of an in-process tool is whatever
    its framework calls it, spaces included."""
    if not text or len(text) > MAX_NAME:
        return False
    spelled = _OPERATIONS.get(kind)
    return spelled.fullmatch(text) is not None if spelled is not None else text.isprintable()


RAW_OPERATION = "http"


def raw_tool(upstream: str) -> str:
    """The tool that a raw HTTP request is when it is no other: anything at all may be sent with it, so only a rule that
    names it exactly allows it."""
    return f"{upstream}.{RAW_OPERATION}"


def is_prefix(pattern: str) -> bool:
    """Whether it is a prefix with ``*``, not an exact name."""
    return pattern.endswith("*")


def matches(pattern: str, name: str) -> bool:
    """Whether ``name`` is what the pattern names."""
    return name.startswith(pattern[:-1]) if is_prefix(pattern) else name == pattern


def overlap(one: str, other: str) -> bool:
    """Whether some name matches both."""
    if not is_prefix(one):
        return matches(other, one)
    if not is_prefix(other):
        return matches(one, other)
    return one.startswith(other[:-1]) or other.startswith(one[:-1])


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with the spelling of a pattern, None where nothing is."""
    if not pattern or len(pattern) > MAX_NAME:
        return f"a pattern has 1 to {MAX_NAME} characters"
    if "*" in pattern[:-1]:
        return "'*' is only allowed at the end"
    if not pattern.isprintable() or pattern != pattern.strip():
        return "a pattern has no control characters and no space around it"
    return None


class PatternIndex(Generic[T]):
    """Finds what is filed under the patterns that match a name: one look-up for each length of prefix in use."""

    __slots__ = ("_exact", "_lengths", "_prefixes")

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = {}
        self._prefixes: dict[str, list[T]] = {}
        self._lengths: tuple[int, ...] = ()

    def add(self, pattern: str, item: T) -> None:
        """File ``item`` under ``pattern``."""
        if not is_prefix(pattern):
            self._exact.setdefault(pattern, []).append(item)
            return
        prefix = pattern[:-1]
        self._prefixes.setdefault(prefix, []).append(item)
        if len(prefix) not in self._lengths:
            self._lengths = tuple(sorted((*self._lengths, len(prefix))))

    def find(self, name: str) -> list[T]:
        """Everything whose pattern matches ``name``, from the least specific to the most."""
        found = self._under(name, len(name))
        found.extend(self._exact.get(name, ()))
        return found

    def covering(self, pattern: str) -> list[T]:
        """Everything whose pattern matches *all* that ``pattern`` matches, itself included, least specific first."""
        return self._under(pattern[:-1], len(pattern) - 1) if is_prefix(pattern) else self.find(pattern)

    def _under(self, name: str, longest: int) -> list[T]:
        found: list[T] = []
        for length in self._lengths:
            if length > longest:
                break
            found.extend(self._prefixes.get(name[:length], ()))
        return found

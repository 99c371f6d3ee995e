"""What an import found, whatever it was made from; and names that a policy takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from outrider.policy.fields import UPSTREAM_NAME
from outrider.suggest.guesses import Guess

MAX_NAME = 100
FALLBACK = "service"


@dataclass(frozen=True, slots=True)
class Tool:
    """One operation. ``template`` is its ``http``, empty for what needs none; ``key_header`` where a key travels."""

    name: str
    effect: Guess
    template: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    remarks: list[str] = field(default_factory=list)
    key_header: str = ""


@dataclass(slots=True)
class Imported:
    """One upstream and its tools. ``mcp`` is its section where it is an MCP server, else ``url`` and ``headers``.
    ``credential`` says what the headers were made from; ``notes`` are for people, at the head of the file."""

    name: str
    title: str = ""
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    mcp: dict[str, Any] = field(default_factory=dict)
    credential: str = ""
    tools: list[Tool] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def safe_upstream(text: str) -> str:
    """A name for an upstream, made of what somebody called the service."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:40].strip("-")
    name = words if words[:1].isalpha() else f"{FALLBACK}-{words}".strip("-")
    return name if is_upstream(name) else FALLBACK


def is_upstream(name: str) -> bool:
    """Whether an upstream may be called so."""
    return re.match(UPSTREAM_NAME, name) is not None and "__" not in name and name.isprintable() and name != "local"


def safe_operation(text: str) -> str:
    """A name for an operation."""
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_.-]+", "_", text)).strip("_.-")[:MAX_NAME] or "operation"


def unlike(taken: Collection[str], text: str, make: Callable[[str], str] = safe_upstream) -> str:
    """A name made of the text that is not taken."""
    name = made = make(text)
    n = 1
    while name in taken:
        n += 1
        name = f"{made}_{n}"
    return name


def env_name(upstream: str, what: str) -> str:
    """The environment variable that holds a credential."""
    return f"{re.sub('[^A-Za-z0-9]+', '_', upstream).upper()}_{what}"

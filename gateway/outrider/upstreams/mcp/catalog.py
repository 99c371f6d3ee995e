"""The tools that a server offers, as it describes them: read once, kept for as long as it says, at most so many."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from outrider import clock
from outrider.mcp_wire import Message, mirrored

MAX_PAGES = 100
MAX_TOOLS = 5_000
LEAST_S, MOST_S = 1.0, 300.0
"""Between these a list is kept, whatever the server says; ``STALE_S`` where it says nothing."""
STALE_S = 60.0
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")

Page = Callable[[Message], Awaitable[Message]]
"""One ``tools/list`` with these parameters; the result object."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """``tools`` as they came, by name, in the server's order. ``left_out``: how many could not be offered."""

    tools: Mapping[str, Message] = field(default_factory=dict)
    left_out: int = 0
    fetched: float = 0.0  # monotonic
    fresh_s: float = STALE_S

    def is_fresh(self, now: float) -> bool:
        return now - self.fetched < self.fresh_s


@dataclass(frozen=True, slots=True)
class Watch:
    """Who minds what a server says of its tools. ``read`` is told each list; ``against`` says why a tool must not be
    called by the list that was read last, empty for nothing."""

    read: Callable[[Catalog], None] = lambda catalog: None
    against: Callable[[str], str] = lambda name: ""


class Shelf:
    """Keeps the catalog of one server. Many who ask at once cost one list. ``told`` gets each that was read."""

    def __init__(self, told: Callable[[Catalog], None] = lambda catalog: None) -> None:
        self._told = told
        self._catalog: Catalog | None = None
        self._reading: asyncio.Task[Catalog] | None = None
        self._changed = False  # since the reading that is under way began

    @property
    def known(self) -> Catalog | None:
        """The last one, fresh or not."""
        return self._catalog

    def forget(self) -> None:
        """It changed: the next who asks reads it again. One that is being read now may be older than the change."""
        self._catalog = None
        self._changed = True

    async def get(self, page: Page) -> Catalog:
        """The catalog, read where it is not fresh. Raises what ``page`` raises, and ValueError for a list that is none.
        While a server fails to tell it again, the one before does not count."""
        if self._catalog is not None and self._catalog.is_fresh(clock.monotonic()):
            return self._catalog
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read(page))
            self._reading.add_done_callback(_seen)
        return await asyncio.shield(self._reading)

    async def _read(self, page: Page) -> Catalog:
        self._changed = False
        catalog = await read(page)
        if not self._changed:
            self._catalog = catalog
        self._told(catalog)
        return catalog

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


def _seen(reading: asyncio.Task[Catalog]) -> None:
    """Its failure is told to who waits; who went away has no use for it."""
    if not reading.cancelled():
        reading.exception()


async def read(page: Page) -> Catalog:
    """All pages. Raises ValueError where they do not end, or are none."""
    tools: dict[str, Message] = {}
    left_out, cursor, fresh_s = 0, None, MOST_S
    for _ in range(MAX_PAGES):
        result = await page({"cursor": cursor} if cursor is not None else {})
        offered = result.get("tools")
        if not isinstance(offered, list):
            raise ValueError("the server's list of tools is none")
        for tool in offered:
            if _is_tool(tool) and len(tools) < MAX_TOOLS:
                tools.setdefault(tool["name"], tool)
            else:
                left_out += 1
        fresh_s = min(fresh_s, _fresh_s(result))
        cursor = result.get("nextCursor")
        if cursor is None:
            return Catalog(tools, left_out, clock.monotonic(), fresh_s)
    raise ValueError(f"the server's list of tools has more than {MAX_PAGES} pages")


def _is_tool(tool: Any) -> bool:
    """Whether it can be offered: it has a name that can be called, and headers that can be sent."""
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or not _NAME.fullmatch(tool["name"]):
        return False
    return _headers_are_valid(tool.get("inputSchema"))


def _headers_are_valid(schema: Any) -> bool:
    """The modern era has a client drop a tool whose ``x-mcp-header`` cannot be honoured: not a header's name, twice the
    same, or on a property that is no primitive."""
    seen: set[str] = set()
    for header, path in mirrored(schema):
        if not isinstance(header, str) or not _HEADER.fullmatch(header) or header.lower() in seen:
            return False
        if _type_at(schema, path) not in {"string", "integer", "boolean"}:
            return False
        seen.add(header.lower())
    return True


def _type_at(schema: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        schema = schema["properties"][step]
    return schema.get("type")


def _fresh_s(result: Message) -> float:
    said = result.get("ttlMs")
    if not isinstance(said, int | float) or isinstance(said, bool):
        return STALE_S
    return min(MOST_S, max(LEAST_S, said / 1000))

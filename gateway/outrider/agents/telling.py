"""Telling the ledger what changed of an agent, with the rows that say so in the same transaction.

Statistics ride along with whatever is told of their agent; what could not be written rides along with the next event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

from outrider.agents import stored
from outrider.agents.entry import Entry
from outrider.agents.stored import Mutation
from outrider.calls import Agent

MAX_RIDERS = 100
"""Agents whose rows are written with an event of another one."""

Change = Literal["connected", "lost", "left", "seen", "declared", "drifted"]
Emit = Callable[[Change, Agent, dict[str, Any], Sequence[Mutation]], "asyncio.Future[int] | None"]
DURABLE = frozenset({"seen", "declared", "drifted"})
"""Changes that must survive."""


class Teller:
    """What is told, and what is not on disk yet."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._unsaved: dict[str, Entry] = {}
        self._gone: list[str] = []

    def tell(self, change: Change, entry: Entry, agent: Agent, data: dict[str, Any], rows: Iterable[Mutation]) -> None:
        """``rows`` are those of what changed; the agent's own is added."""
        riders = [] if entry.overflow else [entry]
        riders += [other for other in islice(self._unsaved.values(), MAX_RIDERS) if other is not entry]
        again = [row for other in riders if self._unsaved.pop(other.name, None) for row in _tools(other)]
        gone, self._gone = self._gone[:MAX_RIDERS], self._gone[MAX_RIDERS:]
        forgotten = [row for name in gone for row in stored.forgotten(name)]
        written = self._emit(change, agent, data, [*forgotten, *map(stored.agent, riders), *again, *rows])
        entry.saved_calls = entry.calls
        if written is not None:
            written.add_done_callback(partial(self._written, riders))

    def _written(self, riders: list[Entry], written: asyncio.Future[int]) -> None:
        if written.cancelled() or written.exception() is not None:
            self._unsaved.update((entry.name, entry) for entry in riders)

    def forget(self, entry: Entry) -> None:
        """It made room for another; its rows go with the next event."""
        self._unsaved.pop(entry.name, None)
        self._gone.append(entry.name)

    def rest(self, entries: Iterable[Entry]) -> list[Mutation]:
        """Everything that is not on disk yet, statistics included: for the last event of an orderly stop."""
        rows = [row for name in self._gone for row in stored.forgotten(name)]
        for entry in entries:
            if entry.saved_calls < 0:
                continue  # never seen: of that one there is only what was commanded
            if entry.name in self._unsaved:
                rows += _tools(entry)
            if entry.saved_calls != entry.calls or entry.name in self._unsaved:
                rows.append(stored.agent(entry))
        return rows


def _tools(entry: Entry) -> list[Mutation]:
    return [stored.tool(entry.name, known) for known in entry.tools.values()]

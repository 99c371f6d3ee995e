"""What the tests of the kill board share: a ledger that can hang and fail, over a database with the real tables."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Sequence
from typing import Any

from sqlite_utils import Database

from outrider.calls import Agent, Call
from outrider.ledger.record import Event
from outrider.store import MIGRATIONS

COMMIT_S = 0.002


class ScriptedLedger:
    """Both the ledger and the store of a board. ``mode``: ``ok`` commits after 2 ms in the order of the appends,
    ``fail`` refuses at once, ``raise`` raises, ``hang`` answers nothing until ``mend``."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        MIGRATIONS.apply(Database(self.connection))
        self.mode = "ok"
        self.events: list[Event] = []
        self._held: list[tuple[Event, Sequence[Any], asyncio.Future[int]]] = []
        self._committing: deque[tuple[Event, Sequence[Any], asyncio.Future[int]]] = deque()

    def append(
        self, event: Event, *, durable: bool = False, mutations: Sequence[tuple[str, tuple[Any, ...]]] = ()
    ) -> asyncio.Future[int]:
        assert durable, "a kill is fsynced"
        loop = asyncio.get_running_loop()
        if self.mode == "raise":
            raise OSError("no ledger")
        future: asyncio.Future[int] = loop.create_future()
        if self.mode == "fail":
            future.set_exception(OSError("disk full"))
        elif self.mode == "hang":
            self._held.append((event, mutations, future))
        else:
            self._committing.append((event, mutations, future))
            loop.call_later(COMMIT_S, self._commit_next)
        return future

    def _commit_next(self) -> None:
        """Timers of the same moment ring in any order; the ledger keeps that of the appends."""
        self._commit(*self._committing.popleft())

    def mend(self) -> None:
        """The disk answers again; what waited is written in its order."""
        self.mode = "ok"
        held, self._held = self._held, []
        for event, mutations, future in held:
            self._commit(event, mutations, future)

    def forget_held(self) -> None:
        """The process ended while the disk did not answer."""
        self._held.clear()

    def _commit(self, event: Event, mutations: Sequence[Any], future: asyncio.Future[int]) -> None:
        for sql, parameters in mutations:
            self.connection.execute(sql, parameters)
        self.events.append(event)
        if not future.done():
            future.set_result(len(self.events))

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        cursor = self.connection.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


class Wall:
    """A wall clock that moves only when told to, to be put in place of ``clock.wall``."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def a_call(tool: str = "ledger.pay", agent: str = "researcher", run: str = "r1") -> Call:
    return Call(id="c", tool=tool, args={}, agent=Agent(name=agent), run=run)

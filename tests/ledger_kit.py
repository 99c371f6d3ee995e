"""What the tests of the ledger share: events, an opened ledger, a disk that is full and can be freed."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from outrider import clock
from outrider.ledger.record import Event, EventType
from outrider.ledger.writer import Ledger
from outrider.policy.plans import LedgerSettings
from outrider.store import FILE, Store

RECEIVED, DECIDED = EventType.CALL_RECEIVED, EventType.CALL_DECIDED
STARTED, FINISHED = EventType.ATTEMPT_STARTED, EventType.ATTEMPT_FINISHED
CALL_FINISHED = EventType.CALL_FINISHED

SMALL_RESERVE = 64 * 1024


def event(type_: EventType = RECEIVED, call_id: str = "c1", attempt: int = 0, **fields: Any) -> Event:
    """One event of the agent ``researcher`` and the tool ``local.search``."""
    return Event(**{
        "type": type_, "call_id": call_id, "attempt": attempt, "agent": {"name": "researcher", "asserted": True},
        "tool": "local.search", "run_id": "r1", **fields,
    })  # fmt: skip


@asynccontextmanager
async def opened(
    folder: Path, settings: LedgerSettings | None = None, *, inline: bool = False
) -> AsyncIterator[Ledger]:
    """A ledger on a folder, closed in the end."""
    store = Store.open(folder, reserve_bytes=SMALL_RESERVE)
    try:
        ledger = await Ledger.open(store, settings or LedgerSettings(), inline=inline)
        try:
            yield ledger
        finally:
            await ledger.close()
    finally:
        store.close()


async def a_call(ledger: Ledger, call_id: str = "", **fields: Any) -> str:
    """The five records of a call that succeeds at once. Returns its id."""
    call_id = call_id or clock.new_id()
    ledger.append(event(RECEIVED, call_id, **fields), args={"query": "hotels", "token": "s3cret"})
    ledger.append(event(DECIDED, call_id, decision="allow", rule="everything else", **fields))
    ledger.append(event(STARTED, call_id, 1, effect="read", **fields))
    ledger.append(event(FINISHED, call_id, 1, outcome="ok", **fields), result={"found": [1, 2]})
    await ledger.append(event(CALL_FINISHED, call_id, outcome="ok", **fields))
    return call_id


def edit(folder: Path, sql: str, parameters: tuple[Any, ...] = ()) -> int:
    """Change the database behind the ledger's back. Returns how many rows changed."""
    connection = sqlite3.connect(folder / FILE, isolation_level=None)
    try:
        return connection.execute(sql, parameters).rowcount
    finally:
        connection.close()


def rows(folder: Path, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Read it, likewise."""
    connection = sqlite3.connect(folder / FILE, isolation_level=None)
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


class FullDisk:
    """The disk under a ledger, by SQLite's own limit of pages: a commit that needs one more fails as on a full disk.

    Giving up the reserve gives it ``reserve_pages``, as on a real disk; the reserve can be taken back only once
    ``free`` was called. (tests/faults has the same story on a real file system.)
    """

    def __init__(self, ledger: Ledger, reserve_pages: int = 100, room_pages: int = 0) -> None:
        self._connection = ledger._committer._connection
        self._reserve = ledger._store.reserve
        self._really_restore = self._reserve.restore
        self._reserve_pages = reserve_pages
        self._freed = False
        self._reserve.release = self._release  # type: ignore[method-assign]
        self._reserve.restore = self._restore  # type: ignore[method-assign]
        self._limit(self._pages() + room_pages)

    def _pages(self) -> int:
        return int(self._connection.execute("PRAGMA page_count").fetchone()[0])

    def _limit(self, pages: int) -> None:
        self._connection.execute(f"PRAGMA max_page_count = {pages}")

    def _release(self) -> None:
        if self._reserve.held:
            self._reserve.held = False
            self._limit(self._pages() + self._reserve_pages)

    def _restore(self) -> bool:
        return self._freed and self._really_restore()

    def free(self) -> None:
        """Somebody deleted something."""
        self._freed = True
        self._limit(1_000_000)

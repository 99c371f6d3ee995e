"""Who does the blocking work of the ledger: a thread of its own, or, for tests under a virtual clock and for tools,
the loop itself."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Final, Protocol

IDLE_S: Final = 0.02
"""So long without work counts as a good moment for a checkpoint."""

Work = Callable[[], None]
Done = Callable[[BaseException | None], None]


class Chores(Protocol):
    """What the hand does between two pieces of work."""

    def needs_checkpoint(self) -> bool: ...
    def must_checkpoint(self) -> bool: ...
    def checkpoint(self) -> None: ...


class Hand(Protocol):
    """Does one piece of work after the other and reports each to the loop."""

    def submit(self, work: Work, done: Done) -> None:
        """Do ``work``; then, on the loop, ``done(None)`` or ``done(error)``. Never blocks longer than ``work``."""
        ...

    def close(self) -> None:
        """Take no more work. What hangs in a dead disk is left behind."""
        ...


class ThreadHand:
    """A daemon thread: a disk that hangs stalls the ledger and nothing else, not even the process's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chores: Chores) -> None:
        self._loop = loop
        self._chores = chores
        self._inbox: queue.SimpleQueue[tuple[Work, Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outrider-ledger", daemon=True)
        self._thread.start()

    def submit(self, work: Work, done: Done) -> None:
        self._inbox.put((work, done))

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        chores = self._chores
        while True:
            try:
                job = self._inbox.get(timeout=IDLE_S if chores.needs_checkpoint() else None)
            except queue.Empty:
                chores.checkpoint()
                continue
            if job is None:
                return
            try:
                self._report(job[1], attempt(job[0]))
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            if chores.must_checkpoint():
                chores.checkpoint()

    def _report(self, done: Done, error: BaseException | None) -> None:
        self._loop.call_soon_threadsafe(done, error)


class InlineHand:
    """On the loop itself: blocks it for each commit, and moves no virtual clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chores: Chores) -> None:
        self._loop = loop
        self._chores = chores

    def submit(self, work: Work, done: Done) -> None:
        self._loop.call_soon(done, attempt(work))
        if self._chores.needs_checkpoint():
            self._chores.checkpoint()

    def close(self) -> None:
        pass


def attempt(work: Work) -> BaseException | None:
    """Do it; the error, if any, as a value."""
    try:
        work()
    except BaseException as error:
        return error
    return None

"""Who does the blocking work of the ledger: a thread of its own, or, for tests under a virtual clock and for tools,
the loop itself."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Protocol

Work = Callable[[], None]
Done = Callable[[BaseException | None], None]


class Chores(Protocol):
    """What the hand does between two pieces of work."""

    def tidy(self, *, aside: bool) -> None: ...


class Hand(Protocol):
    """Does one piece of work after the other and reports each to the loop."""

    def submit(self, work: Work, done: Done) -> None:
        """Do ``work``; then, on the loop, ``done(None)`` or ``done(error)``. Never blocks longer than ``work``."""
        ...

    def close(self, *, wait: bool) -> None:
        """Take no more work. ``wait``: for the last of it to be done, which it should be."""
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

    def close(self, *, wait: bool) -> None:
        self._inbox.put(None)
        if wait:
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (job := self._inbox.get()) is not None:
            work, done = job
            try:
                self._loop.call_soon_threadsafe(done, attempt(work))
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            del job, work, done  # an idle thread keeps nothing alive
            tidy(self._chores, aside=True)


class InlineHand:
    """On the loop itself: blocks it for each commit, and moves no virtual clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chores: Chores) -> None:
        self._loop = loop
        self._chores = chores

    def submit(self, work: Work, done: Done) -> None:
        self._loop.call_soon(done, attempt(work))
        tidy(self._chores, aside=False)

    def close(self, *, wait: bool) -> None:
        pass


def tidy(chores: Chores, *, aside: bool) -> None:
    """Do the chores. Nothing that goes wrong there (no more threads, say) is worth the writer: it comes up again."""
    with contextlib.suppress(Exception):
        chores.tidy(aside=aside)


def attempt(work: Work) -> BaseException | None:
    """Do it; the error, if any, as a value."""
    try:
        work()
    except BaseException as error:
        return error
    return None

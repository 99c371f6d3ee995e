"""Drive one call to its answer, for a caller that is a thread and for one that is a task.

Where the function runs: an async one as a task on the caller's own loop; a synchronous one on a daemon thread, in a
copy of the caller's context; with ``placement: caller`` or ``composite: true`` on the thread that waits anyway. Context
variables that a function sets are not seen by its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from outrider.errors import Code, problem
from outrider_adapters import process, tracing, views
from outrider_adapters.channel import Channel
from outrider_adapters.exchange import Attempt, Exchange
from outrider_adapters.work import INSIDE, Answer, Problem, Unsent, Work

SLACK_S = 0.5
"""A waiting call gives the link's own verdict this much longer than its patience."""


def call(work: Work) -> Answer:
    """Govern one call; blocks the calling thread. Raises Misconfigured when this process knows no sidecar."""
    orphaned = _parent_given_up(work)
    if orphaned is not None:
        return orphaned
    channel = process.current()
    until = time.monotonic() + channel.surroundings.connect_wait_s + SLACK_S
    while channel.up or _await_up(channel, until):
        exchange = ThreadExchange(channel, work)
        answer = channel.open(exchange) or exchange.wait()
        if not isinstance(answer, Unsent):
            return answer
        if time.monotonic() > until:
            break
    return channel.unreachable_problem()


async def acall(work: Work) -> Answer:
    """Govern one call; the calling task waits, its loop does not. Raises Misconfigured like ``call``."""
    orphaned = _parent_given_up(work)
    if orphaned is not None:
        return orphaned
    channel = process.current()
    until = time.monotonic() + channel.surroundings.connect_wait_s + SLACK_S
    while channel.up or await _await_up_async(channel, until):
        exchange = LoopExchange(channel, work)
        answer = channel.open(exchange) or await exchange.wait()
        if not isinstance(answer, Unsent):
            return answer
        if time.monotonic() > until:
            break
    return channel.unreachable_problem()


def _parent_given_up(work: Work) -> Problem | None:
    """A thread cannot be stopped; but what was killed or timed out begins nothing more."""
    inside = INSIDE.get()
    if inside is None or inside.attempt is None or not inside.attempt.abandoned:
        return None
    detail = f"The call inside which {work.tool} was asked for was stopped; nothing more begins in it."
    code = Code.KILLED if inside.attempt.killed else Code.CANCELLED
    return Problem(problem(code, detail, outcome="not_executed", attempts=0))


def _await_up(channel: Channel, until: float) -> bool:
    settled = threading.Event()
    if channel.enlist(settled.set):
        settled.wait(max(0.0, until - time.monotonic()))
    return channel.up


async def _await_up_async(channel: Channel, until: float) -> bool:
    loop = asyncio.get_running_loop()
    settled = asyncio.Event()

    def notify() -> None:
        try:
            loop.call_soon_threadsafe(settled.set)
        except RuntimeError:  # the loop ended meanwhile
            return

    if channel.enlist(notify):
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await settled.wait()
        except TimeoutError:
            pass
    return channel.up


class ThreadExchange(Exchange):
    """The caller is a thread that waits."""

    def __init__(self, channel: Channel, work: Work) -> None:
        super().__init__(channel, work)
        self._inbox: queue.SimpleQueue[Answer | Attempt] = queue.SimpleQueue()

    def _deliver(self, answer: Answer) -> None:
        self._inbox.put(answer)

    def schedule(self, attempt: Attempt) -> bool:
        """A function that is bound to its thread runs where the caller waits, and so does a parent, which has no
        timeout: it is freed by its children."""
        if attempt.order.placement == "caller" or attempt.order.composite:
            self._inbox.put(attempt)
            return True
        self.channel.workers.submit(lambda: self.run_here(attempt))
        return False

    def wait(self) -> Answer:
        """The caller's thread: waits for the answer, and runs what must run here."""
        try:
            while True:
                item = self._inbox.get()
                if not isinstance(item, Attempt):
                    return item
                self.run_here(item)
        except BaseException:  # Ctrl-C while waiting
            self.channel.caller_left(self)
            raise


class LoopExchange(Exchange):
    """The caller is a task on an event loop."""

    def __init__(self, channel: Channel, work: Work) -> None:
        super().__init__(channel, work)
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer] = self._loop.create_future()

    def _deliver(self, answer: Answer) -> None:
        self._on_loop(self._settle, answer)

    def _settle(self, answer: Answer) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _on_loop(self, function: Callable[..., None], *args: Any) -> None:
        """Runs at once when this is the loop's thread. A loop that is closed has no caller that waits."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            function(*args)
            return
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return

    def schedule(self, attempt: Attempt) -> bool:
        threaded = self.work.invoke is not None and attempt.order.placement != "caller"
        if threaded or self.work.ainvoke is None:
            self.channel.workers.submit(lambda: self.run_here(attempt))
            return False
        self._loop.call_soon_threadsafe(self._start, attempt)
        return True

    def _start(self, attempt: Attempt) -> None:
        if self.channel.begin(attempt):
            attempt.task = self._loop.create_task(self._run(attempt), context=attempt.context)

    async def _run(self, attempt: Attempt) -> None:
        assert self.work.ainvoke is not None
        INSIDE.set(self.inner(attempt))
        tracing.enter(attempt.order.traceparent)
        try:
            value = await self.work.ainvoke(attempt.changed_args)
        except BaseException as error:
            self.raised(attempt, error)
        else:
            self.returned(attempt, value)

    def _summarise(self, attempt: Attempt, shown: Any) -> None:
        """A large result is read on a worker, never on the agent's loop, as long as there are threads to be had."""
        if not views.is_small(shown):
            with contextlib.suppress(RuntimeError):
                self.channel.workers.submit(lambda: Exchange._summarise(self, attempt, shown))
                return
        super()._summarise(attempt, shown)

    def cancel(self, attempt: Attempt) -> None:
        self._on_loop(self._cancel, attempt)

    def _cancel(self, attempt: Attempt) -> None:
        if attempt.task is not None:
            attempt.task.cancel()

    async def wait(self) -> Answer:
        """The caller's task. Cancelled: the sidecar is told, what runs is cancelled too and waited for."""
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.channel.caller_left(self)
            running = [one.task for one in self.attempts.values() if one.task is not None and not one.task.done()]
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
            raise

"""Who calls, and in which run: what AutoGen does not tell its tools.

A run is one root invocation: ``run`` or ``run_stream`` of an agent or a team, with everything nested in it. It is kept
in a context variable, which reaches every task begun inside. A team on a runtime of the program's own works in that
runtime's tasks, where the variable does not reach; but one CancellationToken goes along each root invocation, through
every message and every tool, so it names the run there.

AutoGen turns an exception of a tool into text for the model, and one that escapes a team into a RuntimeError. So a kill
is noted in the caller and in the run, and raised anew where nobody catches it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
import weakref
from collections.abc import AsyncGenerator, Iterator
from contextvars import ContextVar
from typing import Any

from outrider.errors import CallError, Refused


class Killed(Refused):
    """A kill switch stopped this call, and with it the run: ``run`` of the agent or team raises it. A plain exception,
    because a team passes on nothing else."""


class ToolFailed(CallError):
    """A governed tool's final failure or refusal. AutoGen's agents make of it an error result that the model reads; a
    direct caller of ``run_json`` gets it as it is."""


class Run:
    """One root invocation."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(16)
        self.killed: Killed | None = None
        self.calls: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def note_call(self) -> None:
        """The current task executes a tool of this run."""
        task = asyncio.current_task()
        if task is not None:
            self.calls.add(task)

    def leave(self) -> None:
        """The root invocation is over, perhaps by force: what of its tools still runs has no one to answer. AutoGen
        runs them in tasks of their own, which it forgets when it is cancelled or one of several calls raises."""
        for task in list(self.calls):
            with contextlib.suppress(RuntimeError):  # its loop is closed
                task.cancel()


class Caller:
    """Who executes a tool and would take its exception for a text."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.killed: Killed | None = None


RUN: ContextVar[Run | None] = ContextVar("outrider_autogen_run", default=None)
CALLER: ContextVar[Caller | None] = ContextVar("outrider_autogen_caller", default=None)
_lock = threading.Lock()
_by_token: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()


def _after_fork_in_child() -> None:
    """Another thread of the parent may have held the lock, and does not exist here."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def run_of(token: Any) -> Run:
    """The run that surrounds us, else the one that this token goes along with; a run of its own without both."""
    surrounding = RUN.get()
    if surrounding is not None:
        return surrounding
    if token is None:
        return Run()
    with _lock:
        known = _by_token.get(token)
        if known is None:
            known = _by_token[token] = Run()
        return known


def note_kill(error: Killed, token: Any) -> None:
    """Whoever would swallow it is told beside the exception."""
    run_of(token).killed = error
    caller = CALLER.get()
    if caller is not None:
        caller.killed = error


def session() -> str:
    """The key of the agent that a runtime's message is handled by: in a team it is the team's, which keeps the
    conversation over several runs."""
    key = _handling()[1]
    return "" if key == "default" else key


def agent() -> str:
    """The name of the agent that calls, as far as it can be known."""
    caller = CALLER.get()
    if caller is not None:
        return caller.agent
    kind, key = _handling()
    return kind.removesuffix(f"_{key}")


def _handling() -> tuple[str, str]:
    from autogen_core import MessageHandlerContext

    try:
        handler = MessageHandlerContext.agent_id()
    except RuntimeError:
        return "", ""
    return handler.type, handler.key


# ── a root invocation ────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def root(kwargs: dict[str, Any]) -> Iterator[Run]:
    """The run that surrounds us, or a new one. It ends with Killed when a kill was noted in it, whatever has become of
    the exception since."""
    surrounding = RUN.get()
    if surrounding is not None:
        with _killed_is_told(surrounding):
            yield surrounding
        return
    new = Run()
    with _lock:
        _by_token[_token_in(kwargs)] = new
    try:
        with _killed_is_told(new):
            yield new
    finally:
        new.leave()


def _token_in(kwargs: dict[str, Any]) -> Any:
    """The invocation's token; made here when the caller gave none, as the framework would."""
    from autogen_core import CancellationToken

    if kwargs.get("cancellation_token") is None:
        kwargs["cancellation_token"] = CancellationToken()
    return kwargs["cancellation_token"]


@contextlib.contextmanager
def _killed_is_told(run: Run) -> Iterator[None]:
    try:
        yield
    except Killed:
        raise
    except Exception as error:
        if run.killed is not None:
            raise again(run.killed) from error
        raise


def again(error: Killed) -> Killed:
    """The same kill as an exception of its own: one raised twice would carry both tracebacks."""
    return Killed(str(error), error.problem)


@contextlib.contextmanager
def inside(run: Run) -> Iterator[None]:
    """Code that runs here, and tasks begun here, belong to this run."""
    mark = RUN.set(run)
    try:
        yield
    finally:
        RUN.reset(mark)


async def steps(run: Run, stream: Any) -> AsyncGenerator[Any]:
    """The items of a generator, each step of which is taken inside the run. Between the steps the context is the
    consumer's, who may do other things."""
    async with contextlib.aclosing(stream):
        while True:
            with inside(run):
                try:
                    item = await anext(stream)
                except StopAsyncIteration:
                    return
            yield item

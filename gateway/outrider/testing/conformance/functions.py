"""The tools' functions, in the agent's process: they do what their part says, and write it into the journal."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from outrider import clock
from outrider.testing.conformance.driver import Tool
from outrider.testing.conformance.journal import PATIENCE_S, Gates, Journal
from outrider.testing.conformance.script import Mode, Part, Script, Step

LOOK_S = 0.005
BLOCK_AFTER_S = 0.1
"""How long a function that blocks the loop after its end leaves it free, so that its end is told."""

AskInner = Callable[[Script], Any]
AskInnerAsync = Callable[[Script], Awaitable[Any]]


class Opaque:
    """A result that has no JSON form."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return f"<opaque {self._words}>"


class Workshop:
    """Makes the functions of one play."""

    def __init__(self, folder: Path, ask: AskInner, aask: AskInnerAsync) -> None:
        self._journal = Journal(folder)
        self._gates = Gates(folder)
        self._ask = ask
        self._aask = aask

    def tool(self, part: Part, mode: Mode) -> Tool:
        function = self._async_function(part) if mode == "async" else self._function(part)
        function.__name__ = function.__qualname__ = part.name
        function.__doc__ = f"Does what {part.name} is for."
        return Tool(part.name, function, mode == "async", part.governed_as)

    def _function(self, part: Part) -> Callable[..., Any]:
        def function(text: str = "") -> Any:
            n = self._journal.begin(part.name, text)
            step = _step(part, n)
            try:
                self._wait(part, step)
                value = self._ask(step.asks) if step.asks else _result(step, text)
            except BaseException:
                self._journal.end(part.name, n, "raised")
                raise
            self._journal.end(part.name, n, "returned")
            return value

        return function

    def _async_function(self, part: Part) -> Callable[..., Any]:
        async def function(text: str = "") -> Any:
            n = self._journal.begin(part.name, text)
            step = _step(part, n)
            if step.then_block:
                asyncio.get_running_loop().call_later(BLOCK_AFTER_S, self._wait_at, step.then_block)
            try:
                await self._wait_async(part, step)
                value = await self._aask(step.asks) if step.asks else _result(step, text)
            except asyncio.CancelledError:
                self._journal.end(part.name, n, "cancelled")
                raise
            except BaseException:
                self._journal.end(part.name, n, "raised")
                raise
            self._journal.end(part.name, n, "returned")
            return value

        return function

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _wait(self, part: Part, step: Step) -> None:
        _poll(lambda: self._begun(part) >= step.meets)
        self._wait_at(step.until)
        time.sleep(step.for_s)

    async def _wait_async(self, part: Part, step: Step) -> None:
        if step.blocking:
            self._wait(part, step)
            return
        await poll_async(lambda: self._begun(part) >= step.meets)
        await poll_async(lambda: not step.until or self._gates.is_open(step.until))
        await asyncio.sleep(step.for_s)

    def _wait_at(self, gate: str) -> None:
        _poll(lambda: not gate or self._gates.is_open(gate))

    def _begun(self, part: Part) -> int:
        return sum(entry.tool == part.name for entry in self._journal.entries("began"))


def _step(part: Part, n: int) -> Step:
    return part.steps[min(n, len(part.steps)) - 1]


def _result(step: Step, text: str) -> Any:
    """Raises what the step says."""
    if step.raises:
        error = getattr(builtins, step.raises)(step.text)
        if step.retry_after_s:
            error.retry_after = step.retry_after_s
        raise error
    match step.gives:
        case "object":
            return Opaque(step.value)
        case "large":
            return "x" * step.size
        case "echo":
            return text
        case _:
            return step.value


def _poll(holds: Callable[[], bool]) -> None:
    until = clock.monotonic() + PATIENCE_S
    while not holds() and clock.monotonic() < until:
        time.sleep(LOOK_S)


async def poll_async(holds: Callable[[], bool]) -> None:
    """Wait until another process has made it so, with an end."""
    until = clock.monotonic() + PATIENCE_S
    while not holds() and clock.monotonic() < until:  # noqa: ASYNC110 (files of another process wake nobody)
        await asyncio.sleep(LOOK_S)

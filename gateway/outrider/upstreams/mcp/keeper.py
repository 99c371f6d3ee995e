"""Keeps the one child of an upstream: starts it where that is due, and remembers what became of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from outrider import clock
from outrider.policy.plans import McpUpstream, Secret
from outrider.upstreams.mcp.child import Child, NotStarted
from outrider.upstreams.mcp.child_log import ChildLog
from outrider.upstreams.mcp.supervision import State, Supervision
from outrider.upstreams.mcp.transport import McpFailure, Phase

Start = Callable[[Sequence[str], Mapping[str, str], str], Awaitable[Child]]

log = logging.getLogger("outrider.mcp.child")


class Keeper:
    """Of one upstream whose server is a child. ``start`` starts a process; tests hand in their own."""

    def __init__(self, upstream: str, settings: McpUpstream, start: Start = Child.start) -> None:
        self._upstream = upstream
        self._settings = settings
        self._start = start
        self._supervision = Supervision()
        self._down = asyncio.Event()
        self._down.set()
        self._pid = 0
        self.log = ChildLog(upstream, settings.env)
        self.last_error = ""

    def left_s(self) -> float:
        """How long it is until a child may be started."""
        return self._supervision.left_s(clock.monotonic())

    async def start(self) -> Child:
        """A new child, once the one before is gone. Raises McpFailure: nothing was sent to it."""
        await self._down.wait()
        supervision = self._supervision
        if supervision.state is State.CLOSED:
            raise McpFailure(Phase.CONNECT, "the server is not in use any more")
        if left_s := self.left_s():
            told = f"the server {self.last_error}; it is started again in {left_s:.0f} s"
            raise McpFailure(Phase.CONNECT, told, retry_after_s=left_s)
        supervision.start(clock.monotonic())
        self._down.clear()
        try:
            child = await self._start(self._settings.command, self._env(), self._settings.cwd)
        except BaseException as error:
            reason = str(error) if isinstance(error, NotStarted) else "its start was interrupted"
            self.gone(f"cannot be started: {reason}")
            if isinstance(error, NotStarted):
                raise McpFailure(Phase.CONNECT, f"the server {self.last_error}") from None
            raise
        self._pid = child.pid
        log.info("a child was started", extra={"upstream": self._upstream, "pid": child.pid})
        return child

    def _env(self) -> dict[str, str]:
        said = self._settings.env
        return {name: value.reveal() if isinstance(value, Secret) else value for name, value in said.items()}

    def ready(self) -> None:
        """The child answered."""
        self._supervision.ready(clock.monotonic())

    def gone(self, why: str) -> None:
        """It is not there any more. ``why`` follows the words "the server"."""
        closed = self._supervision.state is State.CLOSED
        self._supervision.gone(clock.monotonic())
        self._pid = 0
        self._down.set()
        if closed:
            return
        self.last_error = self.log.shown(why)[:500]
        about = {"upstream": self._upstream, "crashes": self._supervision.crashes, "wait_s": round(self.left_s(), 1)}
        log.warning("a child is gone: it %s", self.last_error, extra=about)

    async def is_down(self) -> None:
        """Waits until no child runs."""
        await self._down.wait()

    def close(self) -> None:
        """No child is started any more. The one that runs is ended by its transport."""
        self._supervision.close()

    def snapshot(self) -> dict[str, Any]:
        """For the control plane; JSON types only. ``last_line`` is what the child said last on stderr."""
        supervision = self._supervision
        return {
            "command": list(self._settings.command),
            "state": supervision.state.value,
            "pid": self._pid or None,
            "restarts": max(0, supervision.starts - 1),
            "crashes": supervision.crashes,
            "wait_s": round(self.left_s(), 1),
            "last_error": self.last_error or None,
            "last_line": self.log.last or None,
            "stderr_lines_left_out": self.log.left_out,
        }

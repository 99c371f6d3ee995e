"""A driver over a real scripted child (``mcp_child.py``), for tests."""

from __future__ import annotations

import asyncio
import itertools
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from outrider.calls import Agent, Attempt, Call, Effect, Outcome
from outrider.policy.plans import McpUpstream, Plan, Timeouts, Upstream
from outrider.upstreams.mcp.child_driver import ChildDriver

SCRIPT = Path(__file__).with_name("mcp_child.py")
WAIT_S = 20.0


def command(journal: Path, *words: str) -> tuple[str, ...]:
    return (sys.executable, str(SCRIPT), str(journal), *words)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class Kit:
    """One driver and its journal. ``async with`` ends the child."""

    def __init__(self, folder: Path, *words: str, **settings: Any) -> None:
        self.journal = folder / "journal"
        self.settings = replace(McpUpstream(command=command(self.journal, *words), cwd=str(folder)), **settings)
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Kit:
        self.driver = ChildDriver("up", self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.driver.close()

    def plan(self, tool: str, effect: Effect = Effect.WRITE) -> Plan:
        return Plan(f"up.{tool}", Upstream("up", mcp=self.settings), effect, Timeouts(connect_s=1.0))

    def attempt(self, tool: str, caller: object | None = None, **args: Any) -> Attempt:
        name = f"up.{tool}"
        call = Call(f"call-{next(self._ids)}", name, args, Agent("a"))
        return Attempt(call, 1, name, Effect.WRITE, caller=caller)

    async def call(self, tool: str, **args: Any) -> Outcome:
        return await self.send(self.attempt(tool, **args))

    async def send(self, attempt: Attempt) -> Outcome:
        plan = self.plan(attempt.tool.partition(".")[2])
        return await asyncio.wait_for(self.driver.send(attempt, plan, 0.0), WAIT_S)

    async def send_for(self, attempt: Attempt, seconds: float) -> Outcome:
        """Sent, and after so many seconds interrupted as by the pipeline's timeout."""
        plan = self.plan(attempt.tool.partition(".")[2])
        try:
            return await asyncio.wait_for(self.driver.send(attempt, plan, seconds), seconds)
        except TimeoutError:
            return await self.driver.stopped(attempt, plan, "timeout")

    @property
    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    @property
    def pids(self) -> list[int]:
        """Of all children that were started, oldest first."""
        return [int(line.split()[1]) for line in self.lines if line.startswith("pid ")]

    @property
    def child(self) -> dict[str, Any]:
        """What the control plane is told of it."""
        child: dict[str, Any] = self.driver.snapshot()["child"]
        return child

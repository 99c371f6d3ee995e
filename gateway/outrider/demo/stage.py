"""Two agents and the tool server that they use: what both passes play on."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from outrider import clock
from outrider.demo import tasks
from outrider.demo.measure import Ending, How, Pass
from outrider.demo.processes import AgentProcess, Server, Sidecar, TooLate, surroundings
from outrider.demo.tasks import DESK, NIGHT_SHIFT, Task
from outrider.demo.view import View

TASK_S = 20.0
"""No task takes longer, unless it is stuck."""


@dataclass(slots=True)
class Stage:
    """Gives tasks to the agents and remembers how they ended."""

    view: View
    server: Server
    desk: AgentProcess
    night: AgentProcess
    endings: dict[str, Ending] = field(default_factory=dict)

    @classmethod
    async def build(
        cls, stack: AsyncExitStack, view: View, folder: Path, server: Server, sidecar: Sidecar | None = None
    ) -> Stage:
        """Start both agents, under Outrider where there is a sidecar. They are not ready yet."""
        desk = await stack.enter_async_context(_agent(DESK, folder, server, sidecar))
        night = await stack.enter_async_context(_agent(NIGHT_SHIFT, folder, server, sidecar))
        return cls(view, server, desk, night)

    async def ready(self) -> None:
        """Both agents take tasks."""
        await asyncio.gather(self.desk.ready(), self.night.ready())

    async def end(self) -> None:
        """The agents and their tool server are gone."""
        await asyncio.gather(self.desk.end(), self.night.end(), self.server.end())

    async def do(self, task: Task, timeout_s: float = TASK_S) -> Ending:
        """Give an agent a task and see how it ends."""
        agent = self.desk if task.agent == DESK else self.night
        began = clock.monotonic()
        agent.give(task.id)
        try:
            told = await agent.ended(task.id, timeout_s)
        except TooLate:
            ending = Ending(task.id, How.STUCK, f"no answer after {timeout_s:g} s, and none will come", timeout_s)
        else:
            ending = Ending.of(task.id, told, clock.monotonic() - began)
        self.endings[task.id] = ending
        return ending

    async def do_stock(self) -> None:
        """The stock tasks, at their pace."""
        async with asyncio.TaskGroup() as group:
            for task in tasks.STOCK:
                group.create_task(self.do(task))
                await asyncio.sleep(tasks.STOCK_PACE_S)

    async def measure(self) -> Pass:
        """What has become of the world."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.server.url}/counts") as response:
            counts = await response.json()
        return Pass(dict(self.endings), counts, (*self.desk.ran, *self.night.ran))


def _agent(name: str, folder: Path, server: Server, sidecar: Sidecar | None) -> AgentProcess:
    """Plain LangGraph; under Outrider the same program, with ``outrider run`` in front of it."""
    python = [sys.executable, "-m"]
    program, env = [*python, "outrider.demo.agent", name], surroundings(SHOP_URL=server.url)
    if sidecar is None:
        return AgentProcess(f"{name} without", program, folder, env)
    program = [*python, "outrider", "run", "--agent", name, "--", *program]
    return AgentProcess(f"{name} with", program, folder, {**env, **sidecar.agent_surroundings})

"""The acts of the demonstration: first without Outrider, then with it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from outrider import clock
from outrider.demo import tasks
from outrider.demo.measure import Ending, How, Pass
from outrider.demo.processes import AgentProcess, Server, Sidecar, TooLate
from outrider.demo.summary import Kill, Story
from outrider.demo.tasks import DESK, NIGHT_SHIFT, Task
from outrider.demo.view import View
from outrider.demo.watch import Control, Watch
from outrider.ledger.verify import Report, verify

POLICY = Path(__file__).parent / "policy"
STUCK_S = 4.0
"""Without a timeout a call to a service that hangs waits for ever; this is how long the demonstration watches it."""
TASK_S = 20.0
KILL_AFTER = 5
"""How many refunds are let through before a person stops it."""
AFTERMATH_S = 0.6
"""How long it is watched that nothing begins any more: the time of four refunds."""
ENDINGS = {"answered": How.ANSWERED, "gave_up": How.GAVE_UP, "raised": How.CRASHED}


@dataclass(slots=True)
class Stage:
    """Two agents and the tool server that they use."""

    view: View
    server: Server
    desk: AgentProcess
    night: AgentProcess
    endings: dict[str, Ending] = field(default_factory=dict)

    async def ready(self) -> None:
        await asyncio.gather(self.desk.ready(), self.night.ready())

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
            how = How.STOPPED if told.get("error") in KILL_ERRORS else ENDINGS[told["how"]]
            error = f"{told['error']}: " if "error" in told else ""
            ending = Ending(task.id, how, error + told["text"], clock.monotonic() - began)
        self.endings[task.id] = ending
        return ending

    async def talk(self, task: Task) -> Ending:
        """The same, for people to follow."""
        self.view.asked(task.agent, task.prompt)
        ending = await self.do(task)
        return ending

    async def do_stock(self) -> None:
        """The stock tasks, at their pace."""
        under_way = []
        for task in tasks.STOCK:
            under_way.append(asyncio.create_task(self.do(task)))
            await asyncio.sleep(tasks.STOCK_PACE_S)
        await asyncio.gather(*under_way)

    async def measure(self) -> Pass:
        """What has become of the world."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.server.url}/counts") as response:
            counts = await response.json()
        return Pass(dict(self.endings), counts, (*self.desk.ran, *self.night.ran))


async def tell(view: View, folder: Path) -> Story:
    """Everything. Raises Unexpected when it cannot go on; all processes have ended when it returns or raises."""
    began = clock.monotonic()
    async with AsyncExitStack() as stack:
        view.foot("starting two tool servers")
        servers = [await stack.enter_async_context(Server(f"tool server {n}", folder)) for n in (1, 2)]
        await asyncio.gather(*(server.ready() for server in servers))
        sidecar = await stack.enter_async_context(Sidecar(folder, POLICY, servers[1].url))
        plain = await _raise(stack, view, folder, servers[0])
        view.foot("starting a sidecar and two agents (importing LangGraph takes a moment)")
        await asyncio.gather(sidecar.ready(), plain.ready())
        governed = await _raise(stack, view, folder, servers[1], sidecar)
        without = await _without(plain)
        for program in (plain.desk, plain.night, servers[0]):
            await program.end()
        view.foot("two more agents, under Outrider")
        await governed.ready()
        control = await stack.enter_async_context(Control(sidecar.control_url, sidecar.data))
        story = await _with(governed, sidecar, control, without, folder)
    story.took_s = clock.monotonic() - began
    return story

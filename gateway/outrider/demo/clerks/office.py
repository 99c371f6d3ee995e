"""The clerks' processes, one for each framework, without Outrider or with it. All are asked at the same time."""

from __future__ import annotations

import asyncio
import json
import site
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from outrider import clock
from outrider.demo.clerks.duties import COMPARED, Duty
from outrider.demo.clerks.functions import TALLY
from outrider.demo.measure import Ending
from outrider.demo.processes import AgentProcess, Sidecar, Unexpected, surroundings

CLERKS = {
    "langgraph": ("clerk_langgraph",),
    "crewai": ("clerk_crewai", "clerk_react"),
    "autogen": ("clerk_autogen",),
}
"""The clerks of each framework. CrewAI calls tools in two ways, so it has two."""
FRAMEWORKS = {clerk: framework for framework, clerks in CLERKS.items() for clerk in clerks}
DUTY_S = 30.0
"""No duty takes longer: several crews in one process on a busy machine take their time."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known afterwards: by clerk and duty how it ended, by clerk and tool how often the function ran."""

    endings: Mapping[tuple[str, str], Ending]
    executed: Mapping[tuple[str, str], int]


@dataclass(slots=True)
class Office:
    """Gives duties to all clerks and remembers how they ended."""

    processes: Mapping[str, AgentProcess]
    tally: Path
    endings: dict[tuple[str, str], Ending] = field(default_factory=dict)

    @classmethod
    async def open(
        cls, stack: AsyncExitStack, folder: Path, frameworks: Sequence[str], sidecar: Sidecar | None = None
    ) -> Office:
        """Start them, and wait until they take duties. What they do is counted in a file of the folder."""
        how = "with" if sidecar else "without"
        tally = folder / f"clerks-{how}.tally"
        tally.touch()
        env = {**_surroundings(folder, tally), **(sidecar.agent_surroundings if sidecar else {})}
        processes = {}
        for framework in frameworks:
            program = [sys.executable, "-m", "outrider.demo.clerks", framework]
            process = AgentProcess(f"{framework} {how}", program, folder, env)
            processes[framework] = await stack.enter_async_context(process)
        office = cls(processes, tally)
        try:
            await asyncio.gather(*(process.ready() for process in processes.values()))
        except Unexpected as fault:
            raise Unexpected(f"{fault}\nThe rest is shown by: outrider demo --frameworks langgraph") from None
        return office

    @property
    def clerks(self) -> list[str]:
        return [clerk for framework in self.processes for clerk in CLERKS[framework]]

    async def close(self) -> None:
        """The processes are gone."""
        await asyncio.gather(*(process.end() for process in self.processes.values()))

    async def do(self, duty: Duty) -> None:
        """All clerks at once; done when the last one is."""
        await asyncio.gather(*(self._do(clerk, duty) for clerk in self.clerks))

    async def _do(self, clerk: str, duty: Duty) -> None:
        process, task = self.processes[FRAMEWORKS[clerk]], f"{clerk}/{duty.id}"
        began = clock.monotonic()
        process.give(task)
        told = await process.ended(task, DUTY_S)
        self.endings[clerk, duty.id] = Ending.of(task, told, clock.monotonic() - began)

    def measure(self) -> Figures:
        """As of now. The counts are the functions' own."""
        lines = [json.loads(line) for line in self.tally.read_text().splitlines()]
        return Figures(dict(self.endings), Counter((line["clerk"], line["tool"]) for line in lines))


def _surroundings(folder: Path, tally: Path) -> dict[str, str]:
    """CrewAI tells its makers nothing. What it writes by itself, keys in the home folder too, goes where all is gone
    afterwards."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return surroundings(
        CREWAI_DISABLE_TELEMETRY="true",
        CREWAI_DISABLE_TRACKING="true",
        CREWAI_DISABLE_VERSION_CHECK="true",
        CREWAI_TRACING_ENABLED="false",
        OTEL_SDK_DISABLED="true",
        CREWAI_STORAGE_DIR=str(home),
        HOME=str(home),
        TMPDIR=str(home),
        PYTHONUSERBASE=site.getuserbase(),  # where packages may be installed, which is told by HOME otherwise
        **{TALLY: str(tally)},
    )


@dataclass(slots=True)
class Prepared:
    """What the clerks did alone, and the same clerks under Outrider, ready."""

    without: Figures
    office: Office


@asynccontextmanager
async def prepared(folder: Path, frameworks: Sequence[str], sidecar: Sidecar) -> AsyncIterator[asyncio.Task[Prepared]]:
    """Importing the frameworks takes seconds, and the pass without Outrider needs nobody to look on: both happen behind
    whatever else is shown meanwhile."""
    async with AsyncExitStack() as stack:
        task = asyncio.create_task(_prepare(stack, folder, frameworks, sidecar))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _prepare(stack: AsyncExitStack, folder: Path, frameworks: Sequence[str], sidecar: Sidecar) -> Prepared:
    alone = await Office.open(stack, folder, frameworks)
    for duty in COMPARED:
        await alone.do(duty)
    await alone.close()
    return Prepared(alone.measure(), await Office.open(stack, folder, frameworks, sidecar))

"""The agent's process: ``python -m outrider.testing.conformance.program DRIVER FOLDER``.

Loads the driver, installs the adapter, says that it is ready, and plays what it is told on stdin, line by line. What it
has to tell it writes to files, because frameworks print to stdout what they like.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from outrider import clock
from outrider.testing.conformance.driver import Ask, Driver, Ran, Tool
from outrider.testing.conformance.functions import LOOK_S, Workshop, poll_async
from outrider.testing.conformance.journal import DONE, Gates
from outrider.testing.conformance.place import DriverPlace
from outrider.testing.conformance.script import Heard, Play, Report, Script, arguments, encode, play_of

CHILD_S = 20.0
"""How long a forked child may take; less than the test waits for both."""


class Player:
    """Plays, one after the other."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def play(self, play: Play) -> list[Report]:
        gates = Gates(Path(play.folder))
        if play.mode != "sync":
            return asyncio.run(self._play_async(play, gates))
        reports = self._play_sync(play)
        gates.open(DONE)
        return reports

    def _play_sync(self, play: Play) -> list[Report]:
        if play.agents == 1:
            return [self._one(play)]
        reports: list[Report] = []
        threads = [threading.Thread(target=lambda: reports.append(self._one(play))) for _ in range(play.agents)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return reports

    def _one(self, play: Play) -> Report:
        try:
            return _report(self._driver.run(self._tools(play), _turns(play.script)))
        except BaseException:
            return Report(os.getpid(), fault=traceback.format_exc())

    async def _play_async(self, play: Play, gates: Gates) -> list[Report]:
        tasks = [asyncio.create_task(self._one_async(play)) for _ in range(play.agents)]
        watch = asyncio.create_task(_cancel_at(gates, play.cancel_at, tasks)) if play.cancel_at else None
        reports = await asyncio.gather(*tasks)
        if watch is not None:
            watch.cancel()
        gates.open(DONE)
        if play.stays_until:
            await poll_async(lambda: gates.is_open(play.stays_until))
        return list(reports)

    async def _one_async(self, play: Play) -> Report:
        try:
            return _report(await self._driver.arun(self._tools(play), _turns(play.script)))
        except asyncio.CancelledError:
            return Report(os.getpid(), cancelled=True)
        except BaseException:
            return Report(os.getpid(), fault=traceback.format_exc())

    # ── an agent inside a tool ───────────────────────────────────────────────────────────────────────────────────

    def _tools(self, play: Play) -> list[Tool]:
        def ask(script: Script) -> str:
            return _words(self._driver.run(self._tools(play), _turns(script)))

        async def aask(script: Script) -> str:
            return _words(await self._driver.arun(self._tools(play), _turns(script)))

        workshop = Workshop(Path(play.folder), ask, aask)
        return [workshop.tool(part, play.mode) for part in play.parts]


async def _cancel_at(gates: Gates, gate: str, tasks: Sequence[asyncio.Task[Report]]) -> None:
    await poll_async(lambda: gates.is_open(gate))
    for task in tasks:
        task.cancel()


def _turns(script: Script) -> list[list[Ask]]:
    return [[Ask(asked.tool, arguments(asked)) for asked in turn] for turn in script]


def _words(ran: Ran) -> str:
    """What an inner agent was told, as the result of the tool that it is. Raises where it was stopped."""
    if ran.killed:
        raise RuntimeError(f"the inner agent was stopped: {ran.killed}")
    return " | ".join(told.text for told in ran.told)


def _report(ran: Ran) -> Report:
    return Report(os.getpid(), tuple(Heard.of(told.kind, told.text) for told in ran.told), ran.killed)


def play_in_fork(player: Player, play: Play, answer: Path) -> list[Report]:
    """A forked child plays first; its reports come first too."""
    file = answer.with_suffix(".child")
    pid = os.fork()
    if pid == 0:
        try:
            write(file, player.play(play))
        finally:
            os._exit(0)
    _reap(pid)
    child = msgspec.json.decode(file.read_bytes(), type=list[Report]) if file.exists() else []
    return child or [Report(pid, fault="the forked child did not come to its end")]


def _reap(pid: int) -> None:
    until = clock.monotonic() + CHILD_S
    waiter = threading.Event()
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if clock.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        waiter.wait(LOOK_S)


def write(file: Path, reports: list[Report]) -> None:
    """Whole or not at all."""
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(encode(reports))
    new.replace(file)


def main(place: str, folder: str) -> None:
    driver = msgspec.json.decode(place, type=DriverPlace).load()
    driver.install()
    player = Player(driver)
    write(Path(folder) / "ready", [])
    for number, line in enumerate(sys.stdin):
        play, answer = play_of(line), Path(folder) / f"answer-{number}"
        before = play_in_fork(player, play, answer) if play.forks else []
        write(answer, before + player.play(play))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A framework's agent process of the bench: ``python -m tests.bench.agent_framework FRAMEWORK alone|governed``.

It says which ways it offers, then reads one command a line, a JSON object: ``{way, calls, concurrency, pause_ms}``, and
makes so many calls, each with an id of its own, by so many threads (each with its own event loop where the way needs
one). It answers as the client does; and with an error when an answer was not the tool's answer to this very call, or
the tools were not executed exactly once for each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.bench.agent_calls import FRAMEWORKS, Ask, AsyncAsk, Ways
from tests.bench.client import commands, timing
from tests.bench.serving import say

_ids = itertools.count()


class Log:
    """Of one command: what was asked, what of it went wrong, how long each call took. Shared among threads; lists are
    appended to in one step."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.took_ns: list[int] = []

    def next_id(self) -> str:
        id = f"{next(_ids)}"
        self.asked.append(id)
        return id

    def answered(self, id: str, text: str, took_ns: int) -> None:
        self.took_ns.append(took_ns)
        if text != f"record {id}":
            self.wrong.append(f"call {id} was answered {text!r}")


def by_thread(way: Ask, calls: int, log: Log, pause_s: float) -> None:
    """So many calls by this thread, one after the other."""
    clock = time.perf_counter_ns
    for _ in range(calls):
        if pause_s > 0:
            time.sleep(pause_s)
        id = log.next_id()
        ask = way(id)
        began = clock()
        text = ask()
        log.answered(id, text, clock() - began)


async def by_task(way: AsyncAsk, calls: int, log: Log, pause_s: float) -> None:
    """So many calls by this task, one after the other."""
    clock = time.perf_counter_ns
    for _ in range(calls):
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        id = log.next_id()
        ask = way(id)
        began = clock()
        text = await ask()
        log.answered(id, text, clock() - began)


class Agent:
    """Obeys commands. The loop of this thread lives as long as the process, as an agent's does."""

    def __init__(self, ways: Ways, runner: asyncio.Runner) -> None:
        self._ways = ways
        self._runner = runner

    def obey(self, way: str, calls: int, concurrency: int, pause_ms: float = 0.0) -> dict[str, Any]:
        """One command."""
        log, pause_s = Log(), pause_ms / 1000
        self._ways.ran.clear()
        began = time.perf_counter()
        if concurrency > 1:
            self._together(lambda: self._one(way, calls // concurrency, log, pause_s, asyncio.run), concurrency)
        else:
            self._one(way, calls, log, pause_s, self._runner.run)
        self._ways.settle()
        seconds = time.perf_counter() - began
        self._check(log, calls // concurrency * concurrency)
        return {"wrong": 0, "sample": "", **timing(log.took_ns, seconds)}

    def _one(self, way: str, calls: int, log: Log, pause_s: float, run: Callable[..., object]) -> None:
        try:
            if way in self._ways.sync:
                by_thread(self._ways.sync[way], calls, log, pause_s)
            else:
                run(by_task(self._ways.on_loop[way], calls, log, pause_s))
        except Exception as error:
            log.wrong.append(f"{type(error).__name__}: {error}")

    def _together(self, one: Callable[[], None], concurrency: int) -> None:
        workers = [threading.Thread(target=one) for _ in range(concurrency)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def _check(self, log: Log, calls: int) -> None:
        if log.wrong or len(log.took_ns) != calls:
            raise RuntimeError(f"{len(log.took_ns)} of {calls} calls were answered; {log.wrong[:1]}")
        if sorted(self._ways.ran) != sorted(log.asked):
            raise RuntimeError(f"for {calls} calls the tools ran {len(self._ways.ran)} times")


def main() -> None:
    framework, how = sys.argv[1:]
    if how == "governed":  # first: CrewAI takes the tools' methods when a task begins
        import_module(f"outrider_adapters.{framework}").install()
    ways = FRAMEWORKS[framework]()
    say(json.dumps([*ways.sync, *ways.on_loop]))
    with asyncio.Runner() as runner:  # the standard loop: what an agent has
        agent = Agent(ways, runner)
        for command in commands():
            try:
                answer = agent.obey(**command)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            say(json.dumps(answer))


if __name__ == "__main__":
    main()

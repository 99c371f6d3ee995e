"""An agent's process of the bench: plain functions under ``@governed``, over the adapters' channel.

``python -m tests.bench.agent`` reads one command a line, a JSON object: ``{way, calls, concurrency, pause_ms}``: so
long after one answer the next call is made. ``way`` is

    sync        a function, called by this thread one time after the other
    threads     the same function, called by ``concurrency`` threads at once
    tasks       an async function, called by ``concurrency`` tasks of one event loop
    write       a function with effects, called by this thread
    bare        the function without Outrider: what the decorator costs nothing of

It answers as the client does. The functions do nothing, so that only the way to them is measured.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from outrider_adapters.governed import governed
from tests.bench.client import commands, timing
from tests.bench.serving import say

RESULT = {"id": "42", "balance": 1730, "currency": "EUR", "ok": True}
Function = Callable[[str], Any]


def bare(id: str) -> dict[str, Any]:
    return RESULT


@governed(name="local.read_sync")
def read_sync(id: str) -> dict[str, Any]:
    return RESULT


@governed(name="local.read_async")
async def read_async(id: str) -> dict[str, Any]:
    return RESULT


@governed(name="local.write_sync")
def write_sync(id: str) -> dict[str, Any]:
    return RESULT


def one_after_the_other(function: Function, calls: int, took_ns: list[int], pause_s: float = 0.0) -> None:
    """So many calls by this thread."""
    clock = time.perf_counter_ns
    for _ in range(calls):
        if pause_s > 0:
            time.sleep(pause_s)
        began = clock()
        function("42")
        took_ns.append(clock() - began)


async def _task(calls: int, took_ns: list[int], pause_s: float) -> None:
    clock = time.perf_counter_ns
    for _ in range(calls):
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        began = clock()
        await read_async("42")
        took_ns.append(clock() - began)


def by_threads(function: Function, calls: int, concurrency: int, took_ns: list[int]) -> None:
    """Shared among so many threads."""
    workers = [
        threading.Thread(target=one_after_the_other, args=(function, calls // concurrency, took_ns))
        for _ in range(concurrency)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


async def by_tasks(calls: int, concurrency: int, took_ns: list[int], pause_s: float) -> None:
    """Shared among so many tasks."""
    await asyncio.gather(*(_task(calls // concurrency, took_ns, pause_s) for _ in range(concurrency)))


def obey(
    loop: asyncio.AbstractEventLoop, way: str, calls: int, concurrency: int, pause_ms: float = 0.0
) -> dict[str, Any]:
    """One command."""
    pause_s = pause_ms / 1000
    took_ns: list[int] = []
    began, cpu = time.perf_counter(), time.process_time()
    if way == "tasks":
        loop.run_until_complete(by_tasks(calls, concurrency, took_ns, pause_s))
    elif way == "threads":
        by_threads(read_sync, calls, concurrency, took_ns)
    else:
        functions: dict[str, Function] = {"sync": read_sync, "write": write_sync, "bare": bare}
        one_after_the_other(functions[way], calls, took_ns, pause_s)
    seconds = time.perf_counter() - began
    own_us = (time.process_time() - cpu) / len(took_ns) * 1e6
    return {"wrong": 0, "sample": "", "own_cpu_us": own_us, **timing(took_ns, seconds)}


def main() -> None:
    with asyncio.Runner() as runner:  # the standard loop: what an agent has
        for command in commands():
            try:
                answer = obey(runner.get_loop(), **command)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            say(json.dumps(answer))


if __name__ == "__main__":
    main()

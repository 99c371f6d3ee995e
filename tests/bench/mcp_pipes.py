"""A raw client of an MCP server over stdio: ``{calls}`` a line on standard input, timing as ``client`` tells it."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from typing import Any

from tests.bench.client import commands, timing
from tests.bench.mcp_upstream import INFO, LEGACY
from tests.bench.serving import run, say

ARGS = {"id": "42", "amount": 250}


class Pipes:
    """One child, one request at a time."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self._ids = itertools.count(1)

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None and self._child.stdout is not None
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        self._child.stdin.write(json.dumps(message).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._child.stdout.readline())
        return answer


async def _main() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.bench.mcp_upstream", "stdio"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    pipes = Pipes(child)
    await pipes.request("initialize", {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": INFO})
    lines = commands()
    while (command := await asyncio.to_thread(next, lines, None)) is not None:
        say(json.dumps(await _drive(pipes, command["calls"])))
    child.terminate()
    await child.wait()


async def _drive(pipes: Pipes, calls: int) -> dict[str, Any]:
    took_ns, wrong = [], 0
    began = time.perf_counter()
    for _ in range(calls):
        sent_ns = time.perf_counter_ns()
        answer = await pipes.request("tools/call", {"name": "read", "arguments": ARGS})
        took_ns.append(time.perf_counter_ns() - sent_ns)
        wrong += "result" not in answer
    return {"wrong": wrong, "sample": "", **timing(took_ns, time.perf_counter() - began)}


if __name__ == "__main__":
    run(_main)

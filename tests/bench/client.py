"""The client process of the bench: the same lean HTTP/1.1 keep-alive client for every target.

``python -m tests.bench.client`` reads one command a line from standard input, a JSON object:
``{port, requests: [text …], concurrency, calls, pause_ms}``: open that many connections, warm each with one request,
then send ``calls`` requests, one at a time on each connection and so long after the answer before, going round the list
of whole requests. It answers with a JSON object: ``calls, wrong, seconds, p50_ms, p90_ms, p99_ms, calls_per_s`` and one
``sample`` of what was wrong.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

from tests.bench.serving import run, say

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
PATIENCE_S = 120.0


class Load:
    """One command under way: which request is next, how long each took."""

    def __init__(self, requests: Sequence[bytes], calls: int, pause_s: float) -> None:
        self.pause_s = pause_s
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.took_ns: list[int] = []
        self.wrong = 0
        self.sample = ""
        self._next = itertools.cycle(requests)
        self._unsent = self._unanswered = calls

    def take(self) -> bytes | None:
        """A request to send, None when all are on their way."""
        if self._unsent == 0:
            return None
        self._unsent -= 1
        return next(self._next)

    def warming(self) -> bytes:
        return next(self._next)

    def answered(self, took_ns: int, answer: bytes) -> None:
        self.took_ns.append(took_ns)
        if not answer.startswith(b"HTTP/1.1 200"):
            self.wrong += 1
            self.sample = answer[:600].decode("latin-1")
        self._unanswered -= 1
        if self._unanswered == 0 and not self.done.done():
            self.done.set_result(None)

    def broke(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(why))


class Connection(asyncio.Protocol):
    """One connection, one request at a time. The first answer is a warming and is not counted."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._rest = b""
        self._sent_ns = 0
        self.warm: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.transport.write(self._load.warming())

    def send(self) -> None:
        request = self._load.take()
        if request is not None:
            self._sent_ns = time.perf_counter_ns()
            self.transport.write(request)

    def _send_next(self) -> None:
        if self._load.pause_s > 0:
            asyncio.get_running_loop().call_later(self._load.pause_s, self.send)
        else:
            self.send()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._rest = data
            return
        found = LENGTH.search(data, 0, end)
        if found is None:
            self._load.broke(f"an answer without Content-Length: {data[:300]!r}")
            return
        if len(data) < end + 4 + int(found.group(1)):
            self._rest = data
            return
        self._rest = b""
        if self.warm.done():
            self._load.answered(time.perf_counter_ns() - self._sent_ns, data)
            self._send_next()
        else:
            self.warm.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.broke(f"the connection was closed: {error}")


async def drive(
    port: int, requests: Sequence[bytes], concurrency: int, calls: int, pause_s: float = 0.0
) -> dict[str, Any]:
    """One command."""
    load = Load(requests, calls, pause_s)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(load), "127.0.0.1", port))[1] for _ in range(concurrency)
    ]
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(connection.warm for connection in connections))
        began = time.perf_counter()
        for connection in connections:
            connection.send()
        await load.done
        seconds = time.perf_counter() - began
    for connection in connections:
        connection.transport.close()
    return {"wrong": load.wrong, "sample": load.sample, **timing(load.took_ns, seconds)}


def timing(took_ns: list[int], seconds: float) -> dict[str, float]:
    """Percentiles in milliseconds, and how many a second."""
    took_ns.sort()
    points = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
    found = {name: took_ns[min(len(took_ns) - 1, int(len(took_ns) * share))] / 1e6 for name, share in points.items()}
    return {"calls": len(took_ns), "seconds": seconds, "calls_per_s": len(took_ns) / seconds, **found}


def commands() -> Iterator[dict[str, Any]]:
    """Those of the standard input, until it is closed."""
    for line in sys.stdin:
        yield json.loads(line)


async def _main() -> None:
    lines = commands()
    while (command := await asyncio.to_thread(next, lines, None)) is not None:
        requests = [text.encode() for text in command["requests"]]
        try:
            pause_s = command.get("pause_ms", 0) / 1000
            answer = await drive(command["port"], requests, command["concurrency"], command["calls"], pause_s)
        except (OSError, TimeoutError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(json.dumps(answer))


def http_request(method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> str:
    """A whole request, for ``requests``."""
    text = json.dumps(body)
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(text)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines) + "\r\n\r\n" + text


if __name__ == "__main__":
    run(_main)

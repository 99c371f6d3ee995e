"""The flaky tool server of the demonstration, as a process: ``python -m outrider.demo.upstream``.

One small HTTP/1.1 server with the services below, each with its scripted fault, the same in every run. It counts what
it is asked and what it really did, so that a side effect that happened twice is seen where it happens. It ends when
its standard input does; with ``--listen HOST:PORT`` (as in docker/compose.yaml) at SIGTERM instead.

    orders    drops the first two connections without an answer
    prices    says 503 with Retry-After: 1 once
    reports   never answers the first request
    stock     is dead for DEAD_S from the first request: every connection is dropped
    archive   always works: yesterday's figures
    payments  charges, but drops the first connection for order 17 before it answers; knows idempotency keys
    mail      sends, but drops the first connection before it answers; knows no keys
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from outrider import clock
from outrider.settings import Address

DEAD_S = 2.5
"""How long the stock service is dead."""
RETRY_AFTER_S = 1
MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: JSON arguments and lower-case headers."""

    args: Mapping[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """``headers`` beside the usual ones."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Service = Callable[["Shop", Asked], Awaitable[Reply | None]]


class Shop:
    """The services' state. A service that returns None drops the connection."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.executed: Counter[str] = Counter()
        self.refused_while_dead = 0
        self._dead_until: float | None = None
        self._replies: dict[str, Reply] = {}

    async def orders(self, asked: Asked) -> Reply | None:
        if self.requests["orders"] <= 2:
            return None
        return Reply({"order": asked.args["order"], "status": "shipped"})

    async def prices(self, asked: Asked) -> Reply | None:
        if self.requests["prices"] == 1:
            return Reply({"error": "too busy"}, 503, {"Retry-After": str(RETRY_AFTER_S)})
        return Reply({"item": asked.args["item"], "price": 40})

    async def reports(self, asked: Asked) -> Reply | None:
        if self.requests["reports"] == 1:
            await asyncio.Event().wait()
        return Reply({"week": asked.args["week"], "sales": 1234})

    async def stock(self, asked: Asked) -> Reply | None:
        now = clock.monotonic()
        if self._dead_until is None:
            self._dead_until = now + DEAD_S
        if now < self._dead_until:
            self.refused_while_dead += 1
            return None
        return Reply({"item": asked.args["item"], "left": 7})

    async def archive(self, asked: Asked) -> Reply | None:
        return Reply({"item": asked.args["item"], "left": 9, "as_of": "yesterday"})

    async def payments(self, asked: Asked) -> Reply | None:
        key = asked.headers.get("idempotency-key", "")
        if key in self._replies:
            return self._replies[key]
        deed = f"charge {asked.args['order']}"
        self.executed[deed] += 1
        reply = Reply({"order": asked.args["order"], "charged": asked.args["amount"]})
        if key:
            self._replies[key] = reply
        return None if deed == "charge 17" and self.executed[deed] == 1 else reply

    async def mail(self, asked: Asked) -> Reply | None:
        deed = f"mail {asked.args['order']}"
        self.executed[deed] += 1
        return None if self.executed[deed] == 1 else Reply({"sent_to": asked.args["to"]})

    async def counts(self, asked: Asked) -> Reply | None:
        return Reply(
            {
                "requests": dict(self.requests),
                "executed": dict(self.executed),
                "refused_while_dead": self.refused_while_dead,
            }
        )


SERVICES: Mapping[str, Service] = {
    "orders": Shop.orders,
    "prices": Shop.prices,
    "reports": Shop.reports,
    "stock": Shop.stock,
    "archive": Shop.archive,
    "payments": Shop.payments,
    "mail": Shop.mail,
    "counts": Shop.counts,
}


async def _read(reader: asyncio.StreamReader) -> tuple[str, Asked]:
    """The first part of the path, and the request. Raises ValueError for what is not such a request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if length > MAX_BODY_BYTES:
        raise ValueError("too large")
    body = await reader.readexactly(length)
    args = json.loads(body) if body else {}
    return request_line.split(" ")[1].strip("/").partition("/")[0], Asked(args, headers)


def _encode(reply: Reply) -> bytes:
    body = json.dumps(reply.body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **reply.headers}.items())
    return f"HTTP/1.1 {reply.status} Shop\r\n{head}\r\n".encode() + body


async def _answer(shop: Shop, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    name, asked = await _read(reader)
    service = SERVICES.get(name)
    if service is None:
        writer.write(_encode(Reply({"error": "no such service"}, 404)))
        return
    shop.requests[name] += 1
    reply = await service(shop, asked)
    if reply is not None:
        writer.write(_encode(reply))
        await writer.drain()


async def _end_of_input() -> None:
    await asyncio.to_thread(sys.stdin.read)


async def _signalled() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


async def _serve(address: Address, end: Callable[[], Awaitable[None]]) -> None:
    shop = Shop()
    busy: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            with contextlib.suppress(ValueError, KeyError, OSError, EOFError, asyncio.LimitOverrunError):
                await _answer(shop, reader, writer)
        finally:
            busy.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, address.host, address.port)
    sys.stdout.write(json.dumps({"event": "ready", "port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await end()
    server.close()
    for task in tuple(busy):
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)


def main() -> None:
    words = argparse.ArgumentParser(prog="outrider.demo.upstream", description="The flaky tool server.")
    words.add_argument("--listen", metavar="HOST:PORT", help="where; without it a free port, until the input ends")
    listen = words.parse_args().listen
    if listen is None:
        asyncio.run(_serve(Address("127.0.0.1", 0), _end_of_input))
    else:
        asyncio.run(_serve(Address.parse(listen, "--listen"), _signalled))


if __name__ == "__main__":
    main()

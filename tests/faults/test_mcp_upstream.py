"""MCP servers that fail in every way at once, behind the whole sidecar: clients and servers of both eras, all crossed.
What counts is what reached the servers' wire: a write at most once, whatever became of it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import pytest

from outrider.mcp_wire import LEGACY, MODERN
from outrider.testing.gateway import GatewayProcess
from tests.conformance.mcp.talker import Refused, Talker
from tests.support.scripted_mcp import Exchange, ScriptedMcp, said

ERAS = {"new": MODERN, "old": LEGACY[0]}
"""Servers and clients, by the names that the tests give them."""
CROSSED = [(server, client) for server in ERAS for client in ERAS]
PROBLEM = "dev.outrider/problem"
POLICY = {
    "defaults": {
        # under load an attempt may take its time; a fault that hangs takes all of it
        "timeouts": {"perTry": "3s", "total": "30s"},
        "retry": {"maxAttempts": 3, "backoff": {"initial": "10ms", "max": "20ms"}},
    },
    "domain": {
        "breaker": {"enabled": False},
        "bulkhead": {"maxConcurrent": 100, "maxQueue": 500},
        "retryBudget": {"ratio": 1.0, "minRetries": 100},
    },
    "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
}


def half_an_event(exchange: Exchange) -> None:
    exchange.stream()
    exchange.writer.write(b'data: {"jsonrpc": "2.0", "id"')


def another_id(exchange: Exchange) -> None:
    exchange.json({"jsonrpc": "2.0", "id": 999_999, "result": said("not yours")})


def flood(exchange: Exchange) -> None:
    exchange.stream()
    for n in range(20_000):
        if exchange.writer.is_closing():  # cut off, as it should be; asyncio warns of every write after that
            return
        exchange.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": n}})
    exchange.answered()


async def hang_mid_stream(exchange: Exchange) -> None:
    exchange.stream()
    exchange.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "begun"}})
    await exchange.writer.drain()
    await exchange.hang()


async def ignore_cancellation(exchange: Exchange) -> None:
    """Works on and answers, though nobody listens any more."""
    await asyncio.sleep(4.0)
    exchange.result(said("at last"))


FAULTS: dict[str, Callable[[Exchange], Coroutine[Any, Any, None] | None]] = {
    "reset": lambda exchange: exchange.reset(),
    "half an event": half_an_event,
    "another id": another_id,
    "flood": flood,
    "hang mid-stream": hang_mid_stream,
    "ignore cancellation": ignore_cancellation,
}


class Server:
    """Does with each call what its argument ``fault`` says; ``look`` only the first time it comes. ``reached`` counts
    on the wire, by the argument ``n``."""

    def __init__(self, era: str) -> None:
        self.wire = ScriptedMcp(era, self._called)
        self.reached: Counter[int] = Counter()
        self.ids: list[Any] = []

    def _called(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        params = exchange.message["params"]
        arguments, n = params["arguments"], params["arguments"]["n"]
        self.reached[n] += 1
        self.ids.append(exchange.message["id"])
        fault = FAULTS.get(arguments.get("fault", ""))
        if fault is None or (params["name"] == "look" and self.reached[n] > 1):
            return exchange.result(said(f"done {n}"))
        return fault(exchange)


class Scene:
    """A sidecar before a server of each era, and a client of each era before each."""

    def __init__(self, servers: dict[str, Server], sidecar: GatewayProcess) -> None:
        self.servers = servers
        self.sidecar = sidecar
        self.talkers: dict[tuple[str, str], Talker] = {}
        self._numbers = itertools.count(1)

    def number(self) -> int:
        return next(self._numbers)

    def talker(self, server: str, client: str) -> Talker:
        bearer = {"Authorization": f"Bearer {self.sidecar.agent_token}"}
        return Talker(f"{self.sidecar.url}/mcp/{server}", ERAS[client], bearer)

    async def ends(self, tool: str) -> list[dict[str, Any]]:
        """What the ledger says of all calls of a tool."""
        path = f"/v1/ledger?tool={tool}&type=call.finished&limit=1000"
        status, page = await asyncio.to_thread(self.sidecar.control, "GET", path)
        assert status == 200
        return page["records"]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    servers = {name: Server(era) for name, era in ERAS.items()}
    async with AsyncExitStack() as stack:
        for server in servers.values():
            await stack.enter_async_context(server.wire)
        upstreams = {name: {"mcp": {"url": server.wire.url}} for name, server in servers.items()}
        effects = {"look": "read", "pay": "write"}
        tools = [{"match": f"{name}.{tool}", "effect": effects[tool]} for name in ERAS for tool in effects]
        sidecar = GatewayProcess({**POLICY, "upstreams": upstreams, "tools": tools})
        stack.push_async_callback(asyncio.to_thread, sidecar.close)
        await asyncio.to_thread(sidecar.start)
        found = Scene(servers, sidecar)
        for pair in CROSSED:
            found.talkers[pair] = await stack.enter_async_context(found.talker(*pair))
        yield found


async def call(scene: Scene, pair: tuple[str, str], tool: str, fault: str) -> tuple[str, int, dict[str, Any]]:
    n = scene.number()
    return pair[0], n, await scene.talkers[pair].call(tool, {"n": n, "fault": fault})


async def test_no_write_reaches_a_server_twice_whatever_breaks(scene: Scene) -> None:
    """Every fault, both eras on both sides, all at once: each write is on the wire once, and who called is told that
    nobody knows what became of it."""
    work = [call(scene, pair, "pay", fault) for pair in CROSSED for fault in FAULTS for _ in range(3)]
    for server, n, result in await asyncio.gather(*work):
        assert scene.servers[server].reached[n] == 1, result
        assert result["isError"] is True and result["_meta"][PROBLEM]["outcome"] == "unknown", result
    await everything_works(scene)
    for name in ERAS:
        ends = await scene.ends(f"{name}.pay")
        assert Counter(end["outcome"] for end in ends) == {"unknown": 2 * 3 * len(FAULTS), "ok": 2}


async def test_a_read_is_asked_again_under_a_new_id_and_answered(scene: Scene) -> None:
    """What hurts a write to repeat is what a read is repeated for."""
    work = [call(scene, pair, "look", fault) for pair in CROSSED for fault in FAULTS for _ in range(2)]
    for server, n, result in await asyncio.gather(*work):
        assert 2 <= scene.servers[server].reached[n] <= 3, result
        assert result["content"] == said(f"done {n}")["content"]
    for server in scene.servers.values():
        assert len(set(server.ids)) == len(server.ids) == server.reached.total() >= 2 * 2 * 2 * len(FAULTS)
    await everything_works(scene)


async def test_clients_that_leave_take_nobody_with_them(scene: Scene) -> None:
    """While half of the clients hang up on calls that hang, the others have their answers from the same servers."""

    async def leave(pair: tuple[str, str]) -> int:
        n = scene.number()
        with suppress(TimeoutError):
            async with scene.talker(*pair) as talker, asyncio.timeout(0.3):
                await talker.call("pay", {"n": n, "fault": "hang mid-stream"})
        return n

    async def stay(pair: tuple[str, str]) -> None:
        for _ in range(10):
            _, n, result = await call(scene, pair, "pay", "")
            assert result["content"] == said(f"done {n}")["content"]

    left = await asyncio.gather(*(leave(pair) for pair in CROSSED for _ in range(3)), *map(stay, CROSSED))
    gone = [n for n in left if n is not None]
    assert {scene.servers[name].reached[n] for n in gone for name in ERAS} <= {0, 1}
    async with asyncio.timeout(30):
        for name in ERAS:
            while len(await scene.ends(f"{name}.pay")) < 20 + 6:
                await asyncio.sleep(0.1)


async def test_a_crash_in_the_middle_of_writes_repeats_none_of_them(scene: Scene) -> None:
    """SIGKILL while writes hang in both eras: afterwards they are unknown, and were sent once."""
    numbers = {pair: scene.number() for pair in CROSSED}

    async def pay(pair: tuple[str, str], n: int) -> None:
        with suppress(aiohttp.ClientError, Refused, OSError, AssertionError):
            await scene.talkers[pair].call("pay", {"n": n, "fault": "hang mid-stream"})

    under_way = [asyncio.create_task(pay(pair, n)) for pair, n in numbers.items()]
    async with asyncio.timeout(20):
        while sum(scene.servers[server].reached[n] for (server, _), n in numbers.items()) < len(CROSSED):
            await asyncio.sleep(0.01)
    scene.sidecar.kill9()
    await asyncio.gather(*under_way)
    await asyncio.to_thread(scene.sidecar.start)
    for (server, _), n in numbers.items():
        assert scene.servers[server].reached[n] == 1
    for name in ERAS:
        assert [end["outcome"] for end in await scene.ends(f"{name}.pay")] == ["unknown", "unknown"]


async def everything_works(scene: Scene) -> None:
    for pair in CROSSED:
        _, n, result = await call(scene, pair, "pay", "")
        assert result["content"] == said(f"done {n}")["content"]

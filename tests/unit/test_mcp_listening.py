"""What a server tells between calls is heard while somebody wants to know, in the era that it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from outrider.mcp_wire import LEGACY, META_SUBSCRIPTION, MODERN, Message
from outrider.policy.plans import HttpUpstream, McpUpstream
from outrider.upstreams.mcp import listening
from outrider.upstreams.mcp.driver import McpDriver
from outrider.upstreams.mcp.http import HttpTransport
from tests.support.scripted_mcp import Exchange, ScriptedMcp

CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
both = pytest.mark.parametrize("era", [MODERN, LEGACY[0]])
NEW = {"name": "new", "inputSchema": {"type": "object"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(listening, "LONGEST_PAUSE_S", 0.05)


async def streams(exchange: Exchange) -> None:
    """A listening stream that stays open."""
    exchange.stream()
    tell(exchange, {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {}})
    await exchange.hang()


def tell(exchange: Exchange, message: Message) -> None:
    if exchange.message:  # a modern one is tagged
        tag = {"_meta": {META_SUBSCRIPTION: exchange.message["id"]}}
        message = {**message, "params": {**message.get("params", {}), **tag}}
    exchange.event(message)


@asynccontextmanager
async def listened(era: str) -> AsyncIterator[tuple[ScriptedMcp, McpDriver]]:
    async with ScriptedMcp(era) as server:
        server.on["subscriptions/listen"] = server.on["GET"] = streams
        http = HttpUpstream(server.url)
        driver = McpDriver(McpUpstream(http=http), lambda: HttpTransport(http))
        try:
            yield server, driver
        finally:
            await driver.close()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10.0):
        while not holds():
            await asyncio.sleep(0.01)


@both
@pytest.mark.parametrize("wanted", [True, False])
async def test_a_change_is_heard_and_the_tools_are_read_anew(era: str, wanted: bool) -> None:
    """Whatever era the hearer would like, one stream is open: that of the era which the server speaks."""
    async with listened(era) as (server, driver):
        heard: list[Message] = []
        assert len((await driver.catalog()).tools) == 3
        end = driver.subscribe(heard.append, modern=wanted)
        await until(lambda: len(server.open()) == 1)
        server.tools.append(NEW)
        tell(server.open()[0], CHANGED)
        await until(lambda: CHANGED in heard)
        assert "new" in (await driver.catalog()).tools
        end()
        await until(lambda: not server.open())
        assert server.count("subscriptions/listen") + server.count("GET") == 1


@both
async def test_nobody_is_listened_to_for_nobody(era: str) -> None:
    """No stream is held where nobody asked for one; two who ask share one."""
    async with listened(era) as (server, driver):
        await driver.catalog()
        assert not server.open()
        ends = [driver.subscribe(lambda message: None) for _ in range(2)]
        await until(server.open)
        ends[0]()
        await asyncio.sleep(0.1)
        assert len(server.open()) == 1 and server.count("subscriptions/listen") + server.count("GET") == 1
        ends[1]()
        await until(lambda: not server.open())


@both
async def test_a_stream_that_broke_is_opened_again_and_the_tools_count_as_changed(era: str) -> None:
    """What was told meanwhile nobody knows."""
    async with listened(era) as (server, driver):
        heard: list[Message] = []
        driver.subscribe(heard.append)
        await until(server.open)
        await driver.catalog()
        server.tools.append(NEW)
        server.open()[0].reset()
        await until(lambda: CHANGED in heard)
        await until(server.open)
        assert "new" in (await driver.catalog()).tools


async def test_a_session_that_the_server_forgot_is_opened_anew_to_listen() -> None:
    """404 on the stream of a session says so."""
    async with listened(LEGACY[0]) as (server, driver):

        async def known_only(exchange: Exchange) -> None:
            if exchange.headers.get("mcp-session-id") in server.sessions:
                await streams(exchange)
            else:
                exchange.json(b"", 404)

        server.on["GET"] = known_only
        driver.subscribe(lambda message: None)
        await until(server.open)
        server.sessions.clear()
        server.open()[0].reset()
        await until(lambda: server.count("initialize") == 2)
        await until(server.open)


@both
async def test_a_server_that_offers_no_stream_is_not_asked_again_and_again(era: str) -> None:
    """405 to a GET, "no such method" to a subscription."""
    async with listened(era) as (server, driver):
        server.on.clear()
        driver.subscribe(lambda message: None)
        await until(lambda: server.count("subscriptions/listen") + server.count("GET"))
        await asyncio.sleep(0.3)
        assert server.count("subscriptions/listen") + server.count("GET") == 1


async def test_a_server_that_is_away_is_asked_with_growing_pauses() -> None:
    """And found when it is back."""
    async with listened(MODERN) as (server, driver):
        server.on["server/discover"] = lambda exchange: exchange.json(b"", 503)
        driver.subscribe(lambda message: None)
        await until(lambda: server.count("server/discover") > 2)
        del server.on["server/discover"]
        await until(server.open)


async def test_resources_are_asked_for_by_those_who_want_them() -> None:
    """The union of what all want; another one opens the stream anew."""
    async with listened(MODERN) as (server, driver):
        driver.subscribe(lambda message: None, uris=frozenset({"note://a"}))
        await until(server.open)
        end = driver.subscribe(lambda message: None, uris=frozenset({"note://b"}))
        await until(lambda: server.count("subscriptions/listen") == 2)
        end()
        await until(lambda: server.count("subscriptions/listen") == 3)
        asked = [message["params"]["notifications"]["resourceSubscriptions"] for message in
                 server.sent("subscriptions/listen")]  # fmt: skip
        assert asked == [["note://a"], ["note://a", "note://b"], ["note://a"]]


@both
async def test_a_change_told_within_a_call_counts(era: str) -> None:
    """Servers of the SDKs tell it there."""

    def changes(exchange: Exchange) -> None:
        exchange.stream()
        exchange.event(CHANGED)
        exchange.answered()

    async with listened(era) as (server, driver):
        server.calls = [changes]
        await driver.catalog()
        server.tools.append(NEW)
        from tests.unit.test_mcp_http_upstream import Rig

        rig = Rig(server)
        rig.driver, other = driver, rig.driver
        await other.close()
        assert (await rig.send()).ok
        assert "new" in (await driver.catalog()).tools

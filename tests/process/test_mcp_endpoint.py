"""What an MCP client meets at the door of a real sidecar: credentials, headers, streams, lists."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from outrider.mcp_wire import META_CAPABILITIES, META_VERSION, MODERN
from outrider.testing.gateway import GatewayProcess
from tests.support.scripted_mcp import Exchange, ScriptedMcp, said

MIRRORED = {
    "name": "mirror",
    "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
}
CHANGED = "notifications/tools/list_changed"


class Door:
    """A sidecar before a scripted server, and a client that says each byte itself."""

    def __init__(
        self, server: ScriptedMcp, policy: dict[str, Any], gateway: GatewayProcess, http: aiohttp.ClientSession
    ) -> None:
        self.server = server
        self.policy = policy
        self.gateway = gateway
        self.http = http

    def post(self, path: str, method: str, params: dict[str, Any] | None = None, **headers: str) -> Any:
        """A modern request; its response as a context."""
        meta = {META_VERSION: MODERN, META_CAPABILITIES: {}}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**(params or {}), "_meta": meta}}
        said = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, "Accept": "application/json, text/event-stream"}
        if params and "name" in params:
            said["Mcp-Name"] = params["name"]
        return self.http.post(self.gateway.url + path, json=message, headers={**said, **headers})

    async def ask(self, path: str, method: str, params: dict[str, Any] | None = None, **headers: str) -> Any:
        async with self.post(path, method, params, **headers) as response:
            return response.status, await response.json()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with ScriptedMcp() as server:
        server.tools = [*server.tools, MIRRORED]
        policy: dict[str, Any] = {
            "upstreams": {"notes": {"mcp": {"url": server.url, "headers": {"X-Ours": "yes"}}}},
            "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
        }
        gateway = await asyncio.to_thread(GatewayProcess(policy).__enter__)
        bearer = {"Authorization": f"Bearer {gateway.agent_token}"}
        try:
            async with aiohttp.ClientSession(headers=bearer, timeout=aiohttp.ClientTimeout(30)) as http:
                yield Door(server, policy, gateway, http)
        finally:
            await asyncio.to_thread(gateway.__exit__, None, None, None)


async def next_event(response: aiohttp.ClientResponse, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(20):
        async for line in response.content:
            if line.startswith(b"data: ") and wanted(message := json.loads(line[6:])):
                return message
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("path", ["/mcp", "/mcp/notes"])
async def test_who_shows_no_credential_is_told_where_to_learn_of_one(door: Door, path: str) -> None:
    """RFC 9728: the 401 names a document that anybody may read, of just this endpoint."""
    async with aiohttp.ClientSession() as nobody:
        async with nobody.post(door.gateway.url + path, json={}) as refused:
            assert refused.status == 401
            where = refused.headers["WWW-Authenticate"].partition('resource_metadata="')[2].rstrip('"')
        async with nobody.get(where) as found:
            assert found.status == 200
            told = await found.json()
    assert told["resource"] == door.gateway.url + path and told["bearer_methods_supported"] == ["header"]


async def test_a_call_s_credential_goes_no_further(door: Door) -> None:
    """The server sees what the policy sends it, and nothing of the agent's."""
    status, answer = await door.ask("/mcp/notes", "tools/call", {"name": "look", "arguments": {}})
    assert (status, answer["result"]["content"]) == (200, said("done")["content"])
    for exchange in door.server.seen:
        assert "authorization" not in exchange.headers and exchange.headers["x-ours"] == "yes"
        assert door.gateway.agent_token not in json.dumps(exchange.message)


@pytest.mark.parametrize(("path", "prefix"), [("/mcp", "notes__"), ("/mcp/notes", "")])
@pytest.mark.parametrize(("header", "status"), [({"Mcp-Param-Region": "eu"}, 200), ({"Mcp-Param-Region": "us"}, 400),
                                                ({}, 400)])  # fmt: skip
async def test_arguments_in_headers_must_equal_the_body_s(
    door: Door, path: str, prefix: str, header: dict[str, str], status: int
) -> None:
    """At either endpoint: whoever reads only headers on the way is not told something else."""
    call = {"name": f"{prefix}mirror", "arguments": {"region": "eu"}}
    found, answer = await door.ask(path, "tools/call", call, **header)
    assert found == status and ("result" in answer) == (status == 200)
    if status == 200:
        sent = next(one for one in door.server.seen if one.message.get("method") == "tools/call")
        assert sent.headers["mcp-param-region"] == "eu"
    else:
        assert answer["error"]["code"] == -32020 and door.server.count("tools/call") == 0


async def test_the_endpoint_of_all_offers_tools_and_says_so(door: Door) -> None:
    """Prompts and resources have no name before which a server's could stand: they are at the server's own endpoint."""
    _, found = await door.ask("/mcp", "server/discover")
    assert set(found["result"]["capabilities"]) == {"tools"}
    status, answer = await door.ask("/mcp", "prompts/list")
    assert (status, answer["error"]["code"]) == (404, -32601) and "tools only" in answer["error"]["message"]


@pytest.mark.parametrize("path", ["/mcp", "/mcp/notes"])
async def test_a_change_at_a_server_and_one_of_the_policy_reach_who_listens(door: Door, path: str) -> None:
    """Each as a change of the tools."""

    async def streams(exchange: Exchange) -> None:
        exchange.stream()
        await exchange.hang()

    def is_change(message: dict[str, Any]) -> bool:
        return bool(message.get("method") == CHANGED)

    door.server.on["subscriptions/listen"] = streams
    params = {"notifications": {"toolsListChanged": True, "promptsListChanged": False}}
    async with door.post(path, "subscriptions/listen", params) as stream:
        first = await next_event(stream, lambda message: True)
        assert first["method"] == "notifications/subscriptions/acknowledged"
        async with asyncio.timeout(10):
            while not door.server.open():
                await asyncio.sleep(0.02)
        door.server.open()[0].event({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"})
        door.server.open()[0].event({"jsonrpc": "2.0", "method": CHANGED})
        told = await next_event(stream, lambda message: "list_changed" in message.get("method", ""))
        assert is_change(told) and told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == 1
        denied = {"name": "no look", "tools": ["notes.look"], "then": "deny"}
        policy = {**door.policy, "rules": [*door.policy["rules"], denied]}
        await asyncio.to_thread(door.gateway.write_policy, policy)
        await next_event(stream, is_change)
        prefix = "notes__" if path == "/mcp" else ""
        _, listed = await door.ask(path, "tools/list")
        names = {tool["name"] for tool in listed["result"]["tools"]}
        assert f"{prefix}look" not in names and f"{prefix}pay" in names
    async with asyncio.timeout(10):
        while door.server.open():
            await asyncio.sleep(0.02)


async def test_a_credential_sees_only_the_tools_that_it_is_good_for(door: Door) -> None:
    """As it may call only those."""
    issued = await asyncio.to_thread(
        door.gateway.control, "POST", "/v1/tokens", {"agent": "reader", "tools": ["notes.look"]}
    )
    bearer = {"Authorization": f"Bearer {issued[1]['token']}"}
    _, listed = await door.ask("/mcp/notes", "tools/list", None, **bearer)
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["look"]


async def test_a_method_that_is_no_tool_is_a_read_of_the_policy(door: Door) -> None:
    """So a server that breaks in it is asked again."""

    broken = [True]

    def once(exchange: Exchange) -> None:
        if broken and broken.pop():
            exchange.reset()
        else:
            exchange.result({"contents": []})

    door.server.on["resources/read"] = once
    status, answer = await door.ask("/mcp/notes", "resources/read", {"uri": "note://x"}, **{"Mcp-Name": "note://x"})
    assert status == 200 and answer["result"]["contents"] == [], answer
    assert door.server.count("resources/read") == 2


async def test_a_cancellation_of_nothing_that_was_asked_is_taken_and_does_nothing(door: Door) -> None:
    """Whatever its id is."""
    begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    accept = {"Accept": "application/json, text/event-stream"}
    url = f"{door.gateway.url}/mcp"
    first = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}
    async with door.http.post(url, json=first, headers=accept) as opened:
        session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"], **accept}
    for id_ in (99, "x", None, {"a": 1}, [1]):
        told = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id_}}
        async with door.http.post(url, json=told, headers=session) as taken:
            assert taken.status == 202


async def test_a_person_sees_a_drifted_tool_and_accepts_it(door: Door) -> None:
    """By the commands, as they are typed; until then its calls are refused."""
    upstream: dict[str, Any] = {"mcp": {"url": door.server.url, "drift": "refuse"}}
    await asyncio.to_thread(door.gateway.write_policy, {**door.policy, "upstreams": {"notes": upstream}})
    _, listed = await door.ask("/mcp/notes", "tools/list")
    before = len(listed["result"]["tools"])
    door.server.on["tools/list"] = lambda exchange: exchange.result(
        {"tools": [{**tool, "description": "another"} for tool in door.server.tools], "ttlMs": 1000}
    )
    call = {"name": "look", "arguments": {}}

    async def refused() -> bool:
        _, answer = await door.ask("/mcp/notes", "tools/call", call)
        problem = answer["result"].get("_meta", {}).get("dev.outrider/problem", {})
        return bool(problem.get("code") == "tool_drifted")

    renewed = {"mcp": {**upstream["mcp"], "headers": {"X-New": "yes"}}}  # a new connection, which reads the list anew
    await asyncio.to_thread(door.gateway.write_policy, {**door.policy, "upstreams": {"notes": renewed}})
    async with asyncio.timeout(20):
        while not await refused():
            await asyncio.sleep(0.1)
    _, listed = await door.ask("/mcp/notes", "tools/list")
    assert listed["result"]["tools"] == [] and before == 4
    shown = await asyncio.to_thread(cli, door.gateway, "upstreams", "ls")
    assert "drifted: ask, look, mirror, pay" in " ".join(shown.split())
    said = await asyncio.to_thread(cli, door.gateway, "upstreams", "accept", "notes", "look", "--reason", "read it")
    assert "Trusted as they are now, of notes: look" in said
    assert not await refused()
    wrong = await asyncio.to_thread(cli, door.gateway, "upstreams", "accept", "notes", "look", "--reason", "again")
    assert "No tool 'look' of upstream 'notes' has drifted" in wrong


def cli(gateway: GatewayProcess, *words: str) -> str:
    """What a person reads."""
    done = subprocess.run(
        [sys.executable, "-m", "outrider", *words, "--data", str(gateway.data)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr

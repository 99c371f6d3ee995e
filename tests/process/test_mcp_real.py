"""MCP through a real sidecar: real servers and clients of the published SDK on both sides, and plain calls between."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamablehttp_client

from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ManagedProcess

SERVER = Path(__file__).parents[1] / "support" / "mcp_http_server.py"


class Served:
    """The server, what it executed, and a sidecar before it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.journal = folder / "journal"
        self.process = ManagedProcess([sys.executable, str(SERVER), str(self.port), str(self.journal)], "")
        self.start()
        policy = {
            "defaults": {"retry": {"backoff": {"initial": "20ms", "max": "50ms"}}},
            "upstreams": {"notes": {"mcp": {"url": f"http://127.0.0.1:{self.port}/mcp"}}},
            "tools": [{"match": "notes.add", "effect": "read"}, {"match": "notes.count", "effect": "read"}],
            "rules": [
                {"name": "all", "tools": ["*"], "then": "allow"},
                {
                    "name": "no sevens",
                    "tools": ["notes.add"],
                    "when": "args.a == 7",
                    "then": "deny",
                    "reason": "no sevens",
                },
                {"name": "hidden", "tools": ["notes.hidden_*"], "then": "deny"},
            ],
        }
        self.sidecar = GatewayProcess(policy)

    def start(self) -> None:
        """Wait until it takes connections: it says nothing when it does."""
        self.process._begin()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(self.process.log)

    def executed(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    @asynccontextmanager
    async def client(self, path: str, **headers: str) -> AsyncIterator[ClientSession]:
        bearer = {"Authorization": f"Bearer {self.sidecar.agent_token}", **headers}
        async with (
            streamablehttp_client(self.sidecar.url + path, headers=bearer) as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            yield session


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    try:
        with made.sidecar:
            yield made
    finally:
        made.process.kill9()


def test_a_plain_call_reaches_an_mcp_server(served: Served) -> None:
    """``POST /v1/call`` and adapters need not know where a tool lives."""
    status, answer = served.sidecar.call("notes.add", {"a": 1, "b": 2})
    assert (status, answer["result"]) == (200, {"result": 3})
    assert served.executed() == ["add 1 2"]


@pytest.mark.parametrize(("path", "prefix"), [("/mcp/notes", ""), ("/mcp", "notes__")])
async def test_an_mcp_client_changes_one_url(served: Served, path: str, prefix: str) -> None:
    """Tools are listed and called, with progress; refusals are results that a model can read; resources are read."""
    told: list[tuple[float, float | None]] = []

    async def progress(done: float, of: float | None, _text: str | None) -> None:
        told.append((done, of))

    async with served.client(path) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert set(names) == {f"{prefix}{name}" for name in ("add", "write_note", "write_and_die", "count")}
        assert (await client.call_tool(f"{prefix}add", {"a": 1, "b": 2})).structuredContent == {"result": 3}
        counted = await client.call_tool(f"{prefix}count", {"to": 3}, progress_callback=progress)
        assert counted.content[0].text == "counted" and told == [(1, 3), (2, 3), (3, 3)]  # type: ignore[union-attr]
        failed = await client.call_tool(f"{prefix}write_note", {"name": "full"})
        assert failed.isError and "no room" in failed.content[0].text  # type: ignore[union-attr]
        denied = await client.call_tool(f"{prefix}add", {"a": 7, "b": 1})
        assert denied.isError and "no sevens" in denied.content[0].text  # type: ignore[union-attr]
        assert denied.meta is not None and denied.meta["dev.outrider/problem"]["code"] == "denied"
    assert served.executed() == ["add 1 2", "write full"]


async def test_resources_of_one_server_pass(served: Served) -> None:
    """Everything but tools is passed on as it is, and is in the ledger."""
    async with served.client("/mcp/notes") as client:
        read = await client.read_resource("note://x")  # type: ignore[arg-type]
    assert read.contents[0].text == "the note x"  # type: ignore[union-attr]
    _, page = served.sidecar.control("GET", "/v1/ledger?tool=notes.mcp:resources/read&type=call.finished")
    assert [record["outcome"] for record in page["records"]] == ["ok"]


async def test_a_server_that_died_in_a_write_is_not_asked_again(served: Served) -> None:
    """The standard tells clients to issue a broken call again; here it is unknown, and its like is refused."""
    async with served.client("/mcp/notes") as client:
        broken = await client.call_tool("write_and_die", {"name": "x"})
        assert broken.isError and broken.meta is not None
        assert broken.meta["dev.outrider/problem"]["outcome"] == "unknown"
    assert served.executed() == ["died x"]


def test_a_server_that_was_restarted_is_spoken_to_anew(served: Served) -> None:
    """Its old session is unknown to it, so the call was not executed, and goes once over a new one."""
    assert served.sidecar.call("notes.write_note", {"name": "a"})[0] == 200
    served.process.kill9()
    served.start()
    assert served.sidecar.call("notes.write_note", {"name": "b"})[0] == 200
    assert served.executed() == ["write a", "write b"]


async def test_who_shows_no_credential_is_turned_away(served: Served) -> None:
    """As on the rest of the data plane."""
    status, problem = served.sidecar.request("POST", f"{served.sidecar.url}/mcp/notes", {"jsonrpc": "2.0"})
    assert (status, problem["code"]) == (401, "unauthenticated")


async def test_an_unknown_tool_is_an_error_and_an_unknown_server_none(served: Served) -> None:
    """Each said where a client looks for it."""
    async with served.client("/mcp") as client:
        with pytest.raises(McpError, match="unknown tool"):
            await client.call_tool("nobody__add", {})
    status, problem = served.sidecar.request(
        "POST", f"{served.sidecar.url}/mcp/nobody", {"jsonrpc": "2.0"}, served.sidecar.agent_token
    )
    assert status == 404 and "notes" in problem["detail"]

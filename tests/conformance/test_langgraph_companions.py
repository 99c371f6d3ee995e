"""MCP tools (langchain-mcp-adapters) and langgraph_supervisor under the LangGraph adapter, against a real sidecar.

Both belong to the extra "test" only.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool

from outrider.testing.gateway import GatewayProcess
from outrider_adapters import langgraph, process
from tests.support.adapters import eventually
from tests.support.scripted_model import asks, model

pytestmark = pytest.mark.timeout(120)
POLICY: dict[str, Any] = {
    "defaults": {"retry": {"maxAttempts": 3, "backoff": {"initial": "10ms", "max": "50ms"}}},
    "tools": [{"match": "local.read_*", "effect": "read"}],
    "rules": [
        {"name": "no mail", "tools": ["local.send_mail"], "then": "deny", "reason": "no mail in this team"},
        {"name": "everything else", "tools": ["*"], "then": "allow"},
    ],
}
SERVER = """
    import sys
    from mcp.server.fastmcp import FastMCP

    server = FastMCP("library", log_level="ERROR")

    def ran(what):
        with open(sys.argv[1], "a") as file:
            file.write(what + "\\n")

    @server.tool()
    def read_page(page: str) -> str:
        '''Reads.'''
        ran("read_page")
        return "text of " + page

    @server.tool()
    def send_mail(to: str) -> str:
        '''Sends.'''
        ran("send_mail")
        return "sent"

    @server.tool()
    def write_row(row: str) -> str:
        '''Writes.'''
        ran("write_row")
        raise ValueError("the table is read-only")

    server.run()
"""


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayProcess]:
    with GatewayProcess(POLICY) as sidecar:
        for name, value in sidecar.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "5")
        langgraph.install(agent="librarian")
        try:
            yield sidecar
        finally:
            langgraph.uninstall()
            process.close(1.0)


def records(gateway: GatewayProcess, kind: str) -> list[dict[str, Any]]:
    """What the ledger holds of this type, oldest first."""
    return list(reversed(gateway.control("GET", f"/v1/ledger?type={kind}&limit=100")[1]["records"]))


class Library:
    """The tools of an MCP server, over its standard input and output. ``ran``: what it executed."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "library.py"
        self._script.write_text(textwrap.dedent(SERVER))
        self._ran = folder / "ran"

    async def tools(self, **how: Any) -> dict[str, Any]:
        client = importlib.import_module("langchain_mcp_adapters.client")
        arguments = [str(self._script), str(self._ran)]
        server = {"command": sys.executable, "args": arguments, "transport": "stdio"}
        return {one.name: one for one in await client.MultiServerMCPClient({"library": server}, **how).get_tools()}

    @property
    def ran(self) -> list[str]:
        return self._ran.read_text().split() if self._ran.exists() else []


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


async def asked(tools: list[Any], name: str, **args: Any) -> ToolMessage:
    """What an agent's model is told that asks for this tool once."""
    agent = create_agent(model(asks((name, args)), "done"), tools)
    state = await agent.ainvoke({"messages": [HumanMessage("go")]})
    return next(message for message in state["messages"] if isinstance(message, ToolMessage))


async def test_an_mcp_tool_is_governed_and_its_result_is_untouched(gateway: GatewayProcess, library: Library) -> None:
    """The very message that LangGraph gives without Outrider, its artifact too; one call in the ledger."""
    tools = await library.tools()
    message = await asked(list(tools.values()), "read_page", page="7")
    langgraph.uninstall()
    plain = await asked(list(tools.values()), "read_page", page="7")
    ours, theirs = message.model_dump(), plain.model_dump()
    for one in (ours, theirs):  # each message and each block has an id of its own
        one.pop("id")
        for block in one["content"]:
            block.pop("id", None)
    assert ours == theirs and "text of 7" in str(ours["content"])
    assert library.ran == ["read_page", "read_page"]
    eventually(lambda: records(gateway, "call.finished"))
    (finished,) = records(gateway, "call.finished")
    assert (finished["tool"], finished["outcome"], finished["agent"]["name"]) == ("local.read_page", "ok", "librarian")


async def test_a_denied_mcp_tool_never_reaches_its_server(gateway: GatewayProcess, library: Library) -> None:
    """The model is told why."""
    message = await asked(list((await library.tools()).values()), "send_mail", to="all")
    assert message.status == "error" and "no mail in this team" in str(message.content)
    assert library.ran == []


async def test_an_mcp_tools_own_error_is_told_and_not_repeated(gateway: GatewayProcess, library: Library) -> None:
    """It ran and failed: once at the server, definite in the ledger, an error for the model."""
    message = await asked(list((await library.tools()).values()), "write_row", row="x")
    assert message.status == "error" and "the table is read-only" in str(message.content)
    assert library.ran == ["write_row"]
    eventually(lambda: records(gateway, "call.finished"))
    (finished,) = records(gateway, "call.finished")
    assert (finished["tool"], finished["outcome"]) == ("local.write_row", "definite")


@pytest.mark.parametrize("sync", [True, False])
async def test_a_supervisors_handoffs_and_its_agents_tools_are_governed(gateway: GatewayProcess, sync: bool) -> None:
    """The handoff's Command is obeyed as it was, and the worker's own call is in the same run."""
    create_supervisor: Callable[..., Any] = importlib.import_module("langgraph_supervisor").create_supervisor

    @tool
    def read_shelf(name: str) -> str:
        """Reads."""
        return f"books of {name}"

    reader = model(
        "of the supervisor", asks(("read_shelf", {"name": "rivers"})), "found"
    )  # it sees one reply before it
    worker = create_agent(reader, [read_shelf], name="worker")
    chief = model(asks(("transfer_to_worker", {})), "all done")
    graph = create_supervisor([worker], model=chief, add_handoff_back_messages=False).compile()
    question = {"messages": [HumanMessage("go")]}
    state = graph.invoke(question) if sync else await graph.ainvoke(question)
    told = [message.text for message in state["messages"]]
    assert any("transferred to worker" in text for text in told)
    eventually(lambda: len(records(gateway, "call.finished")) == 2)
    received = records(gateway, "call.received")
    assert [one["tool"] for one in received] == ["local.transfer_to_worker", "local.read_shelf"]
    assert len({one["run_id"] for one in received}) == 1
    assert [one["outcome"] for one in records(gateway, "call.finished")] == ["ok", "ok"]

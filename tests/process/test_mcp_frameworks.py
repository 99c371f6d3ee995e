"""The MCP tools of the frameworks, through a real sidecar's /mcp to a real server: one URL changed, nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from autogen_core import CancellationToken
from autogen_ext.tools.mcp import McpWorkbench, StreamableHttpServerParams, mcp_server_tools
from crewai.mcp.client import MCPClient
from crewai.mcp.transports.http import HTTPTransport
from crewai.tools.mcp_native_tool import MCPNativeTool

from tests.process.test_mcp_real import Served

PAGE = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text("utf-8")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    try:
        with made.sidecar:
            yield made
    finally:
        made.process.kill9()


def bearer(served: Served) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.sidecar.agent_token}"}


def finished(served: Served, tool: str) -> list[str]:
    """Outcomes of its calls, as the ledger has them."""
    _, page = served.sidecar.control("GET", f"/v1/ledger?tool={tool}&type=call.finished")
    return [record["outcome"] for record in page["records"]]


@pytest.mark.parametrize(("path", "prefix"), [("/mcp/notes", ""), ("/mcp", "notes__")])
async def test_the_example_of_the_docs_with_langchain_mcp_adapters(served: Served, path: str, prefix: str) -> None:
    """As it stands in docs/mcp.md."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = "\n".join(f"    {line}" for line in example.splitlines())
    names: dict[str, Any] = {"URL": served.sidecar.url + path, "TOKEN": served.sidecar.agent_token}
    exec(f"async def run():\n{lines}\n    return tools", names)
    tools = {tool.name: tool for tool in await names["run"]()}
    answer = await tools[f"{prefix}add"].ainvoke({"a": 1, "b": 2})
    assert "3" in str(answer) and served.executed() == ["add 1 2"]
    assert "no sevens" in str(await tools[f"{prefix}add"].ainvoke({"a": 7, "b": 2}))
    assert finished(served, "notes.add") == ["ok"] and served.executed() == ["add 1 2"]


async def test_autogen_s_mcp_tools_and_its_workbench(served: Served) -> None:
    """A refusal is a result that says so."""
    params = StreamableHttpServerParams(url=f"{served.sidecar.url}/mcp/notes", headers=bearer(served))
    tools = {tool.name: tool for tool in await mcp_server_tools(params)}
    assert "hidden_tool" not in tools
    result = await tools["add"].run_json({"a": 1, "b": 2}, CancellationToken())
    assert "3" in tools["add"].return_value_as_string(result)
    async with McpWorkbench(params) as workbench:
        assert (await workbench.call_tool("add", {"a": 2, "b": 2})).to_text() == "4"
        refused = await workbench.call_tool("add", {"a": 7, "b": 2})
        assert refused.is_error and "no sevens" in refused.to_text()
    assert served.executed() == ["add 1 2", "add 2 2"] and finished(served, "notes.add") == ["ok", "ok"]


async def test_crewai_s_own_mcp_tool(served: Served) -> None:
    """Which opens a session for each call."""

    def client() -> MCPClient:
        return MCPClient(HTTPTransport(f"{served.sidecar.url}/mcp/notes", headers=bearer(served)))

    schema = {"description": "Adds two numbers.", "args_schema": None}
    tool = MCPNativeTool(client, "add", schema, "notes")
    assert "3" in str(await tool._run_async(a=1, b=2))
    assert "no sevens" in str(await tool._run_async(a=7, b=2))
    assert served.executed() == ["add 1 2"] and finished(served, "notes.add") == ["ok"]

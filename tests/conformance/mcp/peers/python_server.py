"""A server by the published Python SDK 2.x, in an environment of its own: ``python python_server.py PORT``."""

from __future__ import annotations

import sys

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

server = MCPServer("peer")


class Name(BaseModel):
    name: str


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no room")


@server.tool()
async def count(to: int, context: Context) -> str:
    """Tells how far it is."""
    for number in range(1, to + 1):
        await context.report_progress(number, to)
    return "counted"


@server.tool()
async def greet(context: Context) -> str:
    """Asks for a name."""
    answer = await context.elicit("Who?", Name)
    return f"hello {answer.data.name}" if answer.action == "accept" else answer.action


if __name__ == "__main__":
    server.run("streamable-http", port=int(sys.argv[1]))

"""A real MCP server over streamable HTTP, by the published SDK: ``python mcp_http_server.py PORT JOURNAL``. What it
executes it writes down in the journal, a line each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcp.server.fastmcp import Context, FastMCP

server = FastMCP("journal", port=int(sys.argv[1]), log_level="ERROR")
JOURNAL = Path(sys.argv[2])


def note(line: str) -> None:
    with JOURNAL.open("a", encoding="utf-8") as journal:
        journal.write(line + "\n")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    note(f"add {a} {b}")
    return a + b


@server.tool()
def write_note(name: str) -> str:
    """Writes a note, or fails to."""
    note(f"write {name}")
    if name == "full":
        raise ValueError("no room")
    return f"written {name}"


@server.tool()
def write_and_die(name: str) -> str:
    """Writes, and ends the server before it can answer."""
    note(f"died {name}")
    os._exit(3)


@server.tool()
async def count(context: Context, to: int) -> str:
    """Tells how far it is."""
    for number in range(1, to + 1):
        await context.report_progress(number, to, f"at {number}")
    return "counted"


@server.resource("note://{name}")
def read_note(name: str) -> str:
    """A note."""
    return f"the note {name}"


if __name__ == "__main__":
    server.run("streamable-http")

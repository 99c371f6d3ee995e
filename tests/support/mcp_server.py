"""A real MCP server over stdio, for tests of what calls one: ``python mcp_server.py JOURNAL``. What it executes it
writes down in the journal, a line each."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from mcp.server.fastmcp import FastMCP

server = FastMCP("journal")
JOURNAL = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(os.devnull)


def note(line: str) -> None:
    with JOURNAL.open("a", encoding="utf-8") as journal:
        journal.write(line + "\n")


@server.tool()
def read_note(name: str) -> str:
    """Reads a note."""
    note(f"read {name}")
    return f"the note {name}"


@server.tool()
def write_note(name: str) -> str:
    """Fails to write a note."""
    note(f"write {name}")
    raise ValueError(f"no room for {name}")


@server.tool()
async def write_slowly(name: str) -> str:
    """Takes its time."""
    note(f"begun {name}")
    await asyncio.sleep(60)
    return "never"


@server.tool()
def write_and_die(name: str) -> str:
    """Ends the server in the middle of a call."""
    note(f"died {name}")
    os._exit(3)


if __name__ == "__main__":
    server.run("stdio")

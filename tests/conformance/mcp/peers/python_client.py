"""A client by the published Python SDK 2.x: ``python python_client.py URL TOKEN MODE [PREFIX]`` prints what it got."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mcp import Client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from mcp.types import ElicitResult

URL, TOKEN, MODE, PREFIX = (*sys.argv[1:], "")[:4]


async def answer(*_: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"name": "Ada"})


async def main() -> None:
    told: list[float] = []

    async def progress(done: float, of: float | None, text: str | None) -> None:
        told.append(done)

    async with (
        create_mcp_http_client(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
        Client(streamable_http_client(URL, http_client=http), mode=MODE, elicitation_callback=answer) as client,
    ):
        tools = [tool.name for tool in (await client.list_tools()).tools]
        added = await client.call_tool(f"{PREFIX}add", {"a": 1, "b": 2})
        failed = await client.call_tool(f"{PREFIX}fail", {})
        counted = await client.call_tool(f"{PREFIX}count", {"to": 3}, progress_callback=progress)
        legacy = client.protocol_version < "2026"  # this SDK's servers ask nothing in the middle of a modern call
        greeted = await client.call_tool(f"{PREFIX}greet", {}) if legacy else None
        found = {
            "version": client.protocol_version,
            "tools": sorted(tools),
            "added": added.structured_content,
            "failed": [failed.is_error, failed.content[0].text],
            "counted": counted.content[0].text,
            "progress": told,
            "greeted": greeted.content[0].text if greeted is not None else None,
        }
    print(json.dumps(found))


asyncio.run(main())

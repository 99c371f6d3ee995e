"""The tools that an MCP server offers, asked of the server itself, over the same client that calls it later."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outrider.errors import Misconfigured
from outrider.importing.tools import Imported, Tool, unlike
from outrider.mcp_wire import Message, RpcError
from outrider.policy.load import check_texts
from outrider.policy.patterns import is_operation
from outrider.policy.plans import McpUpstream
from outrider.policy.schema import API_VERSION, KIND
from outrider.suggest.guesses import effect
from outrider.suggest.text import dump
from outrider.upstreams.drivers import make
from outrider.upstreams.mcp.driver import McpDriver
from outrider.upstreams.mcp.transport import McpFailure, Sending

MAX_TOOLS = 1000
CONNECT_S = 10.0


async def imported(name: str, section: Mapping[str, Any], folder: Path, timeout_s: float) -> Imported:
    """``section``: what the policy will say under ``mcp``; ``name`` empty takes the server's own. Raises Misconfigured,
    also where the server does not answer."""
    driver = make(name or "imported", _settings(section, folder))
    assert isinstance(driver, McpDriver)
    try:
        async with asyncio.timeout(timeout_s):
            server = (await driver.session(True, Sending(CONNECT_S))).server
            catalog = await driver.catalog()
    except TimeoutError:
        raise Misconfigured(f"The server did not tell its tools within {timeout_s:g} s.") from None
    except (McpFailure, RpcError, ValueError) as error:
        raise Misconfigured(f"The server does not tell its tools: {error}{_last_line(driver)}") from None
    finally:
        await driver.close()
    title = str(server.info.get("title") or server.info.get("name") or "")
    found = Imported(name or unlike((), title), title, mcp=dict(section))
    if catalog.left_out:
        found.left_out["tools that no client could call"] += catalog.left_out
    for tool in catalog.tools.values():
        _add(found, tool)
    return found


def _last_line(driver: McpDriver) -> str:
    """What a child said last on stderr is mostly why."""
    line = driver.snapshot().get("child", {}).get("last_line")
    return f" (it said: {line[:300]})" if line else ""


def _settings(section: Mapping[str, Any], folder: Path) -> McpUpstream:
    """Checked, with its secrets, exactly as the policy's reader will do it. Raises Misconfigured."""
    document = {"apiVersion": API_VERSION, "kind": KIND, "upstreams": {"imported": {"mcp": dict(section)}}}
    policy, faults = check_texts({"import": dump(document).encode()}, folder)
    if policy is None:
        raise Misconfigured([fault for fault in faults if fault.severity == "error"])
    settings = policy.upstreams["imported"].mcp
    assert settings is not None
    return settings


def _add(found: Imported, tool: Message) -> None:
    name = tool["name"]
    if not is_operation(f"{found.name}.{name}", "mcp") or not is_operation(name, "mcp"):
        found.notes.append(f"left out: the tool '{name[:100]}': a policy cannot name it")
    elif len(found.tools) >= MAX_TOOLS:
        found.left_out["tools, because there are too many"] += 1
    else:
        summary = re.sub(r"\s+", " ", str(tool.get("description") or tool.get("title") or "")).strip()[:200]
        found.tools.append(Tool(name, effect(name, "", _declares(tool)), summary=summary))


def _declares(tool: Message) -> frozenset[str]:
    """What the tool's own annotations claim."""
    hints = tool.get("annotations")
    if not isinstance(hints, dict):
        return frozenset()
    if hints.get("readOnlyHint") is True:
        return frozenset({"read"})
    if hints.get("idempotentHint") is True:
        return frozenset({"idempotent"})
    return frozenset({"write"}) if {"readOnlyHint", "destructiveHint"} & hints.keys() else frozenset()

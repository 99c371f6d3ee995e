"""What the conventions say of where an attempt goes: of servers, and of MCP requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from outrider.calls import Attempt
from outrider.policy.compile import MCP_METHOD
from outrider.policy.plans import McpUpstream
from outrider.telemetry import semconv

Value = str | int | float | bool


@lru_cache(maxsize=1024)
def of_server(url: str) -> Mapping[str, Value]:
    """Never the user and password that an address may hold."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {semconv.SERVER_ADDRESS: parts.hostname or "", semconv.SERVER_PORT: port, semconv.URL_SCHEME: parts.scheme}


def mcp_method(tool: str) -> tuple[str, str]:
    """Method and target of what an MCP server is asked."""
    operation = tool.partition(".")[2]
    passed_on = operation.startswith(MCP_METHOD)
    return (operation[len(MCP_METHOD) :], "") if passed_on else (semconv.CALL_TOOL, operation)


def of_mcp(attempt: Attempt, settings: McpUpstream) -> Mapping[str, Value]:
    method, _ = mcp_method(attempt.tool)
    found: dict[str, Value] = {
        semconv.MCP_METHOD: method,
        semconv.OPERATION_NAME: semconv.EXECUTE_TOOL if method == semconv.CALL_TOOL else "",
        semconv.TRANSPORT: "tcp" if settings.http is not None else "pipe",
    }
    if settings.http is not None:
        found.update(of_server(settings.http.url))
    if (rpc := attempt.rpc) is not None:
        found |= {semconv.MCP_VERSION: rpc.version, semconv.RPC_ID: str(rpc.id), semconv.RPC_STATUS: rpc.code}
    return found

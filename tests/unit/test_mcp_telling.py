"""What is told of calls to MCP servers: spans by the conventions, and the request that explain shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outrider.explain.request import CHILD, request_of
from outrider.mcp_wire import LEGACY, MODERN
from outrider.policy.plans import HttpUpstream, McpUpstream, Plan, Upstream
from outrider.telemetry.environment import Sampler
from outrider.telemetry.traces import Span, Traces
from tests.support.scripted_mcp import Exchange, said
from tests.unit.test_mcp_pins import Served, served


def traced(one: Served) -> list[Span]:
    kept: list[Span] = []
    one.rig.telemetry.traces = Traces(Sampler(), kept.extend)
    return kept


def failing(exchange: Exchange) -> None:
    exchange.error(-32602, "no such place")


def saying_no(exchange: Exchange) -> None:
    exchange.result({**said("no room"), "isError": True})


@pytest.mark.parametrize("era", [MODERN, LEGACY[0]])
async def test_each_attempt_is_a_client_span_whose_context_goes_in_the_message(tmp_path: Path, era: str) -> None:
    """`tools/call NAME`, with the version, the id of the request, and the address."""
    async with served(tmp_path, era) as one:
        kept = traced(one)
        assert (await one.call()).ok
        (span,) = [span for span in kept if span.is_client]
        sent = one.server.sent("tools/call")[0]
        assert span.name == "tools/call look"
        expected: dict[str, Any] = {
            "mcp.method.name": "tools/call",
            "mcp.protocol.version": era,
            "gen_ai.operation.name": "execute_tool",
            "jsonrpc.request.id": str(sent["id"]),
            "network.transport": "tcp",
            "server.address": "127.0.0.1",
            "server.port": one.server.port,
        }
        assert expected.items() <= span.attributes.items()
        assert "rpc.response.status_code" not in span.attributes and span.error is None
        assert sent["params"]["_meta"]["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"


@pytest.mark.parametrize(("answer", "error", "code"), [(failing, "-32602", "-32602"), (saying_no, "tool_error", None)])
async def test_what_a_server_says_no_with_is_the_span_s_error(
    tmp_path: Path, answer: Any, error: str, code: str | None
) -> None:
    """The code of a JSON-RPC error; a result that is an error has none."""
    async with served(tmp_path) as one:
        one.server.calls = [answer]
        kept = traced(one)
        await one.call()
        (span,) = [span for span in kept if span.is_client]
        assert (span.error, span.attributes["error.type"]) == (error, error)
        assert span.attributes.get("rpc.response.status_code") == code


async def test_a_method_that_is_no_tool_is_named_as_it_is(tmp_path: Path) -> None:
    """And is no execute_tool."""
    async with served(tmp_path) as one:
        one.server.on["resources/read"] = lambda exchange: exchange.result({"contents": []})
        kept = traced(one)
        await one.rig.call("mcp.mcp:resources/read", uri="note://x")
        (span,) = [span for span in kept if span.is_client]
        assert span.name == "resources/read" and "gen_ai.operation.name" not in span.attributes


def test_explain_shows_the_message() -> None:
    """For a server behind an address, for a program, and for a method that is no tool."""
    there = Upstream("m", mcp=McpUpstream(http=HttpUpstream("http://h/mcp")))
    shown = request_of(Plan("m.look", there), {"a": 1}, "", {"X-Key": "{env:KEY}"})
    assert shown == {
        "method": "POST",
        "url": "http://h/mcp",
        "headers": {"X-Key": "{env:KEY}"},
        "body": '{"method":"tools/call","params":{"name":"look","arguments":{"a":1}}}',
    }
    child = request_of(Plan("m.mcp:ping", Upstream("m", mcp=McpUpstream(command=("x",)))), {}, "", {})
    assert child == {"method": "WRITE", "url": CHILD, "headers": {}, "body": '{"method":"ping","params":{}}'}

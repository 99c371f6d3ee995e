"""Gate C's client: ``python -m tests.conformance.mcp.driver URL`` makes a real sidecar whose upstream is the suite's
server at URL, and does through ``/mcp/far`` what the scenario in ``MCP_CONFORMANCE_SCENARIO`` wants of a client.

So what the suite's server sees is Outrider as an MCP client. Exit code 0: everything was done that the scenario needs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from outrider.mcp_wire import LEGACY, MODERN, Message
from outrider.testing.gateway import GatewayProcess
from tests.conformance.mcp.talker import Refused, Talker

Play = Callable[[Talker], Awaitable[None]]


async def greet(talker: Talker) -> None:
    """Nothing but what every client does first."""
    await talker.tools()


async def call_all(talker: Talker) -> None:
    """Every tool that is listed, by the arguments that its schema needs."""
    for tool in await talker.tools():
        await talker.call(tool["name"], _arguments(tool.get("inputSchema") or {}))


async def everything(talker: Talker) -> None:
    """Each method that carries a name in a header."""
    await call_all(talker)
    for resource in (await talker.request("resources/list"))["resources"]:
        await talker.request("resources/read", {"uri": resource["uri"]})
    for prompt in (await talker.request("prompts/list"))["prompts"]:
        await talker.request("prompts/get", {"name": prompt["name"]})


async def by_context(talker: Talker) -> None:
    """The calls that the suite names."""
    await talker.tools()
    for call in json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])["toolCalls"]:
        await talker.call(call["name"], call["arguments"])


async def state(talker: Talker) -> None:
    """Two calls that want input, with another between their rounds, and one of a server that says not what it is."""
    await talker.tools()
    asking = {name: await talker.call(name) for name in ("test_mrtr_echo_state", "test_mrtr_no_state")}
    await talker.call("test_mrtr_unrelated")
    for name, asked in asking.items():
        answers = {key: _input(request) for key, request in (asked.get("inputRequests") or {}).items()}
        carried = {"requestState": asked["requestState"]} if "requestState" in asked else {}
        await talker.call(name, inputResponses=answers, **carried)
    await talker.call("test_mrtr_no_result_type")


async def echo_schema(talker: Talker) -> None:
    """The schema of one tool, as it arrived here, back to the server."""
    tools = {tool["name"]: tool for tool in await talker.tools()}
    await talker.call("json_schema_echo", {"schema": tools["json_schema_2020_12_tool"]["inputSchema"]})


async def metadata(talker: Talker) -> None:
    """A list and a call; the tool does not exist, which is not what is looked at."""
    await talker.tools()
    try:
        await talker.call("anything")
    except Refused as refused:
        print(refused)


PLAYS: dict[str, Play] = {
    "initialize": greet,
    "tools_call": call_all,
    "elicitation-sep1034-client-defaults": call_all,
    "sse-retry": call_all,
    "request-metadata": metadata,
    "sep-2322-client-request-state": state,
    "http-standard-headers": everything,
    "http-custom-headers": by_context,
    "http-invalid-tool-headers": call_all,
    "json-schema-ref-no-deref": greet,
    "json-schema-2020-12-preservation": echo_schema,
}

SAMPLES: dict[str, Any] = {"number": 1, "integer": 1, "boolean": True, "array": [], "object": {}, "null": None}


def _arguments(schema: Message) -> Message:
    properties = schema.get("properties") or {}
    return {name: SAMPLES.get(properties[name].get("type"), "x") for name in schema.get("required") or ()}


def _input(request: Message) -> Message:
    properties = request.get("params", {}).get("requestedSchema", {}).get("properties", {})
    return {"action": "accept", "content": {name: _value(said) for name, said in properties.items()}}


def _value(said: Message) -> Any:
    return said.get("default", SAMPLES.get(said.get("type", ""), "x"))


async def play(scenario: str, url: str, version: str) -> None:
    """One scenario. Raises KeyError for one that nobody wrote, Refused where a request fails."""
    policy = {
        "upstreams": {"far": {"mcp": {"url": url}}},
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }
    with GatewayProcess(policy) as sidecar:
        bearer = {"Authorization": f"Bearer {sidecar.agent_token}"}
        async with Talker(f"{sidecar.url}/mcp/far", version, bearer, _input) as talker:
            await PLAYS[scenario](talker)


if __name__ == "__main__":
    spoken = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", MODERN)
    asyncio.run(play(os.environ["MCP_CONFORMANCE_SCENARIO"], sys.argv[-1], spoken if spoken == MODERN else LEGACY[0]))

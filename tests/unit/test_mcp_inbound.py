"""What came in a POST: its era, or what is wrong with it, with the code and the status that the standard demands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from outrider.mcp.inbound import Inbound, Rejected, argument_error, read
from outrider.mcp_wire import MODERN

META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
HEADERS = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "add"}
PARAMS: dict[str, Any] = {"name": "add", "arguments": {}, "_meta": META}


def came(message: Any, **headers: str | None) -> Inbound | Rejected:
    """``headers``: over those of a right call; None takes one away."""
    said = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return read(body, CIMultiDict({name: value for name, value in said.items() if value is not None}))


def call(**changes: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": PARAMS, **changes}


def without(key: str) -> dict[str, Any]:
    return {**PARAMS, "_meta": {name: value for name, value in META.items() if not name.endswith(key)}}


def test_a_right_call_of_the_modern_era_is_taken() -> None:
    """With names of headers in any case, and space around their values."""
    found = read(
        json.dumps(call()).encode(),
        CIMultiDict({"mcp-protocol-version": MODERN, "MCP-METHOD": " tools/call ", "mcp-name": "=?base64?YWRk?="}),
    )
    assert isinstance(found, Inbound) and found.modern and found.wants_answer and found.id == 7


@pytest.mark.parametrize(
    ("message", "headers", "code", "status"),
    [
        (b"{", {}, -32700, 400),
        (b"\xff", {}, -32700, 400),
        ([call()], {}, -32600, 400),
        (call(jsonrpc="1.0"), {}, -32600, 400),
        (call(method=7), {}, -32600, 400),
        (call(params=[1]), {}, -32600, 400),
        (call(id=None), {}, -32600, 400),
        (call(id=1.5), {}, -32600, 400),
        (call(id="x" * 300), {}, -32600, 400),
        ({"jsonrpc": "2.0", "id": 1}, {}, -32600, 400),
        (call(params={"name": "add"}), {}, -32602, 400),
        (call(params=without("protocolVersion")), {}, -32602, 400),
        (call(params=without("clientCapabilities")), {}, -32602, 400),
        (call(), {"MCP_Protocol_Version": None}, -32020, 400),
        (call(), {"Mcp_Method": None}, -32020, 400),
        (call(), {"Mcp_Method": "Tools/Call"}, -32020, 400),
        (call(), {"Mcp_Name": None}, -32020, 400),
        (call(), {"Mcp_Name": "Add"}, -32020, 400),
        (call(), {"Mcp_Name": "=?base64?!?="}, -32020, 400),
    ],
)
def test_what_is_wrong_is_told_with_its_code_and_status(
    message: Any, headers: dict[str, str | None], code: int, status: int
) -> None:
    """Before anything is done."""
    found = came(message, **headers)
    assert isinstance(found, Rejected)
    assert (found.error.code, found.status) == (code, status)


def test_an_unknown_version_is_told_which_there_are() -> None:
    """So that a client can choose."""
    meta = {**META, "io.modelcontextprotocol/protocolVersion": "v999"}
    found = came(call(params={**PARAMS, "_meta": meta}), MCP_Protocol_Version="v999")
    assert isinstance(found, Rejected) and found.error.code == -32022 and found.id == 7
    assert found.error.data["requested"] == "v999" and MODERN in found.error.data["supported"]


@pytest.mark.parametrize(
    ("message", "version"),
    [
        ({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}, None),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, None),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, "2025-06-18"),
        ({"jsonrpc": "2.0", "method": "notifications/initialized"}, "2025-11-25"),
        ({"jsonrpc": "2.0", "id": "outrider-1", "result": {}}, "2025-11-25"),
    ],
)
def test_a_client_with_a_handshake_is_known_by_what_it_does_not_say(message: Any, version: str | None) -> None:
    """The oldest versions have no header at all."""
    found = came(message, MCP_Protocol_Version=version, Mcp_Method=None, Mcp_Name=None)
    assert isinstance(found, Inbound) and not found.modern


SCHEMA = {
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "n": {"type": "integer", "x-mcp-header": "N"},
    }
}


@pytest.mark.parametrize(
    ("arguments", "headers", "agree"),
    [
        ({"region": "eu", "n": 3}, {"Mcp-Param-Region": "eu", "Mcp-Param-N": "3"}, True),
        ({"region": "eu"}, {"mcp-param-region": "=?base64?ZXU=?="}, True),
        ({}, {}, True),
        ({"region": "eu"}, {}, False),
        ({"region": "eu"}, {"Mcp-Param-Region": "us"}, False),
        ({}, {"Mcp-Param-Region": "eu"}, False),
        ({"region": "eu"}, {"Mcp-Param-Region": "=?base64?ZXU?="}, False),
        ({"region": ["eu"]}, {"Mcp-Param-Region": "eu"}, False),
    ],
)
def test_arguments_in_headers_agree_with_the_body(
    arguments: dict[str, Any], headers: dict[str, str], agree: bool
) -> None:
    """Whoever decides by headers decides about what is executed."""
    assert (argument_error(SCHEMA, arguments, CIMultiDict(headers)) is None) == agree


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(sorted(HEADERS)), st.text(max_size=20)))
def test_nothing_that_comes_raises(body: bytes, headers: dict[str, str]) -> None:
    """Every body and every header has an answer."""
    assert isinstance(read(body, CIMultiDict(headers)), Inbound | Rejected)

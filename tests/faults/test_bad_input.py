"""Whatever a client sends: a clear problem, and the sidecar lives on."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from outrider.testing.upstream_process import UpstreamProcess

POLICY = {
    "limits": {"maxBody": "64KiB"},
    "upstreams": {"up": {"http": {"url": "http://127.0.0.1:1"}}},
    "rules": [
        {"name": "all", "tools": ["*"], "then": "allow"},
        {"name": "ask first", "tools": ["up.refund"], "when": "args.amount > 500", "then": "require_approval"},
    ],
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with UpstreamProcess() as upstream:
        policy: dict[str, Any] = POLICY | {"upstreams": {"up": {"http": {"url": upstream.url}}}}
        with GatewayProcess(policy) as running:
            yield running


def post(gateway: GatewayProcess, body: Any, token: str | None = None, **headers: str) -> tuple[int, Any]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.request("POST", gateway.url + "/v1/call", body, token or gateway.agent_token, given)


def deep(levels: int) -> bytes:
    return b'{"tool":"up.x","args":{"a":' + b"[" * levels + b"]" * levels + b"}}"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "truncated"),
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"args": {}}', "`tool`"),
        (b'{"tool": 5}', "Expected `str`"),
        (b'{"tool": "up.x", "args": []}', "Expected `object`"),
        (b'{"tool": "up.x", "arg": {}}', "unknown field `arg`"),
        (b'{"tool": "up.x\\n"}', "cannot be printed"),
        (b'{"tool": "up.x", "agent": " a"}', "'agent' has blanks around it"),
        (b'{"tool": "up.x", "run": "r "}', "'run' has blanks around it"),
        (json.dumps({"tool": "u" * 300}).encode(), "longer than 200"),
        (deep(40), "deep"),
        (deep(20_000), "The body is not"),
        (b'{"tool":"up.x","args":{"n":1e999}}', ""),
        (b"\xff\xfe", "The body is not"),
    ],
)
def test_a_body_that_is_none_is_explained(gateway: GatewayProcess, body: bytes, says: str) -> None:
    """400, what is wrong and an example or a bound."""
    status, problem = post(gateway, body)
    assert (status, problem["code"], problem["retryable"]) == (400, "invalid_request", False), problem
    assert says in problem["detail"]
    assert gateway.running


def test_a_body_that_is_too_large_is_refused(gateway: GatewayProcess) -> None:
    """413, before it is read whole."""
    status, problem = post(gateway, {"tool": "up.x", "args": {"a": "x" * 100_000}})
    assert (status, problem["code"]) == (413, "too_large")


def test_a_compressed_body_is_measured_as_what_it_unpacks_to(gateway: GatewayProcess) -> None:
    """Ten kilobytes on the wire, ten megabytes behind it: ``limits.maxBody`` counts those. A small one is a body."""
    bomb = gzip.compress(b'{"tool":"up.x","args":{"a":"' + b"x" * 10_000_000 + b'"}}')
    assert len(bomb) < 20_000
    status, problem = post(gateway, bomb, Content_Encoding="gzip")
    assert (status, problem["code"]) == (413, "too_large")
    assert post(gateway, gzip.compress(b'{"tool":"up.x"}'), Content_Encoding="gzip")[0] == 200
    assert post(gateway, b"this is not gzip", Content_Encoding="gzip")[0] == 400


def test_header_and_body_that_disagree_are_refused(gateway: GatewayProcess) -> None:
    """Who calls must be said once."""
    status, problem = post(gateway, {"tool": "up.x", "agent": "a"}, Outrider_Agent="b")
    assert status == 400 and "disagree" in problem["detail"]
    assert post(gateway, {"tool": "up.x", "agent": "a"}, Outrider_Agent="a")[0] == 200


@pytest.mark.parametrize("text", ["soon", "0", "-5", "1.5", "9" * 30, "", "0" * 11 + "1" + "9" * 4500, "1\xff"])
def test_a_deadline_that_is_none_is_refused(gateway: GatewayProcess, text: str) -> None:
    """Whole milliseconds."""
    assert post(gateway, {"tool": "up.x"}, Gateway_Timeout_Ms=text)[0] == 400


@pytest.mark.parametrize(
    ("tool", "status", "code"),
    [("nowhere.x", 404, "unknown_tool"), ("x", 404, "unknown_tool"), ("local.f", 503, "agent_gone")],
)
def test_a_tool_that_is_not_there(gateway: GatewayProcess, tool: str, status: int, code: str) -> None:
    """An unknown upstream, and a function whose process is not connected."""
    answer = post(gateway, {"tool": tool})
    assert (answer[0], answer[1]["code"]) == (status, code)


def test_a_rule_that_asks_a_person_refuses_while_approvals_are_not_there(gateway: GatewayProcess) -> None:
    """And a condition that cannot be evaluated denies."""
    status, problem = post(gateway, {"tool": "up.refund", "args": {"amount": 501}})
    assert (status, problem["code"], problem["rule"]) == (403, "approval_unavailable", "ask first")
    status, problem = post(gateway, {"tool": "up.refund", "args": {"amount": "many"}})
    assert (status, problem["code"], problem["rule"]) == (403, "denied", "ask first")
    assert post(gateway, {"tool": "up.refund", "args": {"amount": 5}})[0] == 200


def test_credentials(gateway: GatewayProcess) -> None:
    """None, a wrong one, and each token at the other's door."""
    url = gateway.url + "/v1/call"
    assert gateway.request("POST", url, {"tool": "up.x"})[0] == 401
    assert gateway.request("POST", url, {"tool": "up.x"}, "wrong" * 10)[0] == 401
    assert gateway.request("POST", url, {"tool": "up.x"}, gateway.admin_token)[0] == 401
    assert gateway.control("GET", "/v1/agents", token=gateway.agent_token)[0] == 403
    assert gateway.control("GET", "/v1/agents", token="wrong" * 10)[0] == 401
    assert gateway.request("GET", gateway.control_url + "/v1/agents")[0] == 401


def test_probes_need_no_token(gateway: GatewayProcess) -> None:
    """Kubernetes has none."""
    for base in (gateway.url, gateway.control_url):
        assert gateway.request("GET", base + "/livez")[0] == 200
        assert gateway.request("GET", base + "/readyz")[0] == 200


def test_pages_of_another_origin_are_refused(gateway: GatewayProcess) -> None:
    """A person's browser is no way in, on either plane."""
    evil = {"Origin": "https://evil.example"}
    url = gateway.url + "/v1/call"
    assert gateway.request("POST", url, {"tool": "up.x"}, gateway.agent_token, evil)[0] == 403
    kills = gateway.control_url + "/v1/kills"
    assert gateway.request("GET", kills, None, gateway.admin_token, evil)[0] == 403


def test_other_paths_and_methods_are_problems_too(gateway: GatewayProcess) -> None:
    """Every error has the same shape."""
    status, problem = gateway.request("GET", gateway.url + "/v1/nothing", None, gateway.agent_token)
    assert (status, problem["code"]) == (404, "not_found")
    status, problem = gateway.request("GET", gateway.url + "/v1/call", None, gateway.agent_token)
    assert status == 405 and "POST" in problem["detail"]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/call HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{",
    ],
)
def test_bytes_that_are_no_request_leave_the_sidecar_alive(gateway: GatewayProcess, raw: bytes) -> None:
    """TLS to a plain port, nonsense, and a body that never comes."""
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)
    assert post(gateway, {"tool": "up.x"})[0] == 200

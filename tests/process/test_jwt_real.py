"""JWTs of an identity provider against a real sidecar: who is believed, keys that rotate, what a kill revokes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from outrider.testing.gateway import GatewayProcess
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.support.real_gateway import lift_all


class World:
    def __init__(self, folder: Path) -> None:
        self.idp = Issuer()
        self.keys = folder / "jwks.json"
        self.publish()
        jwt = {
            "issuer": ISSUER,
            "audience": [AUDIENCE],
            "jwks": {"file": str(self.keys)},
            "algorithms": ["ES256"],
            "leeway": "0s",
            "agent": {"claim": "/act/sub", "pattern": "agent:{name}"},
            "onBehalfOf": {"claim": "sub"},
        }
        rules = [{"name": "of ann", "tools": ["*"], "when": 'principal.on_behalf_of == "ann"', "then": "allow"}]
        self.policy = {
            "identity": {"sharedToken": "refuse", "jwt": [jwt]},
            "upstreams": {"none": {"http": {"url": "http://127.0.0.1:9"}, "domain": {"breaker": {"enabled": False}}}},
            "tools": [{"match": "none.*", "effect": "read", "retry": {"maxAttempts": 1}}],
            "rules": rules,
        }
        self.gateway = GatewayProcess(self.policy)

    def publish(self) -> None:
        self.keys.write_text(self.idp.text())

    def sign(self, kid: str | None = None, agent: str = "writer", user: str = "ann", **more: Any) -> str:
        return self.idp.sign(kid, sub=user, act={"sub": f"agent:{agent}"}, **more)

    def call(self, token: str, **named: Any) -> tuple[str, Any]:
        """What the call came to: its code; upstream_failed means that everything let it pass."""
        _, told = self.gateway.request("POST", f"{self.gateway.url}/v1/call", {"tool": "none.get", **named}, token)
        return told["code"], told


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.gateway:
        yield made


def test_a_jwt_is_mapped_recorded_and_seen_by_conditions(world: World) -> None:
    """Who calls and for whom, in the ledger and in CEL; no other name may be used, and no other credential."""
    code, told = world.call(world.sign())
    assert code == "upstream_failed"
    received = world.gateway.control("GET", f"/v1/calls/{told['call_id']}")[1]["records"][0]
    assert received["agent"] == {"name": "writer", "asserted": False}
    assert (received["principal"], received["on_behalf_of"]) == ("jwt:ann", "ann")
    assert world.call(world.sign(user="bob"))[0] == "no_rule"
    assert world.call(world.sign(), agent="writer")[0] == "upstream_failed"
    assert world.call(world.sign(), agent="ops")[0] == "forbidden"
    for wrong in (world.sign(exp=1), world.sign(aud="x"), Issuer().sign("k1"), world.gateway.agent_token, "x.y.z"):
        assert world.call(wrong)[0] == "unauthenticated"


def test_keys_are_rotated_without_a_refused_call(world: World) -> None:
    """The first token with a new key waits for the keys to be read; the old key's end when it is withdrawn."""
    old = world.sign("k1")
    assert world.call(old)[0] == "upstream_failed"
    world.idp.add("k2")
    world.publish()
    assert world.call(world.sign("k2"))[0] == "upstream_failed"
    assert world.call(old)[0] == "upstream_failed"
    del world.idp.keys["k1"]
    world.publish()
    end = time.monotonic() + 20
    while world.call(old)[0] != "unauthenticated":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert world.call(world.sign("k2"))[0] == "upstream_failed"


def test_an_mcp_session_is_of_who_opened_it(world: World) -> None:
    """A fresh token of the same agent goes on with it; that of another agent of the same issuer does not."""
    start = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}

    def ask(token: str, method: str, session: str = "", **params: Any) -> tuple[int, str]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        headers |= {"Accept": "application/json, text/event-stream"} | ({"Mcp-Session-Id": session} if session else {})
        request = Request(f"{world.gateway.url}/mcp", body, headers)
        try:
            with urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers.get("Mcp-Session-Id", "")
        except HTTPError as refused:
            return refused.code, ""

    status, session = ask(world.sign(), "initialize", **start)
    assert status == 200 and session
    assert ask(world.sign(jti="2"), "ping", session)[0] == 200
    assert ask(world.sign(agent="other"), "ping", session)[0] == 404


def test_a_kill_outlives_its_lift_and_a_restart_for_what_was_issued_before(world: World) -> None:
    """Only what the provider issues afterwards is accepted again."""
    before = world.sign()
    assert world.call(before)[0] == "upstream_failed"
    kill = world.gateway.control("POST", "/v1/kills", {"scope": "agent:writer", "reason": "wild"})[1]
    assert world.call(before)[0] == "unauthenticated"
    lift_all(world.gateway)
    code, told = world.call(before)
    assert code == "unauthenticated" and f"revoked by the kill {kill['id']} of writer: wild" in told["detail"]
    world.gateway.kill9()
    world.gateway.start()
    assert world.call(before)[0] == "unauthenticated"
    assert world.call(world.sign(agent="other"))[0] == "upstream_failed"
    time.sleep(1.1)  # iat counts whole seconds
    assert world.call(world.sign())[0] == "upstream_failed"


def test_a_policy_that_is_wrong_about_its_issuers_does_not_start(world: World) -> None:
    """The command line says where and how to mend it."""
    wrong = json.loads(json.dumps(world.policy))
    wrong["identity"]["jwt"][0]["algorithms"] = ["HS256"]
    world.gateway.write_policy(wrong)
    status, told = world.gateway.control("POST", "/v1/policy/reload", {})
    assert status == 422 and "E60" not in told["detail"] and "is symmetric" in told["faults"][0]
    assert world.call(world.sign())[0] == "upstream_failed"

"""A bad upstream behind a real sidecar: what the caller reads, and how often the upstream was asked."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import (
    Step,
    close,
    drip,
    garbage,
    hang,
    refuse,
    reset,
    reset_after_headers,
    respond,
    truncate,
    unavailable,
)
from outrider.testing.upstream_process import UpstreamProcess
from tests.support.eventually import eventually


def policy(upstream: UpstreamProcess, **more: Any) -> dict[str, Any]:
    return {
        "defaults": {
            "timeouts": {"total": "5s", "perTry": "400ms", "connect": "300ms"},
            "retry": {"maxAttempts": 3, "backoff": {"initial": "10ms", "max": "50ms"}, "retryAfter": {"max": "2s"}},
        },
        "domain": {
            "breaker": {"consecutiveFailures": 50, "minCalls": 100},
            "retryBudget": {"minRetries": 100},
        },
        "upstreams": {"up": {"http": {"url": upstream.url}}},
        "tools": [{"match": "up.read*", "effect": "read"}, {"match": "up.write*", "effect": "write"}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    } | more


FAULTS = {
    "close": (close(), "unknown"),
    "reset before the headers": (reset(), "unknown"),
    "reset after the headers": (reset_after_headers(), "unknown"),
    "truncated": (truncate(), "unknown"),
    "garbage": (garbage(), "unknown"),
    "hang": (hang(), "unknown"),
    "drip": (drip(every_s=0.5), "unknown"),
    "503": (unavailable(), "definite"),
    "500": (respond(status=500), "definite"),
}


def test_each_fault_once_and_always(outrider_gateway: Any, scripted_upstream: UpstreamProcess) -> None:
    """Once: a read succeeds at the second sending. Always: three sendings of a read, one of a write."""
    gateway: GatewayProcess = outrider_gateway(policy(scripted_upstream))
    for n, (name, (fault, outcome)) in enumerate(FAULTS.items()):
        once(gateway, scripted_upstream, f"read_once_{n}", fault, name)
        always(gateway, scripted_upstream, f"read_{n}", fault, 3, outcome, name)
        always(gateway, scripted_upstream, f"write_{n}", fault, 1, outcome, name)


def once(gateway: GatewayProcess, upstream: UpstreamProcess, operation: str, fault: Step, name: str) -> None:
    upstream.script(f"/{operation}", fault, respond(json={"done": True}))
    status, answer = gateway.call(f"up.{operation}", {"n": 1})
    assert (status, answer.get("attempts")) == (200, 2), (name, answer)
    assert upstream.count(f"/{operation}") == 2, name


def always(
    gateway: GatewayProcess, upstream: UpstreamProcess, operation: str, fault: Step, sends: int, outcome: str, name: str
) -> None:
    upstream.script(f"/{operation}", fault)
    status, problem = gateway.call(f"up.{operation}", {"n": 1})
    assert status in {502, 504} and problem["outcome"] == outcome, (name, problem)
    assert problem["retryable"] is False and problem["attempts"] == sends, (name, problem)
    assert upstream.count(f"/{operation}") == sends, name


def test_a_refusing_upstream_is_tried_again_even_for_a_write(
    outrider_gateway: Any, scripted_upstream: UpstreamProcess
) -> None:
    """Nothing was sent; the port opens again, and the write runs once."""
    gateway: GatewayProcess = outrider_gateway(policy(scripted_upstream))
    scripted_upstream.refuse()
    status, problem = gateway.call("up.write", {"n": 1})
    assert (status, problem["code"], problem["outcome"], problem["attempts"]) == (
        502, "upstream_failed", "not_executed", 3,
    )  # fmt: skip
    scripted_upstream.accept()
    assert gateway.call("up.write", {"n": 1})[0] == 200
    assert scripted_upstream.count("/write") == 1


def test_retry_after_is_honoured_or_passed_on(outrider_gateway: Any, scripted_upstream: UpstreamProcess) -> None:
    """One second is waited; a minute is the caller's to wait."""
    gateway: GatewayProcess = outrider_gateway(policy(scripted_upstream))
    scripted_upstream.script("/read_short", unavailable(retry_after_s=1, status=429), respond(json=1))
    assert gateway.call("up.read_short", {})[0] == 200
    first, second = scripted_upstream.requests("/read_short")
    assert second.at_s - first.at_s >= 1.0
    scripted_upstream.script("/read_long", unavailable(retry_after_s=60, status=429))
    status, problem = gateway.call("up.read_long", {})
    assert (problem["retryable"], problem["retry_after_ms"]) == (True, 60_000) and status == 502


def test_a_failing_upstream_opens_its_breaker_and_it_closes_again(
    outrider_gateway: Any, scripted_upstream: UpstreamProcess
) -> None:
    """Open: not one request arrives. Then a probe, then traffic."""
    domain = {"breaker": {"consecutiveFailures": 3, "openFor": "500ms"}}
    gateway: GatewayProcess = outrider_gateway(policy(scripted_upstream, domain=domain))
    scripted_upstream.script("*", unavailable())
    gateway.call("up.read", {})
    status, problem = gateway.call("up.read", {})
    assert (status, problem["code"]) == (503, "breaker_open") and problem["retry_after_ms"] > 0
    assert scripted_upstream.count() == 3
    scripted_upstream.script("*", respond(json={"done": True}))
    assert eventually(lambda: gateway.call("up.read", {})[0] == 200)


def test_an_unready_upstream_fails_fast_and_recovers_by_itself(
    outrider_gateway: Any, scripted_upstream: UpstreamProcess
) -> None:
    """The probe decides; no restart."""
    health = {"readiness": {"http": "/healthz", "period": "200ms", "timeout": "200ms", "failureThreshold": 1}}
    upstreams = {"up": {"http": {"url": scripted_upstream.url}, "health": health}}
    scripted_upstream.script("/healthz", respond(status=500))
    gateway: GatewayProcess = outrider_gateway(policy(scripted_upstream, upstreams=upstreams))
    assert eventually(lambda: gateway.call("up.read", {})[1].get("code") == "upstream_unready")
    assert scripted_upstream.count("/read") == 0
    scripted_upstream.script("/healthz", respond())
    assert eventually(lambda: gateway.call("up.read", {})[0] == 200)


def test_a_policy_that_breaks_while_running_leaves_the_old_one(
    outrider_gateway: Any, scripted_upstream: UpstreamProcess
) -> None:
    """Whole or not at all, and the refusal is visible; a good change is in force within 2 s."""
    gateway: GatewayProcess = outrider_gateway(policy(scripted_upstream))
    before = gateway.control("GET", "/v1/policy")[1]["digest"]
    gateway.write_policy("kind: Policy\nrules: [")
    status, problem = gateway.control("POST", "/v1/policy/reload")
    assert status in {400, 409, 422} and problem["code"]
    assert gateway.call("up.read", {})[0] == 200
    assert gateway.control("GET", "/v1/policy")[1]["digest"] == before
    denied = policy(scripted_upstream, rules=[{"name": "no", "tools": ["*"], "then": "deny", "reason": "closed"}])
    gateway.write_policy(denied)
    assert eventually(lambda: gateway.call("up.read", {})[1].get("code") == "denied", within_s=3)


def test_a_dead_upstream_does_not_hold_up_another(outrider_gateway: Any, scripted_upstream: UpstreamProcess) -> None:
    """Fault domains are apart."""
    upstreams = {
        "up": {"http": {"url": scripted_upstream.url}},
        "dead": {"http": {"url": scripted_upstream.url + "/dead"}, "domain": {"bulkhead": {"maxConcurrent": 1}}},
    }
    scripted_upstream.script("/dead/*", refuse(for_s=0.0))
    gateway: GatewayProcess = outrider_gateway(policy(scripted_upstream, upstreams=upstreams))
    scripted_upstream.script("/dead/*", hang())
    gateway.call("dead.x", {}, headers={"Gateway-Timeout-Ms": "300"})
    assert gateway.call("up.read", {})[0] == 200


@pytest.mark.parametrize("header", ["Authorization", "Cookie", "X-Secret"])
def test_nothing_of_the_callers_headers_is_forwarded(
    outrider_gateway: Any, scripted_upstream: UpstreamProcess, header: str
) -> None:
    """The agents' token least of all."""
    gateway: GatewayProcess = outrider_gateway(policy(scripted_upstream))
    more = {} if header == "Authorization" else {header: "mine"}
    assert gateway.call("up.read", {}, headers=more)[0] == 200
    (received,) = scripted_upstream.requests("/read")
    assert header.lower() not in received.headers

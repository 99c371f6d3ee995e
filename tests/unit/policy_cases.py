"""Runs a ``*.test.yaml``: sample calls beside a policy, and the decision and plan values that they expect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from outrider.calls import Agent
from outrider.policy.load import Policy, load
from outrider.policy.plans import Plan
from outrider.policy.rules import Decision, Facts
from outrider.policy.strictyaml import read
from outrider.policy.units import format_duration


def cases_of(path: Path) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Each case with the environment that its file asks for."""
    document = read(path.name, path.read_bytes())
    assert not document.faults, [str(fault) for fault in document.faults]
    assert set(document.data) <= {"env", "cases", "scenarios"}, path
    env = document.data.get("env", {})
    for case in document.data["cases"]:
        assert set(case) <= {"name", "tool", "args", "agent", "run", "session", "now", "expect"}, case
    return [(env, case) for case in document.data["cases"]]


def scenarios_of(path: Path) -> list[dict[str, Any]]:
    """Whole runs: calls one after the other, and the answer that each expects."""
    return list(read(path.name, path.read_bytes()).data.get("scenarios", []))


def outcome(folder: Path, env: Mapping[str, str], case: Mapping[str, Any]) -> dict[str, Any]:
    """What the policy makes of the case, as far as it expects something."""
    policy = load(folder, env=env)
    decision = policy.rules.decide(facts_of(case))
    found = {**_decided(decision), **_planned(policy, policy.plan(case["tool"])), "runs": _guarded(policy, case)}
    return {key: found[key] for key in case["expect"]}


def facts_of(case: Mapping[str, Any]) -> Facts:
    agent = case.get("agent", "anonymous")
    now = datetime.fromisoformat(case["now"]).timestamp() if "now" in case else 0.0
    return Facts(
        tool=case["tool"],
        args=case.get("args", {}),
        agent=Agent(agent) if isinstance(agent, str) else Agent(**agent),
        run=case.get("run", ""),
        session=case.get("session", ""),
        now=now,
    )


def _decided(decision: Decision) -> dict[str, Any]:
    return {
        "decision": decision.effect,
        "rule": decision.rule,
        "error": bool(decision.error),
        "reason": decision.reason,
        "approvers": list(decision.approvers),
        "shadows": [name for name, _ in decision.shadows],
    }


def _guarded(policy: Policy, case: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the runs that the agent begins are held to, in the policy's words."""
    guards = policy.runs.of(facts_of(case).agent.name)
    if guards is None:
        return None
    lasts = None if guards.max_duration_s is None else format_duration(guards.max_duration_s)
    found = {
        "maxCalls": guards.max_calls,
        "maxRetries": guards.max_retries,
        "maxDuration": lasts,
        "sameCall": guards.same_call,
        "failures": guards.failures,
        "exempt": list(guards.exempt) or None,
        "action": guards.action,
        "refusals": guards.refusals,
    }
    return {key: value for key, value in found.items() if value is not None}


def _planned(policy: Policy, plan: Plan | None) -> dict[str, Any]:
    if plan is None:
        return {"unknown": True}
    return {
        "unknown": False,
        "upstream": plan.upstream.name,
        "effect": plan.effect.value,
        "total": format_duration(plan.timeouts.total_s),
        "perTry": format_duration(plan.timeouts.per_try_s),
        "connect": format_duration(plan.timeouts.connect_s),
        "maxAttempts": plan.retry.max_attempts,
        "initial": format_duration(plan.retry.initial_s),
        "fallback": ["static" if way.is_static else way.tool for way in plan.fallback],
        "idempotencyHeader": plan.idempotency_header,
        "idempotencyArgument": plan.idempotency_argument,
        "method": plan.http.method,
        "path": plan.http.path,
        "redact": list(plan.redact),
        "placement": plan.placement,
        "composite": plan.composite,
        "maxConcurrent": plan.upstream.domain.bulkhead.max_concurrent,
    }

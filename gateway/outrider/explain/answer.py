"""One explanation, as JSON: ``outrider explain`` shows it, and programs read it."""

from __future__ import annotations

from typing import Any

from outrider.agents.expected import Expectations
from outrider.calls import Effect
from outrider.explain.provenance import Places
from outrider.explain.request import request_of
from outrider.explain.rules import heard
from outrider.policy.guard import guard_args
from outrider.policy.load import Policy
from outrider.policy.plans import Plan
from outrider.policy.rules import Decision, Facts


def explanation(policy: Policy, facts: Facts) -> dict[str, Any]:
    """How ``policy`` would treat a call: what it decides and why, and the plan with the place of every value.

    It is the policy's word only: kills, breakers, limits, drift and people's switches are a running sidecar's, and
    what a credential is scoped to is the credential's."""
    places = Places(policy.texts)
    plan = policy.plan(facts.tool)
    unexpected = _unexpected(policy, facts, plan)
    decision, rules = heard(policy.rules, facts)
    answer: dict[str, Any] = {
        "tool": facts.tool,
        "agent": facts.agent.name,
        "policy": {"name": policy.name, "digest": policy.digest, "mode": policy.mode, "mode_at": places.mode_at},
        "refused": _refused(policy, facts, decision, plan, unexpected),
        "unexpected": unexpected or None,
        "decision": _decided(policy, decision),
        "rules": [rule.as_dict() for rule in rules],
    }
    if plan is None:
        return answer
    upstream = plan.upstream
    answer["upstream"] = {
        "name": upstream.name,
        "kind": upstream.kind,
        "values": [value.as_dict() for value in places.upstream(upstream.name)],
    }
    answer["plan"] = [value.as_dict() for value in places.plan(facts.tool)]
    answer["domain"] = {
        "shared_by": _shared_by(facts, upstream.name, local=upstream.kind == "local"),
        "values": [value.as_dict() for value in places.domain(upstream.name)],
    }
    answer["request"] = request_of(plan, facts.args, places.url(upstream.name), places.headers(upstream.name))
    return answer


def _shared_by(facts: Facts, upstream: str, *, local: bool) -> str:
    if local:
        return f"the calls of {facts.tool} by {facts.agent.name}"
    return f"every tool of {upstream}"


def _decided(policy: Policy, decision: Decision) -> dict[str, Any]:
    at = next((rule.source for rule in policy.rules.rules if rule.name == decision.rule), None)
    return {
        "effect": decision.effect,
        "rule": decision.rule,
        "at": at,
        "reason": decision.reason or None,
        "error": decision.error or None,
        "approvers": list(decision.approvers),
        "shadows": [{"rule": rule, "effect": effect} for rule, effect in decision.shadows],
    }


def _unexpected(policy: Policy, facts: Facts, plan: Plan | None) -> str:
    """What the section ``agents`` has against this agent at this tool; empty where nothing."""
    bar = Expectations(policy.agents).bar(facts.agent)
    reads = plan is not None and plan.effect is Effect.READ
    return "" if bar is None or (bar.reads_pass and reads) else bar.detail


def _refused(policy: Policy, facts: Facts, decision: Decision, plan: Plan | None, unexpected: str) -> str | None:
    """The code that the caller would read; None where the policy lets it pass."""
    if guard_args(facts.args, policy.limits) is not None:
        return "invalid_request"
    if plan is None:
        return "unknown_tool"
    if policy.observes:
        return None
    if unexpected:
        return "agent_undeclared"
    if decision.effect == "allow":
        return None
    return {"no_rule": "no_rule", "require_approval": "approval_unavailable"}.get(decision.effect, "denied")

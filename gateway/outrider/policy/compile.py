"""From the draft to what runs: upstreams with their fault domains, and the plan of each tool.

Every table here says which key of the language becomes which field of ``plans``; what no layer says keeps the default
of ``plans``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from outrider.calls import Effect
from outrider.policy import plans, schema
from outrider.policy.draft import Draft, Item
from outrider.policy.layers import Keys, Layers, Leaf, Leaves, leaves_of, merged, model_leaves
from outrider.policy.patterns import MAX_NAME, is_operation
from outrider.policy.references import Resolver
from outrider.policy.run_guards import Override, RunPolicy, Said
from outrider.policy.schema_agents import ExpectedAgent
from outrider.policy.schema_runs import Runs
from outrider.policy.schema_upstreams import Probe, RateLimit

T = TypeVar("T")
Table = Mapping[Keys, str]

LOCAL = "local"
"""The upstream that always exists: the agents' own processes."""
MCP_METHOD = "mcp:"
"""Begins the operation that stands for a method of an MCP server which is no tool: ``NAME.mcp:resources/read``."""
PLAN_CACHE = 4096
"""Plans kept built. A caller may name any number of tools of an upstream; the rest are built again when asked for."""

_TIMEOUTS: Table = {
    ("timeouts", "total"): "total_s",
    ("timeouts", "perTry"): "per_try_s",
    ("timeouts", "connect"): "connect_s",
    ("timeouts", "idle"): "idle_s",
}
_RETRY: Table = {
    ("retry", "maxAttempts"): "max_attempts",
    ("retry", "backoff", "initial"): "initial_s",
    ("retry", "backoff", "multiplier"): "multiplier",
    ("retry", "backoff", "max"): "max_s",
    ("retry", "retryOn"): "retry_on",
    ("retry", "retryAfter", "max"): "retry_after_max_s",
    ("retry", "retryAfter", "honor"): "honor_retry_after",
}
_PLAIN: Table = {
    ("redact",): "redact",
    ("placement",): "placement",
    ("composite",): "composite",
    ("connectErrors",): "connect_errors",
}
_TEMPLATE: Table = {("http", "method"): "method", ("http", "path"): "path", ("http", "body"): "body"}
_BREAKER: Table = {
    ("breaker", "enabled"): "enabled",
    ("breaker", "window"): "window_s",
    ("breaker", "minCalls"): "min_calls",
    ("breaker", "failureRatio"): "failure_ratio",
    ("breaker", "consecutiveFailures"): "consecutive_failures",
    ("breaker", "openFor"): "open_for_s",
    ("breaker", "openForMax"): "open_for_max_s",
    ("breaker", "halfOpen", "maxProbes"): "max_probes",
    ("breaker", "halfOpen", "successThreshold"): "success_threshold",
    ("breaker", "halfOpen", "maxWait"): "half_open_max_wait_s",
}
_BULKHEAD: Table = {
    ("bulkhead", "maxConcurrent"): "max_concurrent",
    ("bulkhead", "maxQueue"): "max_queue",
    ("bulkhead", "maxWait"): "max_wait_s",
}
_BUDGET: Table = {
    ("retryBudget", "ratio"): "ratio",
    ("retryBudget", "window"): "window_s",
    ("retryBudget", "minRetries"): "min_retries",
}
_LIMITS: Table = {
    ("maxInflight",): "max_inflight",
    ("maxBody",): "max_body_bytes",
    ("maxDepth",): "max_depth",
    ("maxNodes",): "max_nodes",
    ("maxAgents",): "max_agents",
    ("maxRuns",): "max_runs",
    ("maxDomains",): "max_domains",
    ("maxChannels",): "max_channels",
    ("suspectFor",): "suspect_s",
    ("startBy",): "start_by_s",
}
_LEDGER: Table = {
    ("durability",): "durability",
    ("maxSize",): "max_bytes",
    ("whenFull",): "when_full",
    ("recordArgs",): "record_args",
    ("recordResults",): "record_results",
    ("redactKeys",): "redact_keys",
    ("unknownFor",): "unknown_ttl_s",
}
_RUNS: Table = {
    ("maxCalls",): "max_calls",
    ("maxRetries",): "max_retries",
    ("maxDuration",): "max_duration_s",
    ("runaway", "sameCall"): "same_call",
    ("runaway", "failures"): "failures",
    ("runaway", "exempt"): "exempt",
    ("runaway", "action"): "action",
    ("runaway", "refusals"): "refusals",
}
_KILLS: Table = {("abortTimeout",): "abort_timeout_s", ("file",): "file"}
_AGENTS: Table = {
    ("undeclared",): "undeclared",
    ("requireOwner",): "require_owner",
    ("drift",): "drift",
    ("pause", "maxWait"): "pause_max_wait_s",
    ("pause", "maxWaiting"): "pause_max_waiting",
}
_PROBE: Table = {
    ("period",): "period_s",
    ("timeout",): "timeout_s",
    ("failureThreshold",): "failure_threshold",
    ("successThreshold",): "success_threshold",
    ("initialDelay",): "initial_delay_s",
}


def _filled(kind: type[T], leaves: Leaves, table: Table, **more: Any) -> T:
    """One dataclass of ``plans`` from what the layers say; the rest keeps its default."""
    given = {field: _frozen(leaves[keys].value) for keys, field in table.items() if keys in leaves}
    return kind(**given, **more)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# ── upstreams ────────────────────────────────────────────────────────────────────────────────────────────────────


def domain_leaves(made: Draft, upstream: str) -> dict[Keys, Leaf]:
    """What ``domain`` and the upstream's own ``domain`` say together."""
    common, own = made.sections.get("domain"), made.upstreams.get(upstream)
    return merged(
        (leaves_of(common) if common else {}, leaves_of(own, under=("domain",)) if own else {}),
    )


def domain_settings(leaves: Leaves) -> plans.DomainSettings:
    """The settings of a fault domain from its merged leaves."""
    limits = leaves.get(("rateLimits",))
    return plans.DomainSettings(
        breaker=_filled(plans.Breaker, leaves, _BREAKER),
        bulkhead=_filled(plans.Bulkhead, leaves, _BULKHEAD),
        retry_budget=_filled(plans.RetryBudget, leaves, _BUDGET),
        rate_limits=tuple(_rate_limit(limit) for limit in limits.value) if limits else (),
    )


def _rate_limit(limit: RateLimit) -> plans.RateLimit:
    burst = limit.said().get("burst", max(1, math.ceil(limit.rate)))
    return plans.RateLimit(limit.rate, burst, limit.on_limit)


def upstreams(made: Draft, resolver: Resolver) -> dict[str, plans.Upstream]:
    """Every upstream, ``local`` included. Secrets are resolved; what is missing becomes a fault of the draft."""
    found = {LOCAL: plans.Upstream(LOCAL, domain=domain_settings(domain_leaves(made, LOCAL)))}
    for name, item in made.upstreams.items():
        health = item.model.health
        found[name] = plans.Upstream(
            name,
            http=resolver.http(item) if item.model.http is not None else None,
            mcp=resolver.mcp(item) if item.model.mcp is not None else None,
            domain=domain_settings(domain_leaves(made, name)),
            startup=_probe(health.startup) if health else None,
            readiness=_probe(health.readiness) if health else None,
        )
    return found


def _probe(probe: Probe | None) -> plans.Probe | None:
    if probe is None:
        return None
    said = probe.said()
    given = {field: said[keys[0]] for keys, field in _PROBE.items() if keys[0] in said}
    if "http" in said:
        return plans.Probe("http", http_path=probe.http, **given)
    return plans.Probe("tcp", tcp_address="" if probe.tcp == "url" else probe.tcp, **given)


# ── plans ────────────────────────────────────────────────────────────────────────────────────────────────────────


class PlanBook:
    """The plan of each tool, built when first asked for and kept."""

    def __init__(self, layers: Layers, known: Mapping[str, plans.Upstream]) -> None:
        self._layers = layers
        self._upstreams = known
        self.plan = lru_cache(maxsize=PLAN_CACHE)(self._build)

    def _build(self, tool: str, assumed: Effect | None = None) -> plans.Plan | None:
        """The plan of ``tool``; None where its upstream is unknown or it is no tool's name. ``assumed`` is its effect
        where no entry of ``tools`` says one."""
        group, _, operation = tool.partition(".")
        upstream = self._upstreams.get(group)
        if upstream is None or len(tool) > MAX_NAME or not is_operation(operation, upstream.kind):
            return None
        if upstream.mcp is not None and operation.startswith(MCP_METHOD):
            assumed = Effect.READ  # resources and prompts are looked at; what acts are tools
        layers = self._layers.of(tool)
        plan = plan_of(tool, upstream, merged(layer.leaves for layer in layers))
        said = any(("effect",) in layer.leaves for layer in layers if layer is not self._layers.defaults)
        return plan if assumed is None or said else replace(plan, effect=assumed)


def plan_of(tool: str, upstream: plans.Upstream, leaves: Leaves) -> plans.Plan:
    """The plan that the merged layers make."""
    effect = leaves.get(("effect",))
    send = leaves.get(("idempotency", "send"))
    fallback = leaves.get(("fallback",))
    return _filled(
        plans.Plan,
        leaves,
        _PLAIN,
        tool=tool,
        upstream=upstream,
        effect=Effect(effect.value) if effect else Effect.WRITE,
        timeouts=_filled(plans.Timeouts, leaves, _TIMEOUTS),
        retry=_filled(plans.Retry, leaves, _RETRY),
        fallback=tuple(_fallback(way) for way in fallback.value) if fallback else (),
        idempotency_header=(send.value.header if send else None) or "",
        idempotency_argument=(send.value.argument if send else None) or "",
        http=_filled(
            plans.HttpTemplate,
            leaves,
            _TEMPLATE,
            query=_map(leaves, ("http", "query")),
            headers=_map(leaves, ("http", "headers")),
        ),
        sources={".".join(keys): leaf.where for keys, leaf in leaves.items()},
    )


def _map(leaves: Leaves, under: Keys) -> dict[str, str]:
    return {keys[-1]: leaf.value for keys, leaf in leaves.items() if keys[:-1] == under}


def _fallback(way: schema.Fallback) -> plans.Fallback:
    said = way.said()
    only = "onlyIf" in said
    if "tool" in said:
        return plans.Fallback(tool=way.tool, only_not_executed=only)
    return plans.Fallback(static=way.static.value, is_static=True, only_not_executed=only)


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────


def limits(made: Draft) -> plans.Limits:
    return _filled(plans.Limits, _section(made, "limits"), _LIMITS)


def ledger(made: Draft) -> plans.LedgerSettings:
    return _filled(plans.LedgerSettings, _section(made, "ledger"), _LEDGER)


def kills(made: Draft) -> plans.KillSettings:
    return _filled(plans.KillSettings, _section(made, "kills"), _KILLS)


def runs(made: Draft) -> RunPolicy:
    item: Item[Runs] | None = made.sections.get("runs")
    if item is None:
        return RunPolicy()
    overrides = tuple(
        Override(pattern, _run_fields(leaves), item.at("overrides", index))
        for index, entry in enumerate(item.model.overrides)
        for leaves in (override_leaves(item, index),)
        for pattern in entry.agents
    )
    return RunPolicy(_run_fields(leaves_of(item)), overrides)


def override_leaves(item: Item[Runs], index: int) -> dict[Keys, Leaf]:
    """What one entry of ``runs.overrides`` sets, flat."""
    return model_leaves(item.model.overrides[index], item, ("overrides", index))


def _run_fields(leaves: Leaves) -> Said:
    return {field: _frozen(leaves[keys].value) for keys, field in _RUNS.items() if keys in leaves}


def agents(made: Draft) -> plans.AgentSettings:
    leaves = _section(made, "agents")
    expected = leaves.get(("expected",))
    return _filled(
        plans.AgentSettings,
        leaves,
        _AGENTS,
        expected=tuple(_expected(agent) for agent in expected.value) if expected else (),
    )


def _expected(agent: ExpectedAgent) -> plans.Expected:
    said = agent.said()
    return plans.Expected(agent.name, said.get("owner", ""), said.get("labels", {}))


def _section(made: Draft, name: str) -> Leaves:
    item: Item[Any] | None = made.sections.get(name)
    return leaves_of(item) if item else {}

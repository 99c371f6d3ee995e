"""What people are shown of a policy: everything that decides, nothing that is secret."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from outrider.policy.plans import HttpUpstream, McpUpstream, Probe, Upstream
from outrider.policy.rules import Rule

if TYPE_CHECKING:
    from outrider.policy.load import Policy


def summarise(policy: Policy) -> dict[str, Any]:
    """JSON. Headers are shown by name only: a value may hold a secret, resolved or written out."""
    return {
        "name": policy.name,
        "digest": policy.digest,
        "mode": policy.mode,
        "folder": str(policy.folder),
        "files": sorted(policy.texts),
        "upstreams": {name: _upstream(upstream) for name, upstream in policy.upstreams.items()},
        "tools": list(policy.patterns),
        "rules": [_rule(rule) for rule in policy.rules.rules],
        "limits": asdict(policy.limits),
        "ledger": {**asdict(policy.ledger), "redact_keys": list(policy.ledger.redact_keys)},
        "kills": asdict(policy.kills),
        "runs": policy.runs.as_dict(),
        "identity": _identity(policy),
        "agents": {**asdict(policy.agents), "expected": [asdict(agent) for agent in policy.agents.expected]},
        "warnings": [
            {"file": fault.file, "line": fault.line, "path": fault.path, "code": fault.code, "message": fault.message}
            for fault in policy.warnings
        ],
    }


def _identity(policy: Policy) -> dict[str, Any]:
    known = policy.identity
    return {"shared_token": known.shared_token, "jwt": [asdict(issuer) for issuer in known.jwt]}


def _upstream(upstream: Upstream) -> dict[str, Any]:
    domain = asdict(upstream.domain)
    domain["rate_limits"] = list(domain["rate_limits"])
    return {
        "kind": upstream.kind,
        "http": _http(upstream.http) if upstream.http is not None else None,
        "mcp": _mcp(upstream.mcp) if upstream.mcp is not None else None,
        "startup": _probe(upstream.startup),
        "readiness": _probe(upstream.readiness),
        "domain": domain,
    }


def _mcp(mcp: McpUpstream) -> dict[str, Any]:
    return {
        "http": _http(mcp.http) if mcp.http is not None else None,
        "command": list(mcp.command),
        "env": sorted(mcp.env),
        "cwd": mcp.cwd,
        "start": mcp.start,
        "protocol": mcp.protocol,
        "trust_annotations": mcp.trust_annotations,
        "drift": mcp.drift,
        "max_response_bytes": mcp.max_response_bytes,
    }


def _http(http: HttpUpstream) -> dict[str, Any]:
    return {
        "url": http.url,
        "headers": sorted(http.headers),
        "ca_file": http.ca_file,
        "cert_file": http.cert_file,
        "key_file": http.key_file,
        "use_env_proxy": http.use_env_proxy,
        "safe_statuses": list(http.safe_statuses),
        "max_response_bytes": http.max_response_bytes,
        "authorization": http.authorization,
    }


def _probe(probe: Probe | None) -> dict[str, Any] | None:
    return asdict(probe) if probe is not None else None


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "then": rule.then,
        "tools": list(rule.tools),
        "agents": list(rule.agents),
        "when": rule.condition.text if rule.condition is not None else None,
        "reason": rule.reason,
        "approvers": list(rule.approvers),
        "mode": "observe" if rule.shadow else "enforce",
        "source": rule.source,
    }

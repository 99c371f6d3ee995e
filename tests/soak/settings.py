"""What the soak's sidecar is told, and the names of the tools that its agents use."""

from __future__ import annotations

from typing import Any

SUSPECT_S = 3.0
"""How long a process that was killed stays suspect; the soak waits for longer before it judges."""

LOCAL = ("read_note", "flaky_read", "slow_read", "write_note", "failing_write")
REMOTE = ("read_price", "write_order")
"""``remote.NAME``: the sidecar sends these over HTTP; the function of that name in the agent never runs."""


def policy(remote_url: str, revision: int = 0) -> dict[str, Any]:
    """Short times, so that in minutes everything happens often. ``revision`` makes another policy of the same words."""
    return {
        "metadata": {"name": f"soak-{revision}"},
        "defaults": {
            "timeouts": {"total": "8s", "perTry": "1500ms", "connect": "500ms"},
            "retry": {"maxAttempts": 3, "backoff": {"initial": "20ms", "max": "200ms"}},
        },
        "limits": {"suspectFor": f"{SUSPECT_S:g}s"},
        "domain": {
            "breaker": {"window": "5s", "minCalls": 8, "failureRatio": 0.5, "openFor": "500ms", "openForMax": "2s"},
            "bulkhead": {"maxConcurrent": 8, "maxQueue": 32, "maxWait": "1s"},
        },
        "upstreams": {"remote": {"http": {"url": remote_url}}},
        "tools": [
            {"match": "local.read_*", "effect": "read"},
            {"match": "local.flaky_read", "effect": "read"},
            {"match": "local.slow_read", "effect": "read", "timeouts": {"perTry": "150ms"}},
            {"match": "remote.read_*", "effect": "read", "fallback": [{"static": {"value": "an older price"}}]},
            {"match": "remote.write_*", "effect": "write"},
        ],
        "rules": [{"name": "everything", "tools": ["*"], "then": "allow"}],
    }

"""The policy that the suite's sidecar has. What a tool of the suite is allowed and promised is told by its prefix."""

from __future__ import annotations

from typing import Any

PER_TRY_S = 0.5
"""The per-try timeout of ``slow_`` and ``caller_`` tools."""
PLACES = 4
"""How many attempts of one in-process tool may run at once. Parents must not count, or ten of them starve."""
SUSPECT_S = 6.0
"""How long a process may stay away before its attempts count as unknown."""
DENIED = "this team sends no mail"
CACHED = "an older answer"
ATTEMPTS = 3

_SHORT = {"total": "30s", "perTry": f"{PER_TRY_S * 1000:.0f}ms"}


def policy(remote_url: str) -> dict[str, Any]:
    """With ``remote`` as an HTTP upstream."""
    return {
        "defaults": {
            "timeouts": {"total": "40s", "perTry": "30s"},
            "retry": {"maxAttempts": ATTEMPTS, "backoff": {"initial": "10ms", "max": "50ms"}},
        },
        "limits": {"suspectFor": f"{SUSPECT_S:.0f}s"},
        "upstreams": {
            "local": {"domain": {"bulkhead": {"maxConcurrent": PLACES, "maxQueue": 50, "maxWait": "20s"}}},
            "remote": {"http": {"url": remote_url}},
        },
        "tools": [
            {"match": "local.read_*", "effect": "read"},
            {"match": "local.write_*", "effect": "write"},
            {"match": "local.cached_*", "effect": "read", "fallback": [{"static": {"value": CACHED}}]},
            {"match": "local.slow_*", "timeouts": _SHORT},
            {"match": "local.slow_read_*", "effect": "read"},
            {"match": "local.caller_*", "placement": "caller", "timeouts": _SHORT},
            {"match": "local.parent_*", "composite": True},
            {"match": "remote.*", "effect": "read"},
        ],
        "rules": [
            {"name": "no mail", "tools": ["local.denied_*"], "then": "deny", "reason": DENIED},
            {"name": "everything else", "tools": ["*"], "then": "allow"},
        ],
    }

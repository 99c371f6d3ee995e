"""ContextForge (``mcp-contextforge-gateway``) for ``tests.bench.peers``: a process of an environment of its own, with
one server registered."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

from tests.bench.processes import Child, Household, await_port, free_port
from tests.conformance.mcp.environments import python

PACKAGE = "mcp-contextforge-gateway==1.0.7.post20260921"
PEOPLE = "admin@example.com"
KEY = "a key of this bench, which guards nothing at all"
TOOL = "bench-read"
READY_S = 120.0


def start_contextforge(household: Household, upstream: str) -> tuple[Child, str, str]:
    """The process, its MCP address, and a token. Its own limits are off: they are not what is measured. Raises Broken,
    Unavailable, OSError."""
    interpreter = python("peer-contextforge", PACKAGE)
    port = free_port()
    env = {
        "AUTH_REQUIRED": "true",
        "PLATFORM_ADMIN_EMAIL": PEOPLE,
        "PLATFORM_ADMIN_PASSWORD": "Of-this-bench-1",
        "PASSWORD_CHANGE_ENFORCEMENT_ENABLED": "false",
        "JWT_SECRET_KEY": KEY,
        "AUTH_ENCRYPTION_SECRET": KEY,
        "DATABASE_URL": f"sqlite:///{household.folder / 'contextforge.db'}",
        "CACHE_TYPE": "memory",
        "MCPGATEWAY_UI_ENABLED": "false",
        "RATE_LIMITING_ENABLED": "false",
        "TOOL_RATE_LIMIT": "1000000",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
        "LOG_LEVEL": "ERROR",
    }
    program = str(interpreter.parent / "mcpgateway")
    child = household.start("contextforge", [program, "mcpgateway.main:app", "--port", str(port)], env)
    await_port(child, port, READY_S)
    token = _token(interpreter)
    body = {"name": "bench", "url": upstream, "transport": "STREAMABLEHTTP"}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/gateways", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=READY_S):
        return child, f"http://127.0.0.1:{port}/mcp/", token


def _token(interpreter: Path) -> str:
    words = ["--username", PEOPLE, "--admin", "--exp", "600", "--secret", KEY]
    command = [str(interpreter), "-m", "mcpgateway.utils.create_jwt_token", *words]
    env = {"JWT_SECRET_KEY": KEY, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=READY_S, check=True)
    return done.stdout.strip().splitlines()[-1]

"""The published SDKs on both sides of the sidecar, each in an environment of its own: Python 2.x, which speaks both
eras, and TypeScript 1.x. Python 1.x, which the frameworks use, is in this one: ``tests/process/test_mcp_real.py``."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ManagedProcess
from tests.conformance.mcp.environments import Unavailable, node_env, npm, python

PEERS = Path(__file__).parent / "mcp" / "peers"
PYTHON, TYPESCRIPT = "mcp==2.3.0", "@modelcontextprotocol/sdk@1.32.2"
MODERN, LEGACY = "2026-07-28", "2025-11-25"
TOOLS = ["add", "count", "fail", "greet"]
WAIT_S = 60


@dataclass
class Programs:
    interpreter: Path
    scripts: Path  # beside the node_modules that they import
    node: dict[str, str]

    def python(self, name: str, *words: str) -> tuple[list[str], dict[str, str]]:
        return [str(self.interpreter), str(PEERS / name), *words], {}

    def typescript(self, name: str, *words: str) -> tuple[list[str], dict[str, str]]:
        return ["node", str(self.scripts / name), *words], self.node


@pytest.fixture(scope="module")
def programs() -> Programs:
    try:
        interpreter, scripts, node = python("peer-python", PYTHON), npm("peer-typescript", TYPESCRIPT), node_env()
    except Unavailable as why:
        pytest.skip(f"the peers cannot be had: {why}")
    for script in PEERS.glob("*.mjs"):
        shutil.copy(script, scripts)
    return Programs(interpreter, scripts, node)


@pytest.fixture(scope="module")
def sidecar(programs: Programs) -> Iterator[GatewayProcess]:
    """Before a server of each SDK."""
    ports = {"python": _free_port(), "typescript": _free_port()}
    servers = [
        _started(programs.python("python_server.py", str(ports["python"])), ports["python"]),
        _started(programs.typescript("server.mjs", str(ports["typescript"])), ports["typescript"]),
    ]
    policy = {
        "upstreams": {name: {"mcp": {"url": f"http://127.0.0.1:{port}/mcp"}} for name, port in ports.items()},
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }
    try:
        with GatewayProcess(policy) as gateway:
            yield gateway
    finally:
        for server in servers:
            server.kill9()


def _started(program: tuple[list[str], dict[str, str]], port: int) -> ManagedProcess:
    command, env = program
    process = ManagedProcess(command, "", env=env or None)
    process._begin()
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise AssertionError(process.log)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


CLIENTS = {"python, modern": MODERN, "python, handshake": LEGACY, "typescript": LEGACY}
MODES = {"python, modern": "auto", "python, handshake": "legacy", "typescript": "-"}


def told(programs: Programs, client: str, *words: str) -> dict[str, Any]:
    """What a client's process printed."""
    kind, script = (
        (programs.typescript, "client.mjs") if client == "typescript" else (programs.python, "python_client.py")
    )
    command, env = kind(script, *words[:2], MODES[client], *words[2:])
    done = subprocess.run(command, env=env or None, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("server", ["python", "typescript"])
@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_uses_every_server(sidecar: GatewayProcess, programs: Programs, client: str, server: str) -> None:
    """Lists, calls, structured results, errors of tools, progress; and a server's question in the middle of a call
    where the client's version has such."""
    found = told(programs, client, f"{sidecar.url}/mcp/{server}", sidecar.agent_token)
    assert found["version"] == CLIENTS[client]
    assert found["tools"] == TOOLS and found["added"] == {"result": 3}
    assert found["failed"][0] is True and found["failed"][1]
    assert found["counted"] == "counted" and found["progress"] == [1, 2, 3]
    assert found["greeted"] == ("hello Ada" if CLIENTS[client] == LEGACY else None)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_uses_all_servers_at_one_address(sidecar: GatewayProcess, programs: Programs, client: str) -> None:
    """The same at ``/mcp``, where a tool has its server's name before its own."""
    found = told(programs, client, f"{sidecar.url}/mcp", sidecar.agent_token, "typescript__")
    assert found["tools"] == sorted(f"{server}__{tool}" for server in ("python", "typescript") for tool in TOOLS)
    assert found["added"] == {"result": 3} and found["failed"][0] is True and found["progress"] == [1, 2, 3]

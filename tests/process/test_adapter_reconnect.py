"""An agent's process that a real sidecar cannot take now is taken as soon as it can be, and waits out no long pause."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(120)
SOON_S = 10.0
"""A third of the pause that follows a refusal for good."""
REFUSED_FOR_S = 3.0
"""Long enough that a process which took the refusal for good would be in its long pause."""
POLICY: dict[str, Any] = {
    "limits": {"maxChannels": 1},
    "tools": [{"match": "local.*", "effect": "read"}],
    "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
}
PROGRAM = """
    import sys
    from outrider_adapters.governed import governed

    @governed
    def ping():
        return "pong"

    def said():
        try:
            return ping()
        except Exception as refused:
            return "refused: " + str(refused).replace(chr(10), " ")

    for _ in sys.stdin:
        print(said(), flush=True)
"""


class Agent:
    """A process that makes one call for each line it is sent."""

    def __init__(self, gateway: GatewayProcess, name: str, wait_s: str) -> None:
        env = {**os.environ, **gateway.env, "OUTRIDER_AGENT": name, "OUTRIDER_CONNECT_WAIT": wait_s}
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def call(self) -> str:
        self.begin()
        return self.said()

    def leave(self) -> None:
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0


def connected(gateway: GatewayProcess) -> set[str]:
    _, body = gateway.control("GET", "/v1/agents")
    return {agent["name"] for agent in body["agents"] if agent["state"] == "connected"}


def test_a_full_sidecar_takes_the_next_process_as_soon_as_one_leaves() -> None:
    """Both a call that waits and a process that waits for nothing just now."""
    with GatewayProcess(POLICY) as gateway:
        first, idle = Agent(gateway, "first", "20"), Agent(gateway, "idle", "0")
        assert first.call() == "pong"
        assert "No more than 1 processes" in idle.call()
        time.sleep(REFUSED_FOR_S)
        first.leave()
        assert eventually(lambda: connected(gateway) == {"idle"}, SOON_S)
        assert idle.call() == "pong"
        waiting = Agent(gateway, "waiting", "20")
        waiting.begin()
        idle.leave()
        assert waiting.said() == "pong"
        waiting.leave()


def test_a_sidecar_that_was_shut_down_in_an_orderly_way_is_found_again() -> None:
    """It told its agents that it drains; that is no refusal for good."""
    with GatewayProcess(POLICY) as gateway:
        agent = Agent(gateway, "agent", "0")
        assert agent.call() == "pong"
        assert gateway.terminate() == 0
        assert agent.call().startswith("refused: ")
        gateway.start()
        assert eventually(lambda: connected(gateway) == {"agent"}, SOON_S)
        assert agent.call() == "pong"
        agent.leave()

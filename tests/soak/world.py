"""Everything that runs in a soak, each a real process: a sidecar, a bad tool server, agents of every framework."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ManagedProcess
from tests.soak.settings import policy

DRIVERS = {
    "plain": ("tests.conformance.drivers.plain", "PlainDriver"),
    "langgraph": ("tests.conformance.drivers.langgraph", "LangGraphDriver"),
    "crewai": ("tests.conformance.drivers.crewai", "CrewAIDriver"),
    "autogen": ("tests.conformance.drivers.autogen", "AutoGenDriver"),
}
START_S = 120.0
"""How long a framework may take to be imported on a busy machine."""
END_S = 60.0
CONNECT_WAIT_S = 15
"""How long an agent's call waits for a sidecar that is away: longer than a restart takes."""


class Stuck(Exception):
    """Something did not happen in a time that is far too long."""


@dataclass(slots=True)
class Agents:
    """The process of one framework's agents."""

    framework: str
    folder: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def said_ready(self) -> bool:
        return b"agents ready" in (self.folder / "log").read_bytes()


class World:
    """Use it with ``with``: nothing is left behind."""

    def __init__(self, frameworks: list[str], seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="outrider-soak-"))
        self.dice = random.Random(seed)
        self.frameworks = frameworks
        self.agents: dict[str, Agents] = {}
        self._starts = 0
        self._revision = 0
        shop = [sys.executable, "-m", "tests.soak.upstream", str(self.folder)]
        self.shop = ManagedProcess(shop, "shop ready ")
        self.shop_url = "http://" + self.shop.start().partition("listen=")[2].strip()
        self.sidecar = GatewayProcess(policy(self.shop_url), self.folder / "data")

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.agents.values():
            if one.running:
                one.process.kill()
            one.process.wait()
            one.log.close()
        self.sidecar.close()
        self.shop.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────

    def start_agents(self, framework: str) -> None:
        """A new process; one that runs is not there, or was killed."""
        self._starts += 1
        folder = self.folder / framework
        folder.mkdir(exist_ok=True)
        module, name = DRIVERS[framework]
        words = [sys.executable, "-m", "tests.soak.agent", module, name, str(folder), str(self._starts)]
        env = {
            **os.environ,
            **self.sidecar.env,
            "OUTRIDER_AGENT": framework,
            "OUTRIDER_CONNECT_WAIT": str(CONNECT_WAIT_S),
        }
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        log = (folder / "log").open("wb")
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env)
        self.agents[framework] = Agents(framework, folder, process, log)

    def await_agents(self) -> None:
        for one in self.agents.values():
            until(lambda one=one: one.said_ready or not one.running, START_S, f"the agents of {one.framework}")
            if not one.running:
                raise Stuck(f"the agents of {one.framework} ended: {(one.folder / 'log').read_text()[-2000:]}")

    def end_agents(self) -> list[dict[str, Any]]:
        """Every agent ends its run; what those that were not killed saw."""
        for one in self.agents.values():
            (one.folder / "stop").touch()
        for one in self.agents.values():
            until(lambda one=one: not one.running, END_S, f"the end of the agents of {one.framework}")
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("*/report-*.json"))]

    def effects(self) -> list[str]:
        """Everything that took effect, in an agent's process or at the shop."""
        files = [*self.folder.glob("*/effects"), self.folder / "orders"]
        return [line for file in files if file.exists() for line in file.read_text().split()]

    # ── the sidecar ──────────────────────────────────────────────────────────────────────────────────────────────

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """Raises Stuck where the sidecar refuses what it should do."""
        status, answer = self.sidecar.control(method, path, body)
        if status >= 400:
            raise Stuck(f"{method} {path} answered {status}: {answer}")
        return answer

    def change_policy(self) -> None:
        self._revision += 1
        self.sidecar.write_policy(policy(self.shop_url, self._revision))

    @contextlib.contextmanager
    def shop_dead(self) -> Any:
        dead = self.folder / "dead"
        dead.touch()
        try:
            yield
        finally:
            dead.unlink()


def until(holds: Callable[[], object], within_s: float, what: str) -> None:
    """Raises Stuck."""
    end = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end:
            raise Stuck(f"within {within_s:g} s {what} did not come")
        time.sleep(0.05)

"""What is run of the official suite, and where: the three gates.

A: the sidecar as a server, ``/mcp/fixture``: whatever the suite requires of a server of each version. B: the endpoint
of all servers, ``/mcp``: what holds for an endpoint that offers tools only. C: the sidecar as a client of the servers
that the suite brings.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ManagedProcess
from tests.conformance.mcp.bearer import Bearer
from tests.conformance.mcp.suite import Result, Suite

ROOT = Path(__file__).parents[3]
MODERN, LEGACY = "2026-07-28", "2025-11-25"
ALL_REQUIRED = "all that is required"
REQUIRED = {MODERN: 37, LEGACY: 30}
"""Scenarios that a server of this version must pass, by the suite's own list."""
BASELINE = {
    "tasks-": "an extension that is not offered; the suite does not score it",
    "auth/": "a sidecar opens no browser; servers are shown the headers that the policy sets",
}
"""What may fail, or is not run, by how its name begins, and why."""


@dataclass(frozen=True, slots=True)
class Run:
    gate: str
    version: str
    scenario: str = ALL_REQUIRED

    def __str__(self) -> str:
        return f"{self.gate} {self.version} {self.scenario}"


def _runs(gate: str, version: str, scenarios: str) -> tuple[Run, ...]:
    return tuple(Run(gate, version, scenario) for scenario in scenarios.split())


TOOLS = "tools-list tools-call-simple-text tools-call-image tools-call-audio tools-call-embedded-resource " \
    "tools-call-mixed-content tools-call-error tools-call-with-progress"  # fmt: skip
RUNS: tuple[Run, ...] = (
    Run("A", MODERN),
    Run("A", LEGACY),
    *_runs("A", MODERN, "http-header-validation http-custom-header-server-validation json-schema-2020-12"),
    *_runs("A", LEGACY, "server-session-lifecycle json-schema-2020-12"),
    *_runs("B", MODERN, f"server-stateless {TOOLS} server-sse-multiple-streams dns-rebinding-protection"),
    *_runs("B", MODERN, "http-header-validation http-custom-header-server-validation"),
    *_runs("B", LEGACY, f"server-initialize ping server-session-lifecycle {TOOLS} dns-rebinding-protection"),
    *_runs("C", MODERN, "tools_call request-metadata sep-2322-client-request-state http-standard-headers"),
    *_runs("C", MODERN, "http-custom-headers http-invalid-tool-headers json-schema-ref-no-deref"),
    *_runs("C", MODERN, "json-schema-2020-12-preservation"),
    *_runs("C", LEGACY, "initialize tools_call sse-retry"),
    *_runs("C", LEGACY, "json-schema-2020-12-preservation"),
)


def failed(run: Run, result: Result) -> list[str]:
    """What went wrong, for people; empty where the run is as it should be."""
    names = [name for name in result.scenarios if not any(name.startswith(known) for known in BASELINE)]
    wrong = [name for name in names if result.scenarios[name][1]]
    if not any(sum(result.scenarios[name]) for name in names):
        wrong.append("nothing was checked")
    if run.scenario == ALL_REQUIRED and len(names) < REQUIRED[run.version]:
        wrong.append(f"{len(names)} scenarios of {REQUIRED[run.version]} were run")
    return wrong if wrong or result.ok else ["the suite says that it failed"]


class Gates:
    """Runs them one by one. Make it with ``gates``."""

    def __init__(self, suite: Suite, server: str, aggregate: str) -> None:
        self._suite = suite
        self._at = {"A": f"{server}/mcp/fixture", "B": f"{aggregate}/mcp"}

    async def run(self, run: Run) -> Result:
        return await asyncio.to_thread(self._suite.run, *self._words(run), env={"PYTHONPATH": str(ROOT)})

    def _words(self, run: Run) -> tuple[str, ...]:
        if run.gate == "C":
            driver = f"{sys.executable} -m tests.conformance.mcp.driver"
            return ("client", "--command", driver, "--scenario", run.scenario, "--spec-version", run.version)
        where = ("server", "--url", self._at[run.gate])
        if run.scenario == ALL_REQUIRED:
            return (*where, "--requirements", run.version)
        return (*where, "--scenario", run.scenario, "--spec-version", run.version)


@asynccontextmanager
async def gates(suite: Suite, sidecar: GatewayProcess) -> AsyncIterator[Gates]:
    """The suite's client has no credential to send, and knows of no upstream's name before a tool's."""
    host, _, port = sidecar.listen.rpartition(":")
    async with (
        Bearer(host, int(port), sidecar.agent_token) as one,
        Bearer(host, int(port), sidecar.agent_token, prefix="fixture__") as every,
    ):
        yield Gates(suite, f"http://127.0.0.1:{one.port}", f"http://127.0.0.1:{every.port}")


@contextmanager
def sidecar_before_fixture() -> Iterator[GatewayProcess]:
    """Both are processes of their own."""
    fixture = ManagedProcess([sys.executable, "-m", "tests.conformance.mcp.fixture"], "fixture ready ")
    fixture.env["PYTHONPATH"] = os.pathsep.join([str(ROOT), fixture.env.get("PYTHONPATH", "")])
    url = f"http://{fixture.start().partition('listen=')[2].strip()}/mcp"
    policy = {
        "upstreams": {"fixture": {"mcp": {"url": url}}},
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }
    try:
        with GatewayProcess(policy) as gateway:
            yield gateway
    finally:
        fixture.terminate()

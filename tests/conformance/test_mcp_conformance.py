"""Gate A: the official MCP conformance suite, through the sidecar at ``/mcp/fixture``, with an empty baseline."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ManagedProcess
from tests.conformance.mcp.bearer import Bearer
from tests.conformance.mcp.suite import Suite, Unavailable

REQUIRED = {"2026-07-28": 37, "2025-11-25": 30}
"""Scenarios that a server of this version must pass, by the suite's own list."""
NOT_OURS = "tasks-"
"""An extension that the gateway does not offer; the suite does not score it."""


@pytest.fixture(scope="module")
def suite() -> Suite:
    try:
        return Suite.get()
    except Unavailable as why:
        pytest.skip(f"the official suite cannot be had: {why}")


@pytest.fixture(scope="module")
def sidecar() -> Iterator[GatewayProcess]:
    fixture = ManagedProcess([sys.executable, "-m", "tests.conformance.mcp.fixture"], "fixture ready ")
    fixture.env["PYTHONPATH"] = str(Path(__file__).parents[2])
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


@pytest.fixture
async def address(sidecar: GatewayProcess) -> AsyncIterator[str]:
    """Where the suite asks: its client has no credential to send."""
    host, _, port = sidecar.listen.rpartition(":")
    async with Bearer(host, int(port), sidecar.agent_token) as bearer:
        yield f"http://127.0.0.1:{bearer.port}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", REQUIRED)
async def test_the_required_scenarios_pass_through_the_sidecar(suite: Suite, address: str, version: str) -> None:
    """All of them, and those that are not scored yet beside them."""
    found = await asyncio.to_thread(suite.run, "server", "--url", f"{address}/mcp/fixture", "--requirements", version)
    assert found.ok, found.output[-6000:]
    assert [name for name in found.failed() if not name.startswith(NOT_OURS)] == []
    assert len([name for name in found.scenarios if not name.startswith(NOT_OURS)]) >= REQUIRED[version]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "scenario", ["http-header-validation", "http-custom-header-server-validation", "json-schema-2020-12"]
)
async def test_headers_and_schemas_survive_the_way(suite: Suite, address: str, scenario: str) -> None:
    """What is not scored for the version, and what a gateway breaks first."""
    words = ("--scenario", scenario, "--spec-version", "2026-07-28")
    found = await asyncio.to_thread(suite.run, "server", "--url", f"{address}/mcp/fixture", *words)
    assert found.ok and found.failed() == [] and found.scenarios, found.output[-4000:]

"""The official MCP conformance suite, through a real sidecar: see ``tests/conformance/mcp/gates.py`` for what is run.
Only what stands there with a reason may fail, and of that nothing that the suite scores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from outrider.testing.gateway import GatewayProcess
from tests.conformance.mcp.environments import Unavailable
from tests.conformance.mcp.gates import MODERN, RUNS, Gates, Run, failed, gates, sidecar_before_fixture
from tests.conformance.mcp.suite import Suite


@pytest.fixture(scope="module")
def suite() -> Suite:
    try:
        return Suite.get()
    except Unavailable as why:
        pytest.skip(f"the official suite cannot be had: {why}")


@pytest.fixture(scope="module")
def sidecar(suite: Suite) -> Iterator[GatewayProcess]:
    with sidecar_before_fixture() as gateway:
        yield gateway


@pytest.fixture
async def ready(suite: Suite, sidecar: GatewayProcess) -> AsyncIterator[Gates]:
    async with gates(suite, sidecar) as found:
        yield found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", RUNS, ids=str)
async def test_the_suite_passes(ready: Gates, run: Run) -> None:
    """One scenario, or all that are required of a server."""
    result = await ready.run(run)
    assert failed(run, result) == [], result.output[-6000:]


@pytest.mark.timeout(120)
async def test_changes_of_lists_reach_clients(ready: Gates) -> None:
    """Of all checks of a stateless server none fails, and none only warns: those are the changed lists."""
    result = await ready.run(Run("A", MODERN, "server-stateless"))
    assert "0 failed, 0 warnings" in result.output, result.output[-4000:]

"""Fixtures for users' own tests. Opt in, in the topmost ``conftest.py``:

    pytest_plugins = ["outrider.testing.pytest_plugin"]

    def test_a_payment_survives_a_reset(outrider_gateway, scripted_upstream):
        scripted_upstream.script("/create_payment", reset(), respond(json={"paid": True}))
        gateway = outrider_gateway({"upstreams": {"bank": {"http": {"url": scripted_upstream.url}}}, ...})
        status, answer = gateway.call("bank.create_payment", {"amount": 5})

The log of a gateway is shown with the test that failed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from outrider.testing.gateway import GatewayProcess, Policy
from outrider.testing.upstream_process import UpstreamProcess


class StartGateway(Protocol):
    """Starts a gateway; the options are those of ``GatewayProcess``."""

    def __call__(self, policy: Policy, **options: Any) -> GatewayProcess: ...


@pytest.fixture
def outrider_gateway() -> Iterator[StartGateway]:
    """A function that starts gateways, each on ports of its own; they end with the test."""
    started: list[GatewayProcess] = []

    def start(policy: Policy, **options: Any) -> GatewayProcess:
        gateway = GatewayProcess(policy, **options)
        started.append(gateway)
        return gateway.start()

    try:
        yield start
    finally:
        for gateway in started:
            sys.stderr.write(f"--- log of the gateway at {gateway.url}\n{gateway.log}\n")
            gateway.close()


@pytest.fixture
def scripted_upstream() -> Iterator[UpstreamProcess]:
    """A scripted HTTP server, a process of its own; what it is not scripted for it echoes."""
    with UpstreamProcess() as upstream:
        yield upstream

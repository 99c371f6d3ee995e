"""A Chromium for the tests of the page; none on this machine: they are skipped, and say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import hold, respond, unavailable
from outrider.testing.upstream_process import UpstreamProcess
from tests.browser.kit import Visit, chromium, launch, visiting


@pytest.fixture(scope="module")  # Playwright keeps a loop running in this thread: it is over before other tests begin
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine: the page is not looked at")
    with sync_playwright() as playwright:
        found = launch(playwright, path)
        yield found
        found.close()


@pytest.fixture(scope="session")
def upstream() -> Iterator[UpstreamProcess]:
    script: dict[str, Any] = {
        "/good": [respond(json={"done": True})],
        "/flaky": [unavailable(), respond(json={"done": True})],
        "/bad": [respond(500, json={"no": True})],
        "/held": [hold(json={"done": True})],
    }
    with UpstreamProcess(script) as process:
        yield process


@pytest.fixture(scope="session")
def running(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    policy = {
        "metadata": {"name": "looked-at"},
        "upstreams": {"work": {"http": {"url": upstream.url}, "domain": {"breaker": {"enabled": False}}}},
        "tools": [
            {"match": "work.*", "effect": "read", "retry": {"maxAttempts": 2, "backoff": {"initial": "10ms"}}},
            {"match": "work.held", "effect": "write", "timeouts": {"perTry": "60s", "total": "90s"}},
        ],
        "rules": [{"name": "all", "tools": ["work.*"], "then": "allow"}],
    }
    with GatewayProcess(policy, tmp_path_factory.mktemp("browser") / "data") as gateway:
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> Iterator[GatewayProcess]:
    """The one sidecar of these tests, with no kill of the test before."""
    yield running
    for kill in running.control("GET", "/v1/kills")[1]["kills"]:
        running.control("DELETE", f"/v1/kills/{kill['id']}", {"reason": "the test is over"})


@pytest.fixture
def visit(browser: Browser, gateway: GatewayProcess) -> Iterator[Visit]:
    """A page that nobody is signed in at yet. Whatever a page must not do fails the test."""
    with visiting(browser, gateway) as one:
        yield one.open()
        assert one.untolerated() == []

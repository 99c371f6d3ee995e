"""What the adapters' tests share: a scripted gateway that this process's channel talks to, and patience."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from outrider_adapters import process
from tests.support.gateway_server import TOKEN, GatewayServer

PATIENCE_S = 10.0


def eventually(what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait for another thread's or process's doing; fails when it does not come."""
    until = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.005)


@contextlib.contextmanager
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    """A scripted gateway; OUTRIDER_URL and OUTRIDER_TOKEN name it; the channel is closed behind the test."""
    with GatewayServer() as server:
        monkeypatch.setenv("OUTRIDER_URL", server.url)
        monkeypatch.setenv("OUTRIDER_TOKEN", TOKEN)
        monkeypatch.delenv("OUTRIDER_AGENT", raising=False)
        monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "2")
        try:
            yield server
        finally:
            process.close(1.0)

"""The agents' listener, where no call comes about."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestServer

from outrider import data_plane
from outrider.data_plane import DataPlane, data_app
from outrider.identity import Authenticator
from outrider.policy.identity import IdentitySettings
from outrider.policy.plans import Limits

TOKEN = "a" * 16


async def no_channel(*_: Any) -> Any:
    raise AssertionError("nobody asks for it")


async def test_a_body_that_does_not_arrive_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that trickles holds a connection for a while, and is then told."""
    monkeypatch.setattr(data_plane, "BODY_S", 0.1)
    policies = SimpleNamespace(current=SimpleNamespace(limits=Limits()))
    plane = DataPlane(
        cast(Any, None),
        cast(Any, policies),
        Authenticator(TOKEN, cast(Any, SimpleNamespace(epochs=None)), IdentitySettings()),
        no_channel,
        lambda: None,
        cast(Any, None),
    )
    async with TestServer(data_app(plane)) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        head = f"POST /v1/call HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 50\r\n\r\n{{"
        writer.write(head.encode())
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
        writer.close()
    assert b" 400 " in answer and b"did not arrive" in answer

"""When an AutoGen token is cancelled: whoever has no result is freed, and whoever has one gets it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import pytest
from autogen_core import CancellationToken
from autogen_core.tools import BaseStreamTool, FunctionTool, TextResultContent, ToolResult, ToolSchema, Workbench
from pydantic import BaseModel

from outrider_adapters import autogen
from tests.support.adapters import served
from tests.support.gateway_server import GatewayServer, ServedCall

PATIENCE_S = 20.0


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        autogen.install(agent="researcher")
        try:
            yield server
        finally:
            autogen.uninstall()


class Holding:
    """A gateway that has heard of an attempt's end and takes its time to answer."""

    def __init__(self) -> None:
        self.heard = threading.Event()
        self.answer = threading.Event()

    async def __call__(self, call: ServedCall) -> None:
        await call.execute()
        self.heard.set()
        while not self.answer.is_set() and not call.cancelled.is_set():
            await asyncio.sleep(0.005)
        if not call.cancelled.is_set():
            call.close()


class Nothing(BaseModel):
    pass


class Item(BaseModel):
    n: int


class Total(BaseModel):
    of: int


class Count(BaseStreamTool[Nothing, Item, Total]):
    """Two items and a result, without looking at its token."""

    def __init__(self) -> None:
        super().__init__(Nothing, Total, "count", "Counts.")

    async def run(self, args: Nothing, cancellation_token: CancellationToken) -> Total:
        return Total(of=2)

    async def run_stream(
        self, args: Nothing, cancellation_token: CancellationToken
    ) -> AsyncGenerator[Item | Total, None]:
        yield Item(n=1)
        yield Item(n=2)
        yield Total(of=2)


class Shelf(Workbench):
    """A workbench of a program's own; ``is_error`` is what it answers."""

    component_config_schema = BaseModel
    component_provider_override = "tests.CancelledShelf"

    def __init__(self, is_error: bool = False) -> None:
        self.is_error = is_error

    async def list_tools(self) -> list[ToolSchema]:
        return [ToolSchema(name="fetch", description="Fetches.")]

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        return ToolResult(name=name, result=[TextResultContent(content="fetched")], is_error=self.is_error)

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def reset(self) -> None:
        return None

    async def save_state(self) -> Mapping[str, Any]:
        return {}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        return None


def _sync() -> int:
    return 7


async def _async() -> int:
    return 7


def _fails() -> int:
    raise LookupError("no")


async def _collect(token: CancellationToken) -> list[Any]:
    return [item async for item in Count().run_json_stream({}, token)]


def _call(kind: str, token: CancellationToken) -> Any:
    function = {"sync": _sync, "async": _async, "fails": _fails}.get(kind)
    if function is not None:
        return FunctionTool(function, "Does it.", name=kind).run_json({}, token)
    if kind == "stream":
        return _collect(token)
    return Shelf(is_error=kind == "workbench's error").call_tool("fetch", {}, token)


@pytest.mark.parametrize("kind", ["sync", "async", "stream", "workbench"])
async def test_a_result_that_is_there_is_handed_out_although_the_token_is_cancelled(
    gateway: GatewayServer, kind: str
) -> None:
    """The tool has run, and AutoGen alone would give its result: a token cancels what is under way."""
    gateway.script = holding = Holding()
    token = CancellationToken()
    calling = asyncio.ensure_future(_call(kind, token))
    assert await asyncio.to_thread(holding.heard.wait, PATIENCE_S)
    token.cancel()
    await asyncio.sleep(0.05)  # time for a cancellation to arrive, if there is one
    holding.answer.set()
    value = await asyncio.wait_for(calling, PATIENCE_S)
    if kind == "stream":
        assert value == [Item(n=1), Item(n=2), Total(of=2)]
    elif kind == "workbench":
        assert value.to_text() == "fetched" and not value.is_error
    else:
        assert value == 7


@pytest.mark.parametrize("kind", ["fails", "workbench's error"])
async def test_a_caller_whose_attempt_failed_is_freed_before_the_next(gateway: GatewayServer, kind: str) -> None:
    """There is no result; the gateway may take its time for another attempt, and the caller has left."""
    gateway.script = holding = Holding()
    token = CancellationToken()
    calling = asyncio.ensure_future(_call(kind, token))
    assert await asyncio.to_thread(holding.heard.wait, PATIENCE_S)
    token.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(calling, PATIENCE_S)
    assert not holding.answer.is_set()

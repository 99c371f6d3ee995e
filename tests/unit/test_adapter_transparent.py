"""OUTRIDER_TRANSPARENT: a function's own failure reaches the framework as it was told, and nothing else does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from langchain_core.tools import ToolException, tool

from outrider.errors import Code, Failed, Misconfigured, Refused
from outrider_adapters import environment, langgraph
from outrider_adapters.governed import governed
from tests.support.adapters import served
from tests.support.gateway_server import GatewayServer, ServedCall, refusing, retrying, with_timeout


class Mine(Exception):
    """An exception that the program of a user catches by its type."""


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    monkeypatch.setenv("OUTRIDER_TRANSPARENT", "1")
    with served(monkeypatch) as server:
        yield server


@pytest.fixture
def _installed(gateway: GatewayServer) -> Iterator[None]:
    langgraph.install(agent="tester")
    yield
    langgraph.uninstall()


@tool
def fails(text: str) -> str:
    """Raises."""
    raise Mine(text)


def test_the_very_exception_is_raised(gateway: GatewayServer) -> None:
    """Not a copy, not a cause: the object that the last attempt raised, after as many attempts as the policy allows."""
    raised: list[Mine] = []

    @governed
    def fail() -> None:
        raised.append(Mine(f"attempt {len(raised) + 1}"))
        raise raised[-1]

    gateway.script = retrying(2)
    with pytest.raises(Mine) as caught:
        fail()
    assert len(raised) == 2 and caught.value is raised[-1]


async def test_the_very_exception_is_raised_on_a_loop(gateway: GatewayServer) -> None:
    """The same for an async function."""

    @governed
    async def fail() -> None:
        raise Mine("async")

    with pytest.raises(Mine, match="^async$"):
        await fail()


def test_without_it_a_failure_is_the_gateways_word(gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default: this test fails where the switch is stuck."""
    monkeypatch.delenv("OUTRIDER_TRANSPARENT")

    @governed
    def fail() -> None:
        raise Mine("mine")

    with pytest.raises(Failed) as caught:
        fail()
    assert isinstance(caught.value.__cause__, Mine)


def test_a_failure_whose_outcome_is_unknown_is_the_functions_own_too(gateway: GatewayServer) -> None:
    """A reset connection inside the function: it raised, so it is told by what it raised."""

    async def unsure(call: ServedCall) -> None:
        await call.execute()
        call.fail(Code.OUTCOME_UNKNOWN, "it may have run", outcome="unknown")

    gateway.script = unsure

    @governed
    def fail() -> None:
        raise ConnectionResetError("mine")

    with pytest.raises(ConnectionResetError, match="^mine$"):
        fail()


def test_a_refusal_stays_a_refusal(gateway: GatewayServer) -> None:
    """Also one that comes after the function failed: a rule, a kill or a breaker never hides behind an old error."""

    async def killed_after_a_failure(call: ServedCall) -> None:
        await call.execute()
        call.fail(Code.KILLED, "stopped")

    @governed
    def fail() -> None:
        raise Mine("mine")

    for script, code in ((refusing(), Code.DENIED), (killed_after_a_failure, Code.KILLED)):
        gateway.script = script
        with pytest.raises(Refused) as caught:
            fail()
        assert caught.value.code == code


async def test_what_a_stopped_function_raises_is_not_taken_for_its_failure(gateway: GatewayServer) -> None:
    """A timeout cancels the function; its CancelledError would look like the caller's own cancellation."""

    running = threading.Event()

    async def timed_out(call: ServedCall) -> None:
        attempt = asyncio.ensure_future(call.execute(timeout_ms=60_000))
        while not running.is_set():
            await asyncio.sleep(0.005)
        await call.abort("timeout")
        assert (await attempt).state == "cancelled"
        call.fail(Code.OUTCOME_UNKNOWN, "no answer in time", outcome="unknown")

    gateway.script = timed_out

    @governed
    async def hang() -> None:
        running.set()
        await asyncio.Event().wait()

    with pytest.raises(Failed, match="no answer in time"):
        await hang()


@pytest.mark.usefixtures("_installed")
def test_langgraph_gets_the_tools_own_exception_and_message() -> None:
    """Raised out of a tool that has no handler; untouched where the tool has put its failure into words itself."""
    asked: dict[str, Any] = {"name": "fails", "args": {"text": "mine"}, "id": "c1", "type": "tool_call"}
    with pytest.raises(Mine, match="^mine$"):
        fails.invoke(asked)
    with pytest.raises(Mine, match="^mine$"):
        fails.invoke({"text": "mine"})

    @tool
    def handled(text: str) -> str:
        """Raises, and says so."""
        raise ToolException(text)

    handled.handle_tool_error = "in the tool's own words"
    answer = handled.invoke({**asked, "name": "handled"})
    assert isinstance(answer, ToolMessage)
    assert (answer.status, answer.content) == ("error", "in the tool's own words")


def test_a_result_passes_as_ever(gateway: GatewayServer) -> None:
    """Nothing changes for what succeeds."""
    gateway.script = with_timeout(5000)

    @governed
    def give() -> list[int]:
        return [1]

    assert give() == [1]


def test_a_misspelt_switch_is_a_fault() -> None:
    """Neither on nor off: told before anything runs."""
    for text, expected in (("", False), ("0", False), ("1", True)):
        assert environment.read({"OUTRIDER_TRANSPARENT": text}, token="t").transparent is expected
    with pytest.raises(Misconfigured, match="OUTRIDER_TRANSPARENT"):
        environment.read({"OUTRIDER_TRANSPARENT": "yes"}, token="t")

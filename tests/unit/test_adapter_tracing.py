"""Every adapter tells the sidecar which span a call belongs to, and a function's own spans find their place."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from outrider.testing.conformance.driver import Ask, Driver, Tool
from outrider_adapters import tracing
from outrider_adapters.governed import governed
from tests.conformance.drivers.autogen import AutoGenDriver
from tests.conformance.drivers.crewai import CrewAIDriver
from tests.conformance.drivers.langgraph import LangGraphDriver
from tests.conformance.drivers.plain import PlainDriver
from tests.support.adapters import served
from tests.support.gateway_server import ServedCall

STATE = trace.TraceState([("vendor", "1")])
FRAMEWORKS_SPAN = trace.SpanContext(0xA << 124, 0xB << 60, False, trace.TraceFlags(1), STATE)
TRACEPARENT = f"00-a{'0' * 31}-b{'0' * 15}-01"
ATTEMPT = f"00-c{'0' * 31}-d{'0' * 15}-01"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "is_async"),
    [
        *((make, False) for make in (PlainDriver, LangGraphDriver, CrewAIDriver, AutoGenDriver)),
        *((make, True) for make in (PlainDriver, LangGraphDriver, AutoGenDriver)),
    ],
)
def test_the_current_span_goes_with_the_call(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Driver], is_async: bool
) -> None:
    """Through the framework's own loop, its threads and its tasks. (CrewAI calls every tool on a thread.)"""
    driver = make()

    async def areads(text: str = "") -> str:
        """Reads."""
        return f"read {text}"

    def reads(text: str = "") -> str:
        """Reads."""
        return f"read {text}"

    tool = Tool("reads", areads if is_async else reads, is_async)
    turns = [[Ask("reads", {"text": "a"})]]
    with served(monkeypatch) as gateway:
        driver.install()
        try:
            with trace.use_span(trace.NonRecordingSpan(FRAMEWORKS_SPAN)):
                ran = asyncio.run(driver.arun([tool], turns)) if is_async else driver.run([tool], turns)
        finally:
            uninstall(driver)
        (call,) = gateway.calls
    assert [told.text for told in ran.told] == ["read a"]
    assert (call.open.traceparent, call.open.tracestate) == (TRACEPARENT, "vendor=1")


def uninstall(driver: Driver) -> None:
    if driver.framework != "python":
        importlib.import_module(f"outrider_adapters.{driver.framework}").uninstall()


async def traced(call: ServedCall) -> None:
    call.close(await call.execute(traceparent=ATTEMPT))


def current() -> str:
    return tracing.running()[0]


def test_a_function_finds_the_attempt_above_it_where_no_span_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of it when it is over."""
    seen: list[str] = []
    with served(monkeypatch) as gateway:
        gateway.script = traced
        governed(name="local.read")(lambda: seen.append(current()))()
    assert seen == [ATTEMPT] and current() == ""


async def test_an_async_function_finds_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its caller's loop."""
    seen: list[str] = []

    @governed(name="local.read")
    async def read() -> None:
        seen.append(current())

    with served(monkeypatch) as gateway:
        gateway.script = traced
        await read()
    assert seen == [ATTEMPT] and current() == ""


def test_a_recorded_span_stays_the_one_that_the_function_adds_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frameworks stay as they are."""
    seen: list[Any] = []
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)  # CrewAI's tests set it for its own telemetry
    with (
        served(monkeypatch) as gateway,
        TracerProvider().get_tracer("t").start_as_current_span("framework") as span,
    ):
        gateway.script = traced
        governed(name="local.read")(lambda: seen.append(trace.get_current_span()))()
    assert seen == [span]


@pytest.mark.parametrize("told", ["garbage", "00-1-2-3", "", f"00-{'0' * 32}-{'0' * 16}-01"])
def test_a_context_that_is_none_does_not_keep_a_function_from_running(
    monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """It is decoration."""

    async def decorated(call: ServedCall) -> None:
        call.close(await call.execute(traceparent=told))

    with served(monkeypatch) as gateway:
        gateway.script = decorated
        assert governed(name="local.read")(lambda: current() or "none")() == "none"

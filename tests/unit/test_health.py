"""Health probes: Kubernetes' rules, in virtual time with a scripted asker; and the real asker against real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from outrider import clock
from outrider.health import Answer, Health, NetworkAsker, Streak
from outrider.policy.plans import HttpUpstream, McpUpstream, Probe, Secret, Upstream

READINESS = Probe("http", http_path="/healthz")
PAY = Upstream("pay", HttpUpstream("http://127.0.0.1:1"), readiness=READINESS)


class Script:
    """What an upstream's probes find, in order; the last answer stays. ``None`` hangs. Every probe's time is kept."""

    def __init__(self, *answers: bool | Exception | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, Probe]] = []
        self.closed = 0

    async def ask(self, probe: Probe) -> Answer:
        self.asked.append((clock.monotonic(), probe))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return Answer(bool(answer), "fine" if answer else "GET /healthz answered 503")

    async def close(self) -> None:
        self.closed += 1


@contextlib.asynccontextmanager
async def watching(script: Script, upstream: Upstream = PAY, **more: Any) -> AsyncIterator[Health]:
    health = Health({upstream.name: upstream}, asker=lambda _: script, **more)
    health.start()
    try:
        yield health
    finally:
        await health.close()


def times(script: Script) -> list[float]:
    return [round(moment, 3) for moment, _ in script.asked]


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_verdict_changes_only_at_its_threshold() -> None:
    """Failures and successes count in a row; one of the other kind begins anew."""
    streak, probe = Streak(), Probe("http", failure_threshold=3, success_threshold=2)
    verdicts = []
    for ok in (True, False, True, True, False, False, True, False, False, False, True, True):
        streak.record(ok, probe)
        verdicts.append(streak.good)
    assert verdicts == [False, False, False, True, True, True, True, True, True, False, False, True]


def test_the_defaults_are_those_of_kubernetes() -> None:
    """Period 10 s, timeout 1 s, 3 failures, 1 success, no delay."""
    probe = Probe("http")
    assert (probe.period_s, probe.timeout_s, probe.failure_threshold, probe.success_threshold) == (10, 1, 3, 1)
    assert probe.initial_delay_s == 0


@pytest.mark.looptime
async def test_an_upstream_without_probes_is_ready() -> None:
    """And so is one that nobody knows."""
    async with watching(Script(True), Upstream("plain")) as health:
        assert health.ready("plain")
        assert health.ready("nobody")
        assert health.retry_after_s("plain") is None
        assert health.snapshot()["plain"] == {"ready": True, "started": True}


@pytest.mark.looptime
async def test_an_upstream_with_a_probe_is_not_ready_before_its_first_success_which_is_asked_for_at_once() -> None:
    """Kubernetes' initial state; the first probe does not wait for a period."""
    script = Script(True)
    async with watching(script) as health:
        assert not health.ready("pay")
        await asyncio.sleep(0.01)
        assert health.ready("pay")
        await asyncio.sleep(25)
    assert times(script) == [0, 10, 20]


@pytest.mark.looptime
async def test_an_upstream_fails_fast_after_its_failures_and_recovers_without_a_restart() -> None:
    """Three failures in a row, then one success; the recovery is told once."""
    script = Script(True, False, False, False, False, True)
    recovered: list[str] = []
    async with watching(script, on_recovered=recovered.append) as health:
        await asyncio.sleep(25)
        assert health.ready("pay")
        await asyncio.sleep(6)
        assert not health.ready("pay")
        assert health.retry_after_s("pay") == pytest.approx(9, abs=0.1)
        assert health.snapshot()["pay"]["last"] == "GET /healthz answered 503"
        assert recovered == ["pay"]
        await asyncio.sleep(20)
        assert health.ready("pay")
    assert recovered == ["pay", "pay"]


@pytest.mark.looptime
async def test_startup_gates_readiness() -> None:
    """Until it started nothing else is asked; then readiness is asked without delay, and startup never again."""
    startup = Probe("http", http_path="/started", period_s=1, failure_threshold=2)
    upstream = replace(PAY, startup=startup)
    script = Script(False, False, False, True, True)
    async with watching(script, upstream) as health:
        await asyncio.sleep(2.9)
        assert not health.ready("pay")
        assert health.snapshot()["pay"]["started"] is False
        await asyncio.sleep(0.2)
        assert health.ready("pay")
        await asyncio.sleep(10)
    assert [(at, probe.http_path) for at, probe in zip(times(script), [p for _, p in script.asked], strict=True)] == [
        (0, "/started"), (1, "/started"), (2, "/started"), (3, "/started"), (3, "/healthz"), (13, "/healthz"),
    ]  # fmt: skip


@pytest.mark.looptime
async def test_with_a_startup_probe_alone_an_upstream_is_ready_once_it_started() -> None:
    """Nothing is asked afterwards."""
    upstream = Upstream("pay", PAY.http, startup=Probe("http", period_s=1))
    script = Script(False, True, False)
    async with watching(script, upstream) as health:
        await asyncio.sleep(50)
        assert health.ready("pay")
    assert times(script) == [0, 1]
    assert script.closed == 1


@pytest.mark.looptime
async def test_the_initial_delay_is_kept() -> None:
    """The upstream is not ready meanwhile, and says how long."""
    upstream = replace(PAY, readiness=replace(READINESS, initial_delay_s=7))
    script = Script(True)
    async with watching(script, upstream) as health:
        await asyncio.sleep(1)
        assert not health.ready("pay")
        assert health.retry_after_s("pay") == pytest.approx(6, abs=0.1)
        await asyncio.sleep(7)
        assert health.ready("pay")
    assert times(script) == [7]


@pytest.mark.looptime
async def test_a_probe_that_hangs_fails_after_its_timeout_and_the_next_one_keeps_its_time() -> None:
    """One probe at a time, and none piles up."""
    script = Script(None)
    async with watching(script) as health:
        await asyncio.sleep(1.5)
        assert health.snapshot()["pay"]["last"] == "no answer within 1 s"
        await asyncio.sleep(20)
    assert times(script) == [0, 10, 20]


@pytest.mark.looptime
async def test_a_timeout_longer_than_the_period_delays_the_next_probe() -> None:
    """Never two at once."""
    upstream = replace(PAY, readiness=replace(READINESS, period_s=1, timeout_s=5))
    script = Script(None)
    async with watching(script, upstream):
        await asyncio.sleep(11)
    assert times(script) == [0, 5, 10]


@pytest.mark.looptime
@pytest.mark.parametrize("fault", [OSError("refused"), ValueError("no url"), RuntimeError("a bug")])
async def test_whatever_goes_wrong_in_a_probe_is_a_failure_and_the_next_one_is_sent(fault: Exception) -> None:
    """Nothing ends the watching."""
    script = Script(fault, True)
    async with watching(script) as health:
        await asyncio.sleep(1)
        assert health.snapshot()["pay"]["last"] == f"{type(fault).__name__}: {fault}"
        await asyncio.sleep(10)
        assert health.ready("pay")


@pytest.mark.looptime
async def test_a_listener_that_fails_does_not_end_the_probes() -> None:
    """The breaker's hint is a courtesy."""

    def broken(name: str) -> None:
        raise RuntimeError(name)

    script = Script(True, False, False, False, True)
    async with watching(script, on_recovered=broken) as health:
        await asyncio.sleep(45)
        assert health.ready("pay")


# ── another policy ───────────────────────────────────────────────────────────────────────────────────────────────


def policy(*upstreams: Upstream) -> Any:
    return SimpleNamespace(upstreams={upstream.name: upstream for upstream in upstreams})


@pytest.mark.looptime
async def test_a_reload_keeps_what_is_known_of_an_upstream_that_did_not_change() -> None:
    """Its verdict, its count of failures and the time of its next probe."""
    script = Script(True, False, False, False)
    async with watching(script) as health:
        await asyncio.sleep(25)
        health.apply(policy(replace(PAY), Upstream("other")))
        assert health.ready("pay")
        await asyncio.sleep(6)
        assert not health.ready("pay")
    assert times(script) == [0, 10, 20, 30]


@pytest.mark.looptime
async def test_a_reload_that_asks_the_same_place_otherwise_keeps_its_verdict_until_a_new_one() -> None:
    """Editing a period must not make calls fail."""
    script = Script(True)
    async with watching(script) as health:
        await asyncio.sleep(1)
        health.apply(policy(replace(PAY, readiness=replace(READINESS, period_s=3))))
        assert health.ready("pay")
        await asyncio.sleep(4)
    assert times(script) == [0, 1, 4]
    assert script.closed == 2


@pytest.mark.looptime
async def test_a_reload_to_another_address_begins_anew() -> None:
    """Nothing is known of a place that was never asked."""
    script = Script(True, None)
    async with watching(script) as health:
        await asyncio.sleep(1)
        assert health.ready("pay")
        health.apply(policy(replace(PAY, http=HttpUpstream("http://127.0.0.1:2"))))
        assert not health.ready("pay")


@pytest.mark.looptime
async def test_a_reload_ends_the_probes_of_an_upstream_that_is_gone() -> None:
    """And begins those of a new one."""
    script = Script(True)
    async with watching(script) as health:
        await asyncio.sleep(1)
        health.apply(policy(replace(PAY, name="new")))
        await asyncio.sleep(11)
        assert set(health.snapshot()) == {"new"}
        assert health.ready("new")
    assert times(script) == [0, 1, 11]


# ── real sockets ─────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def a_server(status: int = 200, headers: dict[str, str] | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(f"{request.path} {request.headers.get('Authorization', '')}".strip())
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=status or 200, headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}", seen


async def ask(url: str, probe: Probe, **more: Any) -> Answer:
    asker = NetworkAsker(Upstream("pay", HttpUpstream(url, **more)))
    try:
        return await asker.ask(probe)
    finally:
        await asker.close()


async def test_an_mcp_server_is_asked_where_it_is() -> None:
    """Its probes start at its url, as an HTTP service's do."""
    async with a_server(200) as (url, seen):
        asker = NetworkAsker(Upstream("search", mcp=McpUpstream(http=HttpUpstream(f"{url}/mcp"))))
        answers = [await asker.ask(Probe("http", http_path="/healthz")), await asker.ask(Probe("tcp"))]
        await asker.close()
    assert [answer.ok for answer in answers] == [True, True] and len(seen) == 1
    assert answers[0].detail == "GET /mcp/healthz answered 200"


@pytest.mark.parametrize(
    ("status", "ok"), [(200, True), (204, True), (302, True), (399, True), (400, False), (503, False)]
)
async def test_an_http_probe_is_one_get_and_200_to_399_is_success(status: int, ok: bool) -> None:
    """A redirect is an answer, and is not followed."""
    async with a_server(status, {"Location": "/elsewhere"}) as (url, seen):
        answer = await ask(url + "/api/", READINESS)
    assert answer == Answer(ok, f"GET /api/healthz answered {status}")
    assert seen == ["/api/healthz"]


async def test_an_http_probe_is_sent_once_even_when_the_connection_breaks() -> None:
    """The client would repeat a GET by itself."""
    async with a_server(0) as (url, seen):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await ask(url, READINESS)
    assert len(seen) == 1


async def test_an_http_probe_carries_the_upstreams_headers() -> None:
    """A health page behind the same key as the tools."""
    async with a_server() as (url, seen):
        await ask(url, READINESS, headers={"Authorization": Secret("Bearer x", "env:KEY")})
    assert seen == ["/healthz Bearer x"]


async def test_a_tcp_probe_connects_to_its_address_or_to_the_urls_own() -> None:
    """And to nothing else; a port that nobody listens on is a failure."""
    async with a_server() as (url, seen):
        port = url.rpartition(":")[2]
        assert (await ask(url, Probe("tcp"))).detail == f"127.0.0.1:{port} accepts connections"
        assert (await ask("http://127.0.0.1:1", Probe("tcp", tcp_address=f"127.0.0.1:{port}"))).ok
        with pytest.raises(OSError):
            await ask(url, Probe("tcp", tcp_address="127.0.0.1:1"))
    assert seen == []


async def test_a_certificate_file_that_cannot_be_read_is_said() -> None:
    """It is a failed probe with the reason, not a silent one."""
    upstream = Upstream("pay", HttpUpstream("https://127.0.0.1:1", ca_file="nowhere.pem"), readiness=READINESS)
    health = Health({"pay": upstream})
    health.start()
    while "last" not in health.snapshot()["pay"]:
        await asyncio.sleep(0.01)
    assert health.snapshot()["pay"]["last"].startswith("FileNotFoundError")
    await health.close()

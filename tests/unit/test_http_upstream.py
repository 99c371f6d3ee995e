"""An HTTP upstream: one request for each attempt, and an honest word on what a broken one means."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from outrider.calls import Agent, Attempt, Call, Effect, Outcome, OutcomeKind, Reason
from outrider.errors import Misconfigured
from outrider.policy.plans import HttpTemplate, HttpUpstream, Plan, Secret, Timeouts, Upstream
from outrider.testing.script import (
    close,
    echo,
    garbage,
    hang,
    huge,
    reset,
    reset_after_headers,
    respond,
    truncate,
    unavailable,
)
from outrider.testing.upstream import ScriptedUpstream
from outrider.upstreams.http import HttpDriver
from tests.support.certificates import certificate


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        yield scripted


def plan_of(url: str, effect: Effect = Effect.WRITE, **settings: object) -> Plan:
    http = HttpUpstream(url, **settings)  # type: ignore[arg-type]
    return Plan("up.pay", Upstream("up", http), effect, Timeouts(connect_s=1.0))


async def send(plan: Plan, attempt: Attempt | None = None) -> Outcome:
    assert plan.upstream.http is not None
    driver = HttpDriver(plan.upstream.http)
    try:
        return await asyncio.wait_for(driver.send(attempt or attempt_of(plan), plan, 5.0), 5.0)
    finally:
        await driver.close()


def attempt_of(plan: Plan, **args: object) -> Attempt:
    return Attempt(Call("call-1", plan.tool, args, Agent("a")), 1, plan.tool, plan.effect, deadline_ms=1234)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "HEAD"])
@pytest.mark.parametrize("failure", [close(), reset(), reset_after_headers()])
async def test_one_attempt_is_one_request_on_the_wire(upstream: ScriptedUpstream, method: str, failure: object) -> None:
    """The HTTP client must not repeat GET, PUT or DELETE behind our back after a disconnect."""
    upstream.script("*", failure)  # type: ignore[arg-type]
    plan = replace(plan_of(upstream.url), http=HttpTemplate(method=method))
    await send(plan)
    assert upstream.count() == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_a_kept_connection_that_broke_is_not_replaced_silently(upstream: ScriptedUpstream, method: str) -> None:
    """On a reused connection too: one request for each attempt."""
    upstream.script("*", respond(json={"n": 1}), reset(), respond(json={"n": 3}))
    plan = replace(plan_of(upstream.url), http=HttpTemplate(method=method))
    assert plan.upstream.http is not None
    driver = HttpDriver(plan.upstream.http)
    first = await driver.send(attempt_of(plan), plan, 5.0)
    second = await driver.send(attempt_of(plan), plan, 5.0)
    await driver.close()
    assert first.ok and second.kind is OutcomeKind.UNKNOWN
    assert upstream.count() == 2


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (close(), Reason.RESET),
        (reset(), Reason.RESET),
        (reset_after_headers(), Reason.RESET),
        (truncate(), Reason.PROTOCOL),
        (garbage(), Reason.PROTOCOL),
    ],
)
async def test_what_breaks_after_sending_may_have_run(upstream: ScriptedUpstream, step: object, reason: Reason) -> None:
    """Whatever is wrong with the answer: the request had left."""
    upstream.script("*", step)  # type: ignore[arg-type]
    outcome = await send(plan_of(upstream.url))
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert outcome.failure is not None and outcome.failure.reason in {reason, Reason.PROTOCOL}


async def test_a_refused_connection_proves_that_nothing_ran(upstream: ScriptedUpstream) -> None:
    """No byte left."""
    upstream.refuse()
    outcome = await send(plan_of(upstream.url))
    assert outcome.kind is OutcomeKind.NOT_EXECUTED
    assert outcome.failure is not None and outcome.failure.reason is Reason.CONNECT


async def test_a_name_that_does_not_resolve_proves_that_nothing_ran() -> None:
    """Neither did a byte leave here. (`.invalid` never resolves: RFC 6761.)"""
    outcome = await send(plan_of("http://nothing.invalid:80"))
    assert outcome.kind is OutcomeKind.NOT_EXECUTED


async def test_an_interrupted_attempt_is_unknown_once_it_was_sent(upstream: ScriptedUpstream) -> None:
    """Only what never left is proven not to have run."""
    upstream.script("*", hang())
    plan = plan_of(upstream.url)
    assert plan.upstream.http is not None
    driver, attempt = HttpDriver(plan.upstream.http), attempt_of(plan)
    task = asyncio.create_task(driver.send(attempt, plan, 5.0))
    await upstream.wait_for(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await driver.stopped(attempt, plan, "killed")).kind is OutcomeKind.UNKNOWN
    assert (await driver.stopped(attempt_of(plan), plan, "killed")).kind is OutcomeKind.NOT_EXECUTED
    await driver.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, OutcomeKind.DEFINITE), (404, OutcomeKind.DEFINITE), (409, OutcomeKind.DEFINITE),
     (425, OutcomeKind.NOT_EXECUTED), (429, OutcomeKind.NOT_EXECUTED), (500, OutcomeKind.DEFINITE),
     (502, OutcomeKind.UNKNOWN), (503, OutcomeKind.DEFINITE), (504, OutcomeKind.UNKNOWN), (302, OutcomeKind.DEFINITE)],
)  # fmt: skip
async def test_what_a_status_says_of_execution(upstream: ScriptedUpstream, status: int, kind: OutcomeKind) -> None:
    """429 and 425 say that nothing was processed; a gateway's 502 or 504 says that nobody knows."""
    upstream.script("*", respond(status=status, json={"error": "no"}))
    outcome = await send(plan_of(upstream.url))
    assert outcome.kind is kind
    assert outcome.failure is not None and outcome.failure.status == status


async def test_an_operator_may_declare_statuses_by_which_nothing_ran(upstream: ScriptedUpstream) -> None:
    """safeStatuses: [503]."""
    upstream.script("*", unavailable(retry_after_s=7))
    outcome = await send(plan_of(upstream.url, safe_statuses=(503,)))
    assert outcome.kind is OutcomeKind.NOT_EXECUTED
    assert outcome.failure is not None and outcome.failure.retry_after_s == 7.0


async def test_redirects_are_not_followed(upstream: ScriptedUpstream) -> None:
    """Not across hosts, and not at all: each would be another request."""
    upstream.script("*", respond(status=307, headers={"Location": upstream.url + "/elsewhere"}))
    outcome = await send(plan_of(upstream.url))
    assert upstream.count() == 1 and upstream.count("/elsewhere") == 0
    assert outcome.failure is not None and "redirects are not followed" in outcome.failure.text


async def test_an_answer_that_is_too_large_is_cut_off(upstream: ScriptedUpstream) -> None:
    """Declared or not: no more than the limit is held in memory."""
    upstream.script("*", huge(5_000_000))
    outcome = await send(plan_of(upstream.url, max_response_bytes=100_000))
    assert outcome.kind is OutcomeKind.UNKNOWN
    assert outcome.failure is not None and "larger than 100000 bytes" in outcome.failure.text


async def test_the_upstream_is_told_what_it_may_know(upstream: ScriptedUpstream) -> None:
    """The call's id, the attempt, what remains of the deadline, the policy's secret."""
    upstream.script("*", respond(json=[1]))
    secret = Secret("s3cret", "env:TOKEN")
    plan = plan_of(upstream.url, headers={"Authorization": secret})
    assert (await send(plan)).value == [1]
    (got,) = upstream.received()
    headers = {name.lower(): value for name, value in got.headers.items()}
    assert headers["authorization"] == "s3cret"
    assert (headers["outrider-call"], headers["gateway-attempt"], headers["gateway-timeout-ms"]) == (
        "call-1", "1", "1234",
    )  # fmt: skip
    assert "s3cret" not in repr(plan)


async def test_a_keyed_attempt_carries_the_calls_key(upstream: ScriptedUpstream) -> None:
    """By header or by argument, the same for every attempt of the call."""
    upstream.script("*", echo())
    plan = replace(
        plan_of(upstream.url, Effect.KEYED), idempotency_header="Idempotency-Key", idempotency_argument="key"
    )
    for n in (1, 2):
        call = Call("call-1", plan.tool, {"a": 1}, Agent())
        await send(plan, Attempt(call, n, plan.tool, Effect.KEYED, idempotency_key="call-1"))
    first, second = upstream.received()
    assert first.body == second.body == b'{"a":1,"key":"call-1"}'
    assert {name.lower(): value for name, value in second.headers.items()}["idempotency-key"] == "call-1"


@pytest.mark.parametrize(
    ("step", "value"),
    [
        (respond(json={"a": [1, None]}), {"a": [1, None]}),
        (respond(body=b"plain", headers={"Content-Type": "text/plain"}), "plain"),
        (respond(status=204), None),
        (
            respond(body=b"\xff\xfe", headers={"Content-Type": "application/octet-stream"}),
            {"content_type": "application/octet-stream", "base64": "//4="},
        ),
    ],
)
async def test_the_result_is_the_upstreams_json_or_text(
    upstream: ScriptedUpstream, step: object, value: object
) -> None:
    """What is neither is base64."""
    upstream.script("*", step)  # type: ignore[arg-type]
    outcome = await send(plan_of(upstream.url))
    assert outcome.ok and outcome.value == value


async def test_json_that_is_none_is_no_result(upstream: ScriptedUpstream) -> None:
    """The upstream said success and sent something unreadable: it may have run."""
    upstream.script("*", respond(body=b"{", headers={"Content-Type": "application/json"}))
    outcome = await send(plan_of(upstream.url))
    assert outcome.kind is OutcomeKind.UNKNOWN and outcome.failure is not None
    assert outcome.failure.reason is Reason.PROTOCOL


async def test_a_proxy_of_the_environment_is_used_only_when_the_policy_says_so(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY must not send tool calls elsewhere by accident."""
    async with ScriptedUpstream() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await send(plan_of(upstream.url))
        assert (upstream.count(), proxy.count()) == (1, 0)
        await send(plan_of(upstream.url, use_env_proxy=True))
        assert (upstream.count(), proxy.count()) == (1, 1)


async def test_a_private_ca_and_a_client_certificate_by_file(tmp_path: Path) -> None:
    """Mutual TLS: trusted with the files, refused without."""
    server, client = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(client.ca))
    context.load_cert_chain(server.cert, server.key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    trusted = plan_of(url, ca_file=str(server.ca), cert_file=str(client.cert), key_file=str(client.key))
    assert (await send(trusted)).value == "ok"
    assert (await send(plan_of(url))).kind is OutcomeKind.NOT_EXECUTED
    listening.close()


# ── what an upstream may do to us ────────────────────────────────────────────────────────────────────────────────


def raw(head: str, body: bytes = b"") -> bytes:
    """An answer byte by byte; ``head`` is the status line and further headers."""
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


async def test_a_reason_that_is_no_text_is_told_as_text(upstream: ScriptedUpstream) -> None:
    """Bytes beyond UTF-8 must not cost the attempt its end in the ledger, nor the caller the answer."""
    upstream.script("*", garbage(raw("404 n\xff\xfeo")))
    outcome = await send(plan_of(upstream.url))
    assert outcome.kind is OutcomeKind.DEFINITE and outcome.failure is not None
    assert outcome.failure.text.encode().startswith(b"HTTP 404 n")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain; charset=unicode_escape", b"\\ud800"),
        ("text/plain; charset=utf-7", b"+2AA-"),
        ("text/plain; charset=undefined", b"x"),
        ("text/plain; charset=idna", b"\xff"),
        ("text/plain; charset=rot13", b"x"),
        ("text/plain; charset=nothing", b"x"),
        ("x\xff/y; charset=ascii", b"\xff"),
        ("text/plain; charset=punycode", b"a" * 300_000 + b"-" + b"b" * 300_000),  # minutes, decoded as what it says
    ],
)
async def test_a_charset_that_is_none_is_handed_over_as_bytes(
    upstream: ScriptedUpstream, kind: str, body: bytes
) -> None:
    """It ran, so it is a result; one that can be written as JSON, and that holds nobody up."""
    upstream.script("*", garbage(raw(f"200 OK\r\nContent-Type: {kind}", body)))
    outcome = await send(plan_of(upstream.url))
    assert outcome.ok and b"base64" in msgspec.json.encode(outcome.value)


async def test_an_answer_that_unpacks_to_far_more_is_cut_off(upstream: ScriptedUpstream) -> None:
    """The limit counts what it unpacks to, and it is not unpacked whole to find out."""
    packed = gzip.compress(bytes(64 * 1024 * 1024))
    upstream.script("*", garbage(raw("200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip", packed)))
    outcome = await send(plan_of(upstream.url, max_response_bytes=1_000_000))
    assert outcome.kind is OutcomeKind.UNKNOWN and outcome.failure is not None
    assert outcome.failure.reason is Reason.PROTOCOL


def test_a_certificate_file_that_is_missing_is_told() -> None:
    """Where, what, and at the start."""
    with pytest.raises(Misconfigured, match=r"/nowhere/ca\.pem"):
        HttpDriver(HttpUpstream("https://127.0.0.1", ca_file="/nowhere/ca.pem"))

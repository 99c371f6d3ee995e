"""A peer that hangs, talks nonsense, talks without end, knows another secret or is somebody else: bounded, and told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from outrider.errors import Misconfigured
from outrider.http_common import peer_tls
from outrider.kills import Kill, Scope
from outrider.peers.book import Book, State, Who
from outrider.peers.client import PeerClient, credential
from outrider.peers.lines import MAX_ANSWER_BYTES, Lines
from outrider.settings import Address, Peers, Settings, Tls
from tests.support.certificates import certificate

TOKEN = credential("a-secret-for-all-of-them")
GOOD = {"sidecar": "pod-b:7071", "incarnation": "b"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def peer(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Address]:
    """Somebody who listens and does as ``handler`` says."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield Address("127.0.0.1", runner.addresses[0][1])
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def lines(*addresses: Address, timeout_s: float = 1.0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Lines]:
    book = Book("me")
    book.relist(addresses)
    made = Lines(Who("pod-a:7071", "me"), book, PeerClient(TOKEN, tls), timeout_s)
    try:
        yield made
    finally:
        await made.close()


def a_kill() -> Kill:
    return Kill("k1", Scope("global"), "why", "ann", 1_800_000_000.0, 0.0)


def answering(body: Any, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    return handler


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def drip(request: web.Request) -> web.StreamResponse:
    """A byte now and then: never silent, never done."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def garbage(request: web.Request) -> web.Response:
    return web.Response(body=b"\xff\x00<html>" * 100)


async def endless(request: web.Request) -> web.StreamResponse:
    """200 MB, if anybody wants them."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(200):
        await response.write(b" " * 1_000_000)
    return response


async def elsewhere(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/v1/peer/agents")


async def packed(request: web.Request) -> web.Response:
    """A little that unpacks to much."""
    response = web.json_response({"who": GOOD, "agents": [{"name": "x" * 1_000_000}] * 50})
    response.enable_compression(web.ContentCoding.gzip)
    return response


RECEIPT = {"who": GOOD, "id": "k1", "scope": "global", "took_ms": 1.0, "counts": {}, "calls": [], "durable": True}


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (hang, "no answer within 1 s"),
        (drip, "no answer within 1 s"),
        (garbage, "its answer (200) is not a sidecar's"),
        (endless, f"its answer is longer than {MAX_ANSWER_BYTES} bytes"),
        (packed, "its answer (200) is not a sidecar's"),
        (elsewhere, "its answer (302) is not a sidecar's"),
        (answering([1, 2]), "its answer (200) is not a sidecar's"),
        (answering({"agents": []}), "its answer does not say which sidecar it is"),
        (answering({"who": {"sidecar": "", "incarnation": 7}}), "its answer does not say which sidecar it is"),
        (answering({"who": GOOD, "agents": {"a": 1}}), "its answer holds no agents"),
        (answering({"who": GOOD, "agents": ["a"]}), "its answer holds no agents"),
        (answering({"detail": "no"}, 401), "it refuses our secret (401); give all sidecars the same --peer-secret"),
        (answering({"detail": "the ledger cannot be written"}, 503), "it answered 503: the ledger cannot be written"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value))[:40],
)
async def test_a_bad_peer_is_named_with_what_is_wrong_and_costs_no_more_than_its_bound(
    handler: Handler, told: str
) -> None:
    """The good one beside it is heard as if it were alone."""
    there = {"who": {"sidecar": "pod-c:7071", "incarnation": "c"}, "agents": [{"name": "a"}]}
    async with peer(handler) as bad, peer(answering(there)) as good, lines(bad, good) as asked:
        began = time.monotonic()
        heard = await asked.gather("agents")
        assert time.monotonic() - began < 5
    assert [(one.peer, one.answered, one.error) for one in heard] == [(str(bad), False, told), (str(good), True, "")]
    assert heard[1].body["agents"] == [{"name": "a"}]


@pytest.mark.parametrize(
    "body",
    [{"who": GOOD}, RECEIPT | {"counts": 3}, RECEIPT | {"counts": {"unknown": "x"}}, RECEIPT | {"calls": ["c"]}],
)
async def test_what_is_no_receipt_is_not_taken_for_one(body: Any) -> None:
    """Whoever did not say what became of its calls did not say that it heard."""
    async with peer(answering(body)) as address, lines(address) as asked:
        (heard,) = await asked.tell_all(a_kill())
        assert (heard.answered, heard.error) == (False, "its answer is no receipt")
        assert next(iter(asked.book)).missed == {"k1": None}


async def test_nobody_there_is_told_at_once() -> None:
    """A refused connection does not wait for the bound."""
    async with peer(garbage) as address:
        pass
    async with lines(address, timeout_s=30) as asked:
        (heard,) = await asked.gather("agents")
    assert not heard.answered and heard.error.startswith("no answer: ")


async def test_a_list_waits_shortly_for_who_was_silent_and_a_kill_the_whole_time() -> None:
    """Looking at lists stays quick; stopping gives everybody a chance."""
    async with peer(hang) as address, lines(address, timeout_s=3.0) as asked:
        for work, least_s, most_s in (
            (lambda: asked.gather("agents"), 3.0, 15),
            (lambda: asked.gather("agents"), 0.5, 2.9),
            (lambda: asked.tell_all(a_kill()), 3.0, 15),
        ):
            began = time.monotonic()
            await work()
            assert least_s * 0.95 <= time.monotonic() - began < most_s


async def test_the_secret_itself_is_never_sent() -> None:
    """It may be the people's token; what is sent opens the peers' routes only, and follows from it for all alike."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response(RECEIPT)

    async with peer(handler) as address, lines(address) as asked:
        await asked.tell_all(a_kill())
    assert seen == [f"Bearer {TOKEN}"]
    assert "a-secret-for-all-of-them" not in seen[0]
    assert credential("a-secret-for-all-of-them") == TOKEN != credential("a-secret-for-all-of-then")


async def test_we_ourselves_in_the_list_and_one_address_twice_are_each_one_sidecar() -> None:
    """By what they answer, not by how they are written."""
    us = answering(RECEIPT | {"who": {"sidecar": "pod-a:7071", "incarnation": "me"}})
    async with (
        peer(answering(RECEIPT)) as one,
        peer(answering(RECEIPT)) as two,
        peer(us) as own,
        lines(own, one, two) as asked,
    ):
        assert [heard.peer for heard in await asked.tell_all(a_kill())] == [str(one)]
        assert [known.state for known in asked.book] == [State.SELF, State.ANSWERING, State.SAME]
        assert [known.address for known in asked.book.told()] == [one]


async def test_a_hundred_megabytes_from_each_of_many_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of one answer shrinks with the number of peers."""
    monkeypatch.setattr("outrider.peers.lines.MAX_LISTS_BYTES", 40_000)
    body = {"who": GOOD, "agents": [{"name": "x" * 25_000}]}
    async with peer(answering(body)) as one, peer(answering(body | {"who": GOOD | {"incarnation": "c"}})) as two:
        async with lines(one) as asked:
            assert [heard.answered for heard in await asked.gather("agents")] == [True]
        async with lines(one, two) as asked:
            assert [heard.error for heard in await asked.gather("agents")] == [
                "its answer is longer than 20000 bytes"
            ] * 2


async def test_tls_is_checked_against_the_given_ca(tmp_path: Path) -> None:
    """Whoever cannot show a certificate of that CA hears nothing, the credential neither."""
    ours, theirs = certificate(tmp_path, "ours"), certificate(tmp_path, "theirs")
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response(RECEIPT)

    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(ours.cert, ours.key)
    async with peer(handler, server) as address, peer(handler) as plain:
        for ca, to, error in (
            (ours.ca, address, ""),
            (theirs.ca, address, "its certificate is not trusted"),
            (ours.ca, plain, "TLS fails: either all control listeners have TLS or none"),
        ):
            seen.clear()
            context = ssl.create_default_context(cafile=str(ca))
            async with lines(to, tls=context) as asked:
                (heard,) = await asked.tell_all(a_kill())
            assert heard.error.startswith(error) and heard.answered is not bool(error)
            assert len(seen) == (not error)


def test_a_ca_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """With the option's name and what to do."""
    tls = Tls("cert.pem", "key.pem")
    with pytest.raises(Misconfigured, match="--peer-ca: .*no.pem cannot be used"):
        peer_tls(Settings(tmp_path, tmp_path, control_tls=tls, peers=Peers(ca_file=str(tmp_path / "no.pem"))))
    with pytest.raises(Misconfigured, match="--peer-ca is for TLS, and this control plane has none"):
        peer_tls(Settings(tmp_path, tmp_path, peers=Peers(ca_file="ca.pem")))
    assert peer_tls(Settings(tmp_path, tmp_path)) is None

"""Raw HTTP through a real sidecar, byte for byte: what goes to the upstream, and what comes back."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider.ledger import query
from outrider.testing.gateway import GatewayProcess
from tests.support.eventually import eventually
from tests.support.wire_upstream import HELLO, Reply, Seen, WireUpstream, ask, read_reply

SECRET = "the-upstreams-own-secret"


def policy(upstream: WireUpstream) -> dict[str, Any]:
    quick = {"retry": {"maxAttempts": 3, "backoff": {"initial": "1ms", "max": "2ms"}}}
    return {
        "upstreams": {
            "led": {"http": {"url": upstream.url}},
            "own": {"http": {"url": upstream.url, "headers": {"Authorization": "Bearer {env:UPSTREAM_SECRET}"}}},
            "fwd": {"http": {"url": upstream.url + "/base", "authorization": "forward"}},
        },
        "domain": {
            "breaker": {"enabled": False},
            "retryBudget": {"minRetries": 1_000_000},
            "bulkhead": {"maxConcurrent": 100},
        },
        "defaults": quick,
        "tools": [
            {"match": "led.pay", "http": {"method": "POST", "path": "/payments"}, "redact": ["$.args.iban"]},
            {"match": "led.get", "effect": "read", "http": {"method": "GET", "path": "/accounts/{args.id}"}},
            {"match": "led.free", "http": {"method": "POST", "path": "/free"}},
            {
                "match": "led.keyed",
                "effect": "keyed",
                "idempotency": {"send": {"header": "Idempotency-Key"}},
                "http": {"method": "POST", "path": "/keyed"},
            },
            {"match": "led.http", "timeouts": {"idle": "700ms", "total": "20s", "perTry": "5s"}},
            {
                "match": "own.soft",
                "effect": "read",
                "fallback": [{"static": {"value": {"cached": True}}}],
                "http": {"method": "GET", "path": "/soft"},
            },
        ],
        "rules": [
            {"name": "all", "tools": ["*"], "then": "allow"},
            {"name": "large", "tools": ["led.pay"], "when": "has(args.amount) && args.amount > 500", "then": "deny"},
            {
                "name": "raw",
                "tools": ["led.http", "own.http", "fwd.http"],
                "then": "allow",
                "agents": ["anonymous", "leaver"],
            },
        ],
    }


class World:
    """A sidecar, an upstream and a client of plain sockets."""

    def __init__(self, gateway: GatewayProcess, upstream: WireUpstream) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.port = int(gateway.listen.rpartition(":")[2])
        self.token = gateway.agent_token

    def head(self, method: str, target: str, *lines: str) -> bytes:
        """Each request is of a run of its own: after an unknown outcome the same one in the same run is refused."""
        first = [f"{method} {target} HTTP/1.1", "Host: sidecar", f"Outrider-Token: {self.token}"]
        first.append(f"Outrider-Run: {uuid.uuid4()}")
        return "\r\n".join([*first, *lines, "", ""]).encode("utf-8", "surrogateescape")

    def ask(self, method: str, target: str, *lines: str, body: bytes = b"") -> Reply:
        sized = (f"Content-Length: {len(body)}",) if body else ()
        return ask(self.port, self.head(method, target, *lines, *sized) + body)

    def code(self, *request: str, body: bytes = b"") -> tuple[int, str]:
        reply = self.ask(*request, body=body)
        assert reply.header("content-type") == "application/problem+json", reply
        return reply.status, json.loads(reply.body)["code"]

    def json(self, method: str, target: str, value: Any, *lines: str) -> Reply:
        return self.ask(method, target, "Content-Type: application/json", *lines, body=json.dumps(value).encode())

    def records(self, call_id: str) -> list[dict[str, Any]]:
        self.gateway.control("GET", "/v1/ledger?limit=1")  # waits until what was recorded is written
        return query.show(self.gateway.data, call_id)


@pytest.fixture(scope="module")
def both() -> Iterator[World]:
    with WireUpstream() as upstream, GatewayProcess(policy(upstream), env={"UPSTREAM_SECRET": SECRET}) as gateway:
        yield World(gateway, upstream)


@pytest.fixture
def world(both: World) -> World:
    both.upstream.seen.clear()
    both.upstream.broken = 0
    both.upstream.answer = lambda seen: [HELLO]
    return both


def answer(text: str, body: bytes = b"") -> list[bytes]:
    return [text.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body]


# ── there ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_arrives_as_it_was_sent(world: World) -> None:
    """Method, target, body and the client's own headers, repeated ones too; ours and the connection's do not."""
    own = ("X-One: 1", "x-one: 2", "Accept: */*", "Cookie: a=b")
    hops = ("Connection: close, X-Hop", "X-Hop: 1", "TE: trailers", "Keep-Alive: 5", "Proxy-Authorization: Basic x")
    lines = (*own, *hops, "Upgrade: h2c", "Outrider_Token: x")
    reply = world.ask("PATCH", "/http/led/%61/b%c3%a9?q=%2E&p=+", *lines, body=b"\x00\xff not json")
    assert (reply.status, reply.body, reply.whole) == (200, b"hello", True)
    (seen,) = world.upstream.seen
    assert seen.lines[0] == b"PATCH /a/b%C3%A9?q=%2E&p=+ HTTP/1.1" and seen.body == b"\x00\xff not json"
    names = [line.split(b":")[0].decode().lower() for line in seen.lines[1:]]
    assert sorted(set(names)) == [
        "accept", "content-length", "cookie", "gateway-attempt", "gateway-timeout-ms", "host", "outrider-call", "x-one",
    ]  # fmt: skip
    received = world.records(reply.header("outrider-call"))[0]
    assert received["args"]["body_sha256"] == seen.digest and received["caller_ref"] == "PATCH"
    assert seen.header("x-one") == ["1", "2"] and seen.header("host") == [f"127.0.0.1:{world.upstream.port}"]


def test_the_base_path_of_the_url_stays_in_front(world: World) -> None:
    """And nothing climbs over it."""
    assert world.ask("GET", "/http/fwd/x?y").status == 200
    assert world.upstream.seen[0].target == "/base/x?y"
    assert world.code("GET", "/http/fwd/%2e%2e/x") == (400, "invalid_request")
    assert len(world.upstream.seen) == 1


@pytest.mark.parametrize(
    "target",
    ["/http/led/../v1/call", "/http/led/%2e%2e/x", "/http/led//x", "/http/led/a%2fb", "/http/led/a;b", "/http/led/a%00",
     "/http/led/%252e", "/http/led/a\\b", "/http/led/%0d%0aX:1", "http://other/http/led/x", "http://u:p@other/http/led/x",
     "/%68ttp/led/x", "/http/led/ACCOUNTS/42", "/http/led/x?a=1;b=2"],
)  # fmt: skip
def test_tricks_with_the_target_reach_no_upstream(world: World, target: str) -> None:
    """They are refused by us or by the parser before us."""
    method = "GET"
    reply = ask(world.port, world.head(method, target))
    assert reply.status in {400, 404} and world.upstream.seen == []


@pytest.mark.parametrize(
    "line",
    ["X-HTTP-Method-Override: DELETE", "x_http_method_override: DELETE", "X-Original-URL: /admin", "X-Rewrite-Url: /"],
)
def test_headers_that_name_another_request_are_refused(world: World, line: str) -> None:
    """The rules see the request line."""
    assert world.code("GET", "/http/led/x", line) == (400, "invalid_request") and world.upstream.seen == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(alphabet="aB1-._~%2eEfFcC:@+=;\\", min_size=0, max_size=8), min_size=1, max_size=4),
    st.text(alphabet="ab=&%2e+./;", max_size=12),
)
def test_what_the_rules_saw_is_what_the_upstream_got(world: World, segments: list[str], asked: str) -> None:
    """Byte for byte: the path in the ledger, which is what conditions are asked with, stands in the request line."""
    world.upstream.seen.clear()
    target = "/".join(["/http/led", *segments]) + (f"?{asked}" if asked else "")
    reply = world.ask("PUT", target)
    if reply.status != 200:
        assert reply.status == 400 and world.upstream.seen == []
        return
    (seen,) = world.upstream.seen
    (received,) = [one for one in world.records(reply.header("outrider-call")) if one["type"] == "call.received"]
    assert received["tool"] == "led.http"
    sent_path, _, sent_query = seen.target.partition("?")
    assert received["args"]["path"] == sent_path and sent_query == asked


# ── authority ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_on_a_tool_holds_for_its_path(world: World) -> None:
    """With the arguments of the body, in the ledger as of the tool's own calls, redacted."""
    assert world.json("POST", "/http/led/payments", {"amount": 5, "iban": "DE1"}).status == 200
    reply = world.json("POST", "/http/led/payments/", {"amount": 5000})
    assert reply.status == 403 and json.loads(reply.body)["rule"] == "large" and len(world.upstream.seen) == 1
    call = world.upstream.seen[0].header("outrider-call")[0]
    received, *_, finished = world.records(call)
    assert received["tool"] == "led.pay" and received["args"]["amount"] == 5 and "DE1" not in json.dumps(received)
    assert received["caller_ref"] == "POST /payments"
    digest = hashlib.sha256(b"hello").hexdigest()
    assert finished["result"] == {"status": 200, "bytes": 5, "sha256": digest}


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (("Content-Type: text/plain",), b'{"amount": 5000}'),
        (("Content-Type: application/octet-stream",), b'{"amount": 5000}'),
        ((), b'{"amount": 5000}'),
        (("Content-Type: application/json", "Content-Encoding: gzip"), b'{"amount": 5000}'),
        (("Content-Type: application/json",), b'{"amount": 5, "amount": 5000}'),
        (("Content-Type: application/json",), b'{"pad": "' + b"x" * 1_100_000 + b'", "amount": 5000}'),
        (("Content-Type: application/x-www-form-urlencoded",), b"amount=1&amount=5000"),
        (("Content-Type: application/x-www-form-urlencoded",), b"amount=5000"),
        (("Content-Type: application/x-www-form-urlencoded",), b' {"amount": 5000}'),
    ],
)
def test_a_body_that_the_rules_cannot_read_does_not_pass_them(
    world: World, lines: tuple[str, ...], body: bytes
) -> None:
    """The rule asks whether an amount is there and too large: what hides it is refused, text denies."""
    status, code = world.code("POST", "/http/led/payments", *lines, body=body)
    assert (status, code) in {(400, "invalid_request"), (403, "denied")} and world.upstream.seen == []


def test_a_body_that_no_rule_asks_about_passes_as_it_is(world: World) -> None:
    """A file for a tool that is only named by rules."""
    assert world.ask("POST", "/http/led/free", "Content-Type: image/png", body=b"\x89PNG").status == 200
    assert world.upstream.seen[0].body == b"\x89PNG"


def test_what_is_no_tool_needs_a_rule_with_its_name(world: World) -> None:
    """`*` allows every tool and not this."""
    assert world.ask("GET", "/http/led/x/y", "Outrider-Agent: anonymous").status == 200
    assert world.code("GET", "/http/led/x/y", "Outrider-Agent: other") == (403, "no_rule")
    assert world.ask("GET", "/http/led/accounts/42", "Outrider-Agent: other").status == 200
    assert world.code("GET", "/http/none/x") == (404, "not_found")
    assert world.code("GET", "/http/local/x") == (404, "not_found")
    assert len(world.upstream.seen) == 2


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_credential_comes_in_three_ways_and_goes_nowhere(world: World) -> None:
    """Not with `forward` either, nor in the header that is forwarded."""
    token = world.token
    ways = [
        [f"Outrider-Token: {token}"], [f"Authorization: Bearer {token}"], [f"Authorization: {basic('token', token)}"],
        [f"Outrider-Token: {token}", f"Authorization: Bearer {token}"],
        [f"Outrider-Token: {token}", f"Authorization: {basic('token', token)}"],
    ]  # fmt: skip
    for upstream in ("led", "fwd"):
        for way in ways:
            head = "\r\n".join([f"GET /http/{upstream}/x/y HTTP/1.1", "Host: x", *way, "", ""])
            assert ask(world.port, head.encode()).status == 200
    assert len(world.upstream.seen) == 10
    assert not any(
        token.encode() in b"".join(seen.lines) or seen.header("authorization") for seen in world.upstream.seen
    )
    for wrong in ([], ["Outrider-Token: x"], [f"Authorization: {basic('user', token)}"], ["Authorization: Basic %"],
                  ["Outrider-Token: x", f"Authorization: Bearer {token}"]):  # fmt: skip
        head = "\r\n".join(["GET /http/led/x/y HTTP/1.1", "Host: x", *wrong, "", ""])
        assert ask(world.port, head.encode()).status == 401


def test_the_clients_own_authorization_is_what_the_policy_says(world: World) -> None:
    """Dropped, replaced by ours, or forwarded."""
    for upstream, expected in (("led", []), ("own", [f"Bearer {SECRET}"]), ("fwd", ["Digest mine"])):
        world.upstream.seen.clear()
        assert world.ask("GET", f"/http/{upstream}/x/y", "Authorization: Digest mine").status == 200
        assert world.upstream.seen[0].header("authorization") == expected


# ── and back ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_comes_back_as_it_was_sent(world: World) -> None:
    """Status, reason, headers in their spelling and number, a packed body; but what is the connection's or ours."""
    body = b"\x1f\x8b packed"
    world.upstream.answer = lambda seen: answer(
        "HTTP/1.1 207 Several\nset-COOKIE: a=1\nSet-Cookie: b=2\nContent-Encoding: gzip\nServer: theirs\nX-E: é\n"
        f"Connection: keep-alive, X-Hop\nX-Hop: 1\nOutrider-Outcome: lie\nContent-Length: {len(body)}",
        body,
    )
    reply = world.ask("GET", "/http/led/x/y")
    assert (reply.status, reply.body, reply.whole) == (207, body, True)
    kept = [(key, value) for key, value in reply.headers if key not in {"Date", "Outrider-Call"}]
    assert kept == [
        ("set-COOKIE", "a=1"), ("Set-Cookie", "b=2"), ("Content-Encoding", "gzip"), ("Server", "theirs"),
        ("X-E", "é".encode().decode("latin-1")), ("Content-Length", str(len(body))),
        ("Outrider-Attempts", "1"), ("Outrider-Outcome", "ok"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "text", "body", "expected"),
    [
        ("HEAD", "HTTP/1.1 200 OK\nContent-Length: 1000", b"", (200, b"")),
        ("GET", "HTTP/1.1 204 No Content", b"", (204, b"")),
        ("GET", "HTTP/1.1 304 Not Modified\nETag: x", b"", (304, b"")),
        ("GET", "HTTP/1.1 302 Found\nLocation: /there\nContent-Length: 0", b"", (302, b"")),
        ("GET", "HTTP/1.1 200 OK\nContent-Length: 0", b"", (200, b"")),
        ("GET", "HTTP/1.0 200 OK\nX-Then: close", b"until the end", (200, b"until the end")),
        ("GET", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"3\r\nabc\r\n0\r\nX: 1\r\n\r\n", (200, b"abc")),
        ("GET", "HTTP/1.1 103 Early\n\nHTTP/1.1 200 OK\nContent-Length: 2", b"ok", (200, b"ok")),
        ("GET", "HTTP/1.1 404 Not Found\nContent-Length: 2", b"no", (404, b"no")),
    ],
)  # fmt: skip
def test_every_kind_of_answer_keeps_its_shape(
    world: World, method: str, text: str, body: bytes, expected: tuple[int, bytes]
) -> None:
    """With a body and without, however its end is told."""

    def answering(seen: Seen) -> list[bytes]:
        if "X-Then" in text:
            seen.lines.append(b"X-Then: close")
        return answer(text, body)

    world.upstream.answer = answering
    for _ in range(2):  # the connection is in order afterwards
        reply = world.ask(method, "/http/led/x/y")
        assert (reply.status, reply.body) == expected and reply.whole
    if method == "HEAD":
        assert reply.header("content-length") == "1000"


def test_a_final_failure_is_the_upstreams_own_answer(world: World) -> None:
    """After the attempts that its effect allows: three of a read, one of a write."""
    world.upstream.answer = lambda seen: answer("HTTP/1.1 503 Busy\nRetry-After: 0\nContent-Length: 4", b"busy")
    for method, attempts in (("GET", "3"), ("PUT", "3"), ("POST", "1")):
        reply = world.ask(method, "/http/led/x/y")
        found = {name: reply.header(f"outrider-{name}") for name in ("attempts", "outcome")}
        assert (reply.status, reply.body, found) == (503, b"busy", {"attempts": attempts, "outcome": "definite"})
        assert len({seen.header("outrider-call")[0] for seen in world.upstream.seen}) == 1
        assert len(world.upstream.seen) == int(attempts)
        world.upstream.seen.clear()


def test_a_failure_may_be_followed_by_a_success(world: World) -> None:
    """Nobody sees the first one; its body was sent again, byte for byte; a key is the same each time."""
    turns = iter([answer("HTTP/1.1 500 No\nContent-Length: 2", b"no"), [], [HELLO]])

    def answering(seen: Seen) -> list[bytes]:
        parts = next(turns)
        if not parts:
            seen.lines.append(b"X-Then: close")
        return parts

    world.upstream.answer = answering
    reply = world.ask("POST", "/http/led/keyed", body=b"x" * 60_000)
    assert (reply.status, reply.body, reply.header("outrider-attempts")) == (200, b"hello", "3")
    assert {seen.digest for seen in world.upstream.seen} == {hashlib.sha256(b"x" * 60_000).hexdigest()}
    assert len({seen.header("idempotency-key")[0] for seen in world.upstream.seen}) == 1


def test_a_streamed_body_is_not_sent_again(world: World) -> None:
    """It is gone, whatever the effect says."""
    world.upstream.answer = lambda seen: answer("HTTP/1.1 503 Busy\nContent-Length: 4", b"busy")
    reply = world.ask("PUT", "/http/led/x/y", body=b"x" * 200_000)
    assert (reply.status, reply.header("outrider-attempts")) == (503, "1") and len(world.upstream.seen) == 1


def test_a_chunked_body_arrives_whole(world: World) -> None:
    """Short ones with a length, long ones in chunks."""
    for count, how in ((3, "content-length"), (30, "transfer-encoding")):
        world.upstream.seen.clear()
        part = b"2710\r\n" + b"y" * 10_000 + b"\r\n"
        sent = world.head("POST", "/http/led/x/y", "Transfer-Encoding: chunked") + part * count + b"0\r\n\r\n"
        assert ask(world.port, sent).status == 200
        (seen,) = world.upstream.seen
        assert seen.digest == hashlib.sha256(b"y" * 10_000 * count).hexdigest() and seen.header(how)


def test_a_client_that_waits_to_send_is_told_to_or_refused(world: World) -> None:
    """100 Continue for those who may call; a refusal comes without the body."""
    for target, expected in (("/http/led/x/y", b"HTTP/1.1 100"), ("/http/led/a//b", b"HTTP/1.1 400")):
        with socket.create_connection(("127.0.0.1", world.port), 10) as connection:
            connection.sendall(world.head("POST", target, "Expect: 100-continue", "Content-Length: 5"))
            with connection.makefile("rb") as file:
                assert file.readline().startswith(expected)
                if expected.endswith(b"100"):
                    assert file.readline() == b"\r\n"
                    connection.sendall(b"12345")
                    assert read_reply(file).status == 200
    assert [seen.body for seen in world.upstream.seen] == [b"12345"]


def test_other_protocols_are_refused_with_a_reason(world: World) -> None:
    """What passes over a WebSocket or a tunnel cannot be governed call by call."""
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x")
    assert world.code("GET", "/http/led/x", *upgrade) == (501, "invalid_request")
    assert world.code("TRACE", "/http/led/x") == (501, "invalid_request")
    assert ask(world.port, world.head("CONNECT", "other:443")).status == 501
    assert world.upstream.seen == []


def test_an_http_1_0_client_gets_an_answer_that_ends_with_the_connection(world: World) -> None:
    """No chunks, which it would not know."""
    world.upstream.answer = lambda seen: answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")
    head = world.head("GET", "/http/led/x/y").replace(b"HTTP/1.1", b"HTTP/1.0")
    reply = ask(world.port, head)
    assert (reply.status, reply.body, reply.header("transfer-encoding")) == (200, b"abc", "")


def test_the_value_of_a_fallback_is_told_as_such(world: World) -> None:
    """It is no answer of the upstream."""
    world.upstream.answer = lambda seen: answer("HTTP/1.1 503 Busy\nContent-Length: 4", b"busy")
    reply = world.ask("GET", "/http/own/soft")
    assert (reply.status, json.loads(reply.body), reply.header("outrider-degraded")) == (200, {"cached": True}, "true")


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Tap:
    """An answer that goes on when the test says so."""

    def __init__(self, head: bytes = CHUNKED + b"5\r\nfirst\r\n") -> None:
        self._go = threading.Event()
        self._head = head
        self.rest: list[bytes] = []

    def __call__(self, seen: Seen) -> Iterator[bytes]:
        yield self._head
        self._go.wait(30)
        yield from self.rest

    def go_on(self, *parts: bytes) -> None:
        self.rest = list(parts)
        self._go.set()


class Stream:
    """A client in the middle of an answer."""

    def __init__(self, world: World, request: bytes) -> None:
        self._connection = socket.create_connection(("127.0.0.1", world.port), 20)
        self._connection.sendall(request)
        self.file = self._connection.makefile("rb")

    def until(self, text: bytes) -> bytes:
        found = b""
        while text not in found:
            part = self.file.read1(65536)
            assert part, found
            found += part
        return found

    def rest(self) -> tuple[bytes, bool]:
        """What comes, and whether the end was a reset."""
        found = b""
        try:
            while part := self.file.read1(65536):
                found += part
        except ConnectionResetError:
            return found, True
        return found, False

    def close(self) -> None:
        self.file.close()
        self._connection.close()


def test_the_first_byte_is_passed_on_at_once_and_commits(world: World) -> None:
    """It is in the ledger by then; the rest comes when it comes."""
    tap = world.upstream.answer = Tap()
    stream = Stream(world, world.head("GET", "/http/led/x/y"))
    said = stream.until(b"first")
    call = next(line.partition(b": ")[2].decode() for line in said.split(b"\r\n") if line.startswith(b"Outrider-Call"))
    assert "attempt.committed" in [record["type"] for record in world.records(call)]
    tap.go_on(b"4\r\nlast\r\n", b"0\r\n\r\n")
    assert stream.until(b"0\r\n\r\n").startswith(b"4\r\nlast")
    stream.close()
    assert eventually(lambda: world.records(call)[-1]["type"] == "call.finished")
    assert world.records(call)[-1]["result"]["bytes"] == 9


@pytest.mark.parametrize(
    "head",
    [
        CHUNKED + b"5\r\nfirst\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nfirst",
        b"HTTP/1.0 200 OK\r\n\r\nfirst",
    ],
)
def test_a_kill_in_the_middle_is_no_end(world: World, head: bytes) -> None:
    """The client is reset, whatever was to tell the end, and the receipt says unknown."""
    tap = world.upstream.answer = Tap(head)
    for request in (
        world.head("POST", "/http/led/x/y"),
        world.head("GET", "/http/led/x/y").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        stream = Stream(world, request)
        stream.until(b"first")
        status, receipt = world.gateway.control("POST", "/v1/kills", {"scope": "upstream:led", "reason": "a test"})
        assert status in {200, 201} and receipt["counts"]["unknown"] == 1, receipt
        rest, was_reset = stream.rest()
        assert was_reset and not rest.endswith(b"0\r\n\r\n")
        stream.close()
        world.gateway.control("DELETE", f"/v1/kills/{receipt['id']}", {"reason": "over"})
    tap.go_on()


@pytest.mark.parametrize("end", [b"", b"garbage\r\n"])
def test_an_answer_that_breaks_is_broken_for_the_client_too(world: World, end: bytes) -> None:
    """Once a part was passed on there is no other attempt, of a read neither."""

    def answering(seen: Seen) -> Iterator[bytes]:
        seen.lines.append(b"X-Then: close")
        yield CHUNKED + b"5\r\nfirst\r\n"
        time.sleep(0.2)
        yield end

    world.upstream.answer = answering
    reply = world.ask("GET", "/http/led/x/y")
    assert (reply.status, reply.whole) == (200, False) and len(world.upstream.seen) == 1


def test_only_silence_ends_a_stream(world: World) -> None:
    """Longer than the per-try timeout, in steps shorter than the idle timeout; then silence, and it is broken off."""

    def answering(seen: Seen) -> Iterator[bytes]:
        yield CHUNKED
        for _ in range(8):
            yield b"1\r\nx\r\n"
            time.sleep(0.3)
        time.sleep(5)

    world.upstream.answer = answering
    began = time.monotonic()
    reply = ask(world.port, world.head("GET", "/http/led/x/y", "Gateway-Timeout-Ms: 15000"))
    assert not reply.whole and reply.body == b"x" * 8 and 2.4 < time.monotonic() - began < 10


def test_a_client_that_leaves_cancels_a_read_and_lets_an_effect_end(world: World) -> None:
    """How the effect ended is known; the upstream of the read is left at once."""
    for method, expected in (("GET", "cancelled"), ("POST", None)):
        tap = world.upstream.answer = Tap()
        stream = Stream(world, world.head(method, "/http/led/x/y"))
        stream.until(b"first")
        call = world.upstream.seen[-1].header("outrider-call")[0]
        stream.close()
        time.sleep(0.3)
        tap.go_on(b"4\r\nlast\r\n", b"0\r\n\r\n")
        assert eventually(lambda call=call: world.records(call)[-1]["type"] == "call.finished")  # type: ignore[misc]
        end = world.records(call)[-1]
        assert end.get("code") == expected and end["outcome"] == ("unknown" if expected else "ok")


def test_a_client_that_leaves_in_the_middle_of_its_body_has_sent_no_whole_request(world: World) -> None:
    """The upstream's connection is broken too, so it cannot take the part for the whole; what it did is unknown."""
    with socket.create_connection(("127.0.0.1", world.port), 10) as connection:
        connection.sendall(
            world.head("POST", "/http/led/x/y", "Content-Length: 1000000", "Outrider-Agent: leaver") + b"x" * 500_000
        )
        time.sleep(0.3)
    assert eventually(lambda: world.upstream.broken == 1)

    def ends() -> list[str]:
        _, found = world.gateway.control("GET", "/v1/ledger?agent=leaver&type=call.finished")
        return [record["outcome"] for record in found["records"]]

    assert eventually(lambda: ends() == ["unknown"])
    assert world.upstream.seen == []


def test_a_slow_reader_holds_up_the_upstream(world: World, tmp_path: Path) -> None:
    """Nothing is piled up here: the upstream cannot send more than buffers hold while nobody reads."""
    sent = 0

    def answering(seen: Seen) -> Iterator[bytes]:
        nonlocal sent
        part = b"x" * 100_000
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"
        for _ in range(1000):
            yield part
            sent += len(part)

    world.upstream.answer = answering
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", world.port))
        connection.sendall(world.head("GET", "/http/led/x/y"))
        connection.recv(1000)
        time.sleep(0.4)
        assert sent < 30_000_000

"""The scripted upstream against raw sockets: what it does is seen byte by byte, what it counts is what was sent."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from outrider.testing.script import (
    close,
    drip,
    garbage,
    hang,
    hold,
    huge,
    refuse,
    reset,
    reset_after_headers,
    respond,
    stale,
    truncate,
    unavailable,
)
from outrider.testing.upstream import ScriptedUpstream, main
from outrider.testing.upstream_process import UpstreamProcess

pytestmark = pytest.mark.timeout(30)
GET = b"GET /x HTTP/1.1\r\nHost: u\r\n\r\n"


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as made:
        yield made


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, upstream: ScriptedUpstream) -> Client:
        return cls(*await asyncio.open_connection(upstream.host, upstream.port))

    async def send(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """One request; status, headers and body of its answer. Raises what the socket raises."""
        self.writer.write(raw)
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, body

    def close(self) -> None:
        self.writer.close()


async def ask(upstream: ScriptedUpstream, raw: bytes = GET) -> tuple[int, dict[str, str], bytes]:
    client = await Client.to(upstream)
    try:
        return await client.send(raw)
    finally:
        client.close()


async def test_an_answer_is_as_scripted(upstream: ScriptedUpstream) -> None:
    """Status, headers and JSON."""
    upstream.script("/x", respond(201, json={"a": 1}, headers={"X-Made": "yes"}))
    status, headers, body = await ask(upstream)
    assert (status, headers["x-made"], headers["content-type"], json.loads(body)) == (
        201,
        "yes",
        "application/json",
        {"a": 1},
    )


async def test_retry_after_is_sent(upstream: ScriptedUpstream) -> None:
    """503 with the header, then whatever follows."""
    upstream.script("/x", unavailable(retry_after_s=7), respond())
    status, headers, _ = await ask(upstream)
    assert (status, headers["retry-after"]) == (503, "7")
    assert (await ask(upstream))[0] == 200


async def test_echo_shows_the_request(upstream: ScriptedUpstream) -> None:
    """Method, path, query, headers and body, also of a chunked one."""
    chunked = (
        b"PUT /a%20b?q=1&r= HTTP/1.1\r\nHost: u\r\nX-A: 1\r\nX-A: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    )
    shown = json.loads((await ask(upstream, chunked))[2])
    assert (shown["method"], shown["path"], shown["query"]) == ("PUT", "/a%20b", {"q": "1", "r": ""})
    assert (shown["headers"]["x-a"], shown["body"]) == ("1, 2", "abcde")


async def test_every_request_on_the_wire_is_counted(upstream: ScriptedUpstream) -> None:
    """With body, headers, order, connection and time; several on one connection."""
    client = await Client.to(upstream)
    for number in (1, 2):
        await client.send(b"POST /pay?n=%d HTTP/1.1\r\nContent-Length: 7\r\n\r\n" % number + b'{"n":%d}' % number)
    await ask(upstream)
    client.close()
    first, second = upstream.received("/pay")
    assert (first.json(), second.json()) == ({"n": 1}, {"n": 2})
    assert (first.n, second.n, first.connection, second.connection) == (1, 2, 1, 1)
    assert first.query == {"n": "1"}
    assert 0 <= first.at_s <= second.at_s
    assert (upstream.count(), upstream.count("/p*"), upstream.count("/x"), upstream.connections) == (3, 2, 1, 2)
    upstream.clear()
    assert upstream.count() == 0


async def test_latency_comes_before_the_answer(upstream: ScriptedUpstream) -> None:
    """And a client that leaves meanwhile is noticed."""
    upstream.script("/x", respond().after(0.05), respond().after(60))
    began = asyncio.get_running_loop().time()
    await ask(upstream)
    assert asyncio.get_running_loop().time() - began >= 0.045
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ask(upstream)
    async with asyncio.timeout(5):
        while upstream.requests[-1].left_after_s is None:
            await asyncio.sleep(0.001)


async def test_a_hang_lasts_until_the_client_leaves(upstream: ScriptedUpstream) -> None:
    """Or for as long as it was told, and then the connection closes unanswered."""
    upstream.script("/x", hang(), hang(0.01))
    client = await Client.to(upstream)
    client.writer.write(GET)
    (request,) = await upstream.wait_for(1)
    assert request.left_after_s is None
    client.close()
    async with asyncio.timeout(5):
        while request.left_after_s is None:
            await asyncio.sleep(0.001)
    with pytest.raises(asyncio.IncompleteReadError):
        await ask(upstream)


async def test_held_requests_are_in_flight_until_released(upstream: ScriptedUpstream) -> None:
    """All at once; the next one holds again."""
    upstream.script("/x", hold(json="free"))
    asked = [asyncio.create_task(ask(upstream)) for _ in range(50)]
    await upstream.wait_for(50)
    assert not any(task.done() for task in asked)
    upstream.release()
    assert [status for status, _, _ in await asyncio.gather(*asked)] == [200] * 50
    again = asyncio.create_task(ask(upstream))
    await upstream.wait_for(51)
    assert not again.done()
    upstream.release()
    assert (await again)[2] == b'"free"'


async def test_a_reset_is_a_reset(upstream: ScriptedUpstream) -> None:
    """TCP RST, not an orderly end, and no byte before it."""
    upstream.script("/x", reset())
    with pytest.raises(ConnectionResetError):
        await ask(upstream)


async def test_a_reset_after_the_headers_comes_after_them(upstream: ScriptedUpstream) -> None:
    """The client has the head and part of the body, then RST."""
    upstream.script("/x", reset_after_headers(b'{"half": ', sent=4))
    client = await Client.to(upstream)
    client.writer.write(GET)
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"Content-Length: 10" in head
    with pytest.raises(ConnectionResetError):
        while await client.reader.read(100):
            pass
    client.close()


async def test_a_truncated_body_ends_in_good_order(upstream: ScriptedUpstream) -> None:
    """Fewer bytes than announced, then FIN."""
    upstream.script("/x", truncate(b"0123456789", sent=4))
    with pytest.raises(asyncio.IncompleteReadError) as cut:
        await ask(upstream)
    assert cut.value.partial == b"0123"


async def test_a_drip_is_slow_and_whole(upstream: ScriptedUpstream) -> None:
    """Each chunk after its pause."""
    upstream.script("/x", drip(b"0123456789", every_s=0.01, chunk=2))
    began = asyncio.get_running_loop().time()
    assert (await ask(upstream))[2] == b"0123456789"
    assert asyncio.get_running_loop().time() - began >= 0.045


async def test_garbage_is_no_http(upstream: ScriptedUpstream) -> None:
    """Its bytes as they are, then the end."""
    upstream.script("/x", garbage("SSH-2.0-nope\r\n"))
    client = await Client.to(upstream)
    client.writer.write(GET)
    assert await client.reader.read() == b"SSH-2.0-nope\r\n"
    client.close()


async def test_a_huge_body_has_its_size_and_is_json(upstream: ScriptedUpstream) -> None:
    """Five million bytes of one JSON string."""
    upstream.script("/x", huge(5_000_000))
    _, headers, body = await ask(upstream)
    assert (headers["content-length"], len(body), len(json.loads(body))) == ("5000000", 5_000_000, 4_999_998)


async def test_a_close_gives_no_answer(upstream: ScriptedUpstream) -> None:
    """An orderly end without a byte."""
    upstream.script("/x", close())
    with pytest.raises(asyncio.IncompleteReadError) as cut:
        await ask(upstream)
    assert cut.value.partial == b""


async def test_a_stale_connection_dies_with_the_next_request(upstream: ScriptedUpstream) -> None:
    """Answered and kept alive; the second request on it is received, counted and not answered."""
    upstream.script("/x", stale(json=1), respond(json=2))
    client = await Client.to(upstream)
    assert (await client.send(GET))[2] == b"1"
    with pytest.raises(asyncio.IncompleteReadError):
        await client.send(GET)
    client.close()
    assert [request.step for request in upstream.requests] == ["stale", "close"]
    assert (await ask(upstream))[2] == b"2"


async def test_a_connection_can_close_after_an_answer_that_said_keep_alive(upstream: ScriptedUpstream) -> None:
    """A pool finds it dead."""
    upstream.script("/x", respond(json=1, then_close=True))
    client = await Client.to(upstream)
    _, headers, _ = await client.send(GET)
    assert "connection" not in headers
    assert await client.reader.read() == b""
    client.close()


async def test_a_port_refuses_and_opens_again(upstream: ScriptedUpstream) -> None:
    """Open connections are reset, new ones refused, and the port is the same afterwards."""
    idle = await Client.to(upstream)
    await idle.send(GET)
    port = upstream.port
    upstream.refuse()
    with pytest.raises(ConnectionResetError):
        await idle.reader.read()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await Client.to(upstream)
    await upstream.accept()
    await upstream.accept()
    assert upstream.port == port
    assert (await ask(upstream))[0] == 200
    upstream.refuse()
    upstream.refuse(0.01)
    async with asyncio.timeout(5):
        while True:
            try:
                assert (await ask(upstream))[0] == 200
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.005)


async def test_a_step_can_close_the_port(upstream: ScriptedUpstream) -> None:
    """The request that met it is reset; later ones are refused."""
    upstream.script("/x", refuse())
    with pytest.raises(ConnectionResetError):
        await ask(upstream)
    with pytest.raises(ConnectionRefusedError):
        await ask(upstream)
    assert upstream.count() == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    ],
    ids=["tls", "http09", "header", "length", "chunk", "too large", "long head"],
)
async def test_what_is_no_request_is_answered_with_400_and_not_counted(upstream: ScriptedUpstream, raw: bytes) -> None:
    """A client that speaks nonsense learns it."""
    client = await Client.to(upstream)
    client.writer.write(raw)
    assert (await client.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400")
    client.close()
    assert upstream.count() == 0


async def test_half_a_request_is_counted_as_not_whole(upstream: ScriptedUpstream) -> None:
    """Its head came, its body did not: the client left."""
    client = await Client.to(upstream)
    client.writer.write(b"POST /x HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
    client.writer.write_eof()
    (request,) = await upstream.wait_for(1)
    assert (request.whole, request.body) == (False, b"half")
    client.close()


async def test_expect_100_head_and_http_10(upstream: ScriptedUpstream) -> None:
    """What ordinary clients send besides."""
    client = await Client.to(upstream)
    client.writer.write(b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    client.writer.write(b"hi")
    assert (await client.answer())[0] == 200
    client.close()
    upstream.script("/x", respond(json=1))
    client = await Client.to(upstream)
    client.writer.write(b"HEAD /x HTTP/1.0\r\n\r\n")
    assert (await client.reader.read()).endswith(b"\r\n\r\n")
    client.close()


async def test_waiting_in_vain_says_what_came(upstream: ScriptedUpstream) -> None:
    """A bound and a sentence."""
    await ask(upstream)
    with pytest.raises(TimeoutError, match="1 of 2 requests to /x came in"):
        await upstream.wait_for(2, "/x", timeout_s=0.01)


async def test_two_hundred_at_once(upstream: ScriptedUpstream) -> None:
    """No connection is lost under a burst."""
    answers = await asyncio.gather(*(ask(upstream) for _ in range(200)))
    assert [status for status, _, _ in answers] == [200] * 200
    assert upstream.count() == 200


async def test_stopping_ends_everything() -> None:
    """Requests under way are reset, ports closed, no task is left."""
    async with asyncio.timeout(10):
        before = asyncio.all_tasks()
        async with ScriptedUpstream({"*": hang()}) as upstream:
            pending = asyncio.create_task(ask(upstream))
            await upstream.wait_for(1)
        with pytest.raises(ConnectionResetError):
            await pending
        with pytest.raises(ConnectionRefusedError):
            await ask(upstream)
        assert asyncio.all_tasks() == before


def raw_get(upstream: UpstreamProcess, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=10) as sock:
        sock.sendall(f"POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi".encode())
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_the_same_as_a_process() -> None:
    """Started with a script, driven over its control path, counted over the wire, back on the same port."""
    with UpstreamProcess({"/x": [unavailable(1), respond(json="ok")]}) as upstream:
        assert raw_get(upstream, "/x").startswith(b"HTTP/1.1 503")
        assert raw_get(upstream, "/x").endswith(b'"ok"')
        assert (upstream.count(), upstream.count("/x"), upstream.count("/y")) == (2, 2, 0)
        first = upstream.requests("/x")[0]
        assert (first.method, first.body, first.headers["content-length"], first.step) == (
            "POST",
            b"hi",
            "2",
            "respond",
        )
        upstream.script("/y", respond(418), reset())
        assert b" 418 " in raw_get(upstream, "/y")
        with pytest.raises(ConnectionResetError):
            raw_get(upstream, "/y")
        assert len(upstream.wait_for(2, "/y")) == 2
        with pytest.raises(TimeoutError, match="0 of 1 requests to /z"):
            upstream.wait_for(1, "/z", timeout_s=0.01)
        upstream.replace_script({"*": respond(json=7)})
        assert raw_get(upstream, "/y").endswith(b"7")
        upstream.refuse()
        with pytest.raises(ConnectionRefusedError):
            raw_get(upstream, "/y")
        upstream.accept()
        assert raw_get(upstream, "/y").endswith(b"7")
        upstream.clear()
        assert upstream.count() == 0
        assert upstream.connections() == 6
        port = upstream.port
        upstream.stop()
        upstream.start()
        assert upstream.port == port
        assert raw_get(upstream, "/x").startswith(b"HTTP/1.1 503")


async def test_control_paths_refuse_what_they_do_not_know(upstream: ScriptedUpstream) -> None:
    """With a sentence, and uncounted."""
    status, _, body = await ask(upstream, b"GET /__nothing__ HTTP/1.1\r\n\r\n")
    assert (status, json.loads(body)["error"]) == (404, "no GET /__nothing__")
    for content in (b'{"/x": {"do": "explode"}}', b"[]", b"nonsense"):
        raw = b"POST /__script__ HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        assert (await ask(upstream, raw))[0] == 400
    assert upstream.count() == 0


def test_a_script_file_that_cannot_be_read_is_told(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a sentence."""
    with pytest.raises(SystemExit) as ended:
        main(["--script", f"{tmp_path}/missing.json"])
    assert ended.value.code == 2
    assert "missing.json" in capsys.readouterr().err

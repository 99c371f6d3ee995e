"""HTTP/1.1 on the wire: what ends an answer, what is no answer, when a connection may be used again."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from outrider.upstreams import http1
from outrider.upstreams.http1 import MAX_HEAD_BYTES, Answer, Origin
from outrider.upstreams.unpack import BITE_BYTES, MAX_PARTS, TooLarge, Unreadable, unpack
from tests.support.certificates import certificate

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Server:
    """Answers each request with the next of its scripted bytes; ``None`` closes. Counts connections and requests."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while self.answers:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), 0)
            self.requests.append(head + await reader.readexactly(length))
            answer = self.answers.pop(0)
            if answer is None:
                break
            writer.write(answer)
            if b"Content-Length" not in answer and b"chunked" not in answer and b" 204 " not in answer:
                break
        writer.close()


@asynccontextmanager
async def served(*answers: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(*answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


@asynccontextmanager
async def origin_of(server: Server) -> AsyncIterator[Origin]:
    origin = Origin(f"http://127.0.0.1:{server.port}/base", None, use_env_proxy=False)
    try:
        yield origin
    finally:
        origin.close()


async def ask(origin: Origin, method: str = "GET", limit: int = 1000, on_send: Callable[[], None] = int) -> Answer:  # type: ignore[assignment]
    request = origin.request(method, "/x", {}, None)
    return await asyncio.wait_for(
        origin.exchange(request, head_only=method == "HEAD", limit=limit, connect_s=2.0, on_send=on_send), 5.0
    )


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (OK, 200, b"hi"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\n yo\r\n0\r\n\r\n", 200, b"hi yo"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", 200, b"old"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, 200, b"hi"),
    ],
)
async def test_the_end_of_an_answer_is_found(answer: bytes, status: int, body: bytes) -> None:
    """By length, by chunks, by the close; interim answers are not the answer (RFC 9112, section 6.3)."""
    async with served(answer) as server, origin_of(server) as origin:
        found = await ask(origin)
        assert (found.status, found.body) == (status, body)
        assert "link" not in found.headers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhi",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (MAX_HEAD_BYTES + 1) + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
async def test_what_is_no_whole_answer_is_unreadable(answer: bytes) -> None:
    """Truncated, not HTTP, of two lengths (request smuggling's other half), too many headers, packed wrongly."""
    async with served(answer) as server, origin_of(server) as origin:
        with pytest.raises(Unreadable):
            await ask(origin)
        assert not origin._idle or b"Encoding: " in answer, "and its connection is not used again"


async def test_no_answer_at_all_is_a_broken_connection() -> None:
    """Known as such, because the request had left."""
    sent: list[bool] = []
    async with served(None) as server, origin_of(server) as origin:
        with pytest.raises(OSError, match="without an answer"):
            await ask(origin, on_send=lambda: sent.append(True))
    assert sent == [True]


async def test_the_moment_of_sending_comes_before_the_first_byte_and_after_the_connection() -> None:
    """What it was not called for was not sent."""
    sent: list[bool] = []
    async with served() as server, origin_of(server) as origin:
        port = server.port
    origin = Origin(f"http://127.0.0.1:{port}", None, use_env_proxy=False)
    with pytest.raises(OSError):
        await ask(origin, on_send=lambda: sent.append(True))
    assert not sent


async def test_a_connection_is_used_again_when_nothing_is_left_on_it() -> None:
    """Three requests, one connection."""
    async with served(OK, OK, OK) as server, origin_of(server) as origin:
        for _ in range(3):
            assert (await ask(origin)).body == b"hi"
        assert (server.connections, len(server.requests)) == (1, 3)


@pytest.mark.parametrize(
    "answer",
    [
        OK + OK,  # two answers to one request
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
async def test_a_connection_is_not_used_again_when_it_may_hold_more_than_its_answer(answer: bytes) -> None:
    """The next caller would read what was meant for somebody else."""
    async with served(answer, OK) as server, origin_of(server) as origin:
        await ask(origin)
        await asyncio.sleep(0.05)
        server.answers[:] = [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew"]
        assert (await ask(origin)).body == b"new"
        assert server.connections == 2


async def test_what_comes_unasked_on_a_kept_connection_closes_it() -> None:
    """It is nobody's answer."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        writers.append(writer)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    origin = Origin(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", None, use_env_proxy=False)
    await ask(origin)
    writers[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    await asyncio.sleep(0.05)
    assert (await ask(origin)).body == b"hi" and len(writers) == 2
    origin.close()
    listener.close()


async def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server may be closing it in this moment; and idle ones do not pile up."""
    async with served(OK, OK) as server, origin_of(server) as origin:
        monkeypatch.setattr(http1, "KEEPALIVE_S", 0.05)
        await ask(origin)
        await asyncio.sleep(0.2)
        assert origin._idle == []
        await ask(origin)
        assert server.connections == 2


async def test_a_cancelled_exchange_closes_its_connection() -> None:
    """A kill or a timeout: the answer that comes later must meet nobody."""
    async with served(OK) as server, origin_of(server) as origin:
        server.answers[:] = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", OK]
        task = asyncio.ensure_future(ask(origin))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not origin._idle and not origin._busy


async def test_an_exchange_cancelled_in_the_moment_of_its_answer_leaves_no_connection_behind() -> None:
    """The answer is whole and nobody took it: neither kept nor under way, the connection would be nobody's to close."""
    async with served(OK, OK) as server, origin_of(server) as origin:
        task: asyncio.Task[Answer] = asyncio.ensure_future(
            origin.exchange(
                origin.request("GET", "/x", {}, None), head_only=False, limit=9, connect_s=2, on_send=lambda: None
            )
        )
        while not origin._busy:
            await asyncio.sleep(0)
        (connection,) = origin._busy
        while connection._waiter is None:
            await asyncio.sleep(0)
        finish = connection._finish

        def finish_and_cancel() -> None:
            finish()
            task.cancel()

        connection._finish = finish_and_cancel  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connection.transport is not None and connection.transport.is_closing()


HEAD_OF_AN_ANSWER_THAT_A_CLOSE_ENDS = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nthe first half"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("orderly", [True, False])
def test_over_tls_only_an_orderly_close_ends_an_answer(tmp_path: Path, loop: str, orderly: bool) -> None:
    """Anybody on the way can end a TCP connection; what was cut off there is not an answer."""
    files = certificate(tmp_path, "server")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=files.ca)
    server.load_cert_chain(files.cert, files.key)

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with server.wrap_socket(peer, server_side=True) as tls:
            tls.recv(4096)
            tls.sendall(HEAD_OF_AN_ANSWER_THAT_A_CLOSE_ENDS)
            (tls.unwrap() if orderly else tls).shutdown(socket.SHUT_WR)

    async def asked(port: int) -> bytes:
        origin = Origin(f"https://127.0.0.1:{port}", client, use_env_proxy=False)
        return (await ask(origin)).body

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
            if orderly:
                assert runner.run(asked(listener.getsockname()[1])) == b"the first half"
            else:
                with pytest.raises(Unreadable, match="middle of its answer"):
                    runner.run(asked(listener.getsockname()[1]))
        thread.join(10)


async def test_a_close_of_ours_does_not_end_an_answer() -> None:
    """The driver is closed while an answer comes that only its server's close would end."""
    served_half = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD_OF_AN_ANSWER_THAT_A_CLOSE_ENDS)
        served_half.set()
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    origin = Origin(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", None, use_env_proxy=False)
    task = asyncio.ensure_future(ask(origin))
    await served_half.wait()
    while not next(iter(origin._busy))._in_body:
        await asyncio.sleep(0)
    origin.close()
    with pytest.raises(Unreadable, match="middle of its answer"):
        await task
    listener.close()


async def test_trailers_without_end_are_cut_off_while_they_come() -> None:
    """Not once they are whole: that may be never."""
    sent = 0
    cut = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: ")
        with contextlib.suppress(OSError):
            while sent < 512 * MAX_HEAD_BYTES:
                writer.write(b"a" * MAX_HEAD_BYTES)
                await writer.drain()
                sent += MAX_HEAD_BYTES
        cut.set()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    origin = Origin(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", None, use_env_proxy=False)
    with pytest.raises(Unreadable, match="longer than"):
        await ask(origin)
    await asyncio.wait_for(cut.wait(), 10)
    assert sent < 512 * MAX_HEAD_BYTES
    origin.close()
    listener.close()


async def test_what_came_unasked_while_the_loop_was_busy_is_nobodys_answer_either() -> None:
    """It waits in the socket when the connection is taken for the next request."""
    writers: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                writers.append(peer)
                peer.recv(4096)
                peer.sendall(OK)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        origin = Origin(f"http://127.0.0.1:{listener.getsockname()[1]}", None, use_env_proxy=False)
        await ask(origin)
        writers[0].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        assert (await ask(origin)).body == b"hi" and len(writers) == 2
        origin.close()
        listener.shutdown(socket.SHUT_RDWR)


async def test_the_answer_to_head_has_no_body() -> None:
    """Whatever its length says."""
    async with served(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n") as server, origin_of(server) as origin:
        assert (await ask(origin, "HEAD")).body == b""


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X": "a\nb"}, {"X\r\nY": "b"}, {"X": "a\0"}, {"X": "\ud800"}])
def test_a_header_that_would_be_two_is_refused(headers: dict[str, str]) -> None:
    """And nothing else that ends a line where it must not."""
    origin = Origin("http://127.0.0.1:1", None, use_env_proxy=False)
    with pytest.raises(ValueError):
        origin.request("GET", "/x", headers, None)


@pytest.mark.parametrize("path", ["/a b", "/a\r\nHost: evil", "/a HTTP/1.1\r\n\r\nGET /b"])
def test_a_path_that_would_be_another_request_is_refused(path: str) -> None:
    """Templates encode what they put in; this is the second lock."""
    with pytest.raises(ValueError):
        Origin("http://127.0.0.1:1", None, use_env_proxy=False).request("GET", path, {}, None)


def test_where_a_request_ends_is_said_by_us_alone() -> None:
    """A policy's own Content-Length or Transfer-Encoding would let one request be read as two."""
    origin = Origin("http://user:pass@example.test:8080/api/", None, use_env_proxy=False)
    headers = {"content-length": "1", "Transfer-Encoding": "chunked", "Connection": "upgrade", "Host": "other"}
    assert origin.request("POST", "/x?y=1", headers, b"{}").split(b"\r\n") == [
        b"POST /api/x?y=1 HTTP/1.1",
        b"Accept: */*",
        b"Accept-Encoding: gzip, deflate",
        b"Authorization: Basic dXNlcjpwYXNz",
        b"Host: other",
        b"Content-Length: 2",
        b"",
        b"{}",
    ]


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "bare deflate", "two members", "identity"])
async def test_a_packed_answer_is_unpacked(encoding: str) -> None:
    """As asked for, and in the ways that servers mean it."""
    bare = zlib.compressobj(wbits=-15)
    packed = {
        "deflate": zlib.compress(b"hello"),
        "bare deflate": bare.compress(b"hello") + bare.flush(),
        "two members": gzip.compress(b"hel") + gzip.compress(b"lo"),
        "identity": b"hello",
    }.get(encoding, gzip.compress(b"hello"))
    name = {"bare deflate": "deflate", "two members": "gzip"}.get(encoding, encoding)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {name}\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    async with served(head + packed) as server, origin_of(server) as origin:
        assert (await ask(origin)).body == b"hello"


def test_an_answer_packed_in_very_many_parts_is_refused() -> None:
    """Unpacking costs for each part, also for an empty one: a small answer could hold up the loop for minutes."""
    assert unpack(gzip.compress(b"a") * MAX_PARTS, "gzip", 2 * MAX_PARTS) == b"a" * MAX_PARTS
    with pytest.raises(Unreadable, match="parts"):
        unpack(gzip.compress(b"") * (MAX_PARTS + 1), "gzip", 1000)


def test_an_answer_larger_than_one_bite_is_unpacked_whole() -> None:
    """However its parts lie in it; one that ends too early is not."""
    noise = os.urandom(3 * BITE_BYTES)
    parts = gzip.compress(noise) + gzip.compress(b"") + gzip.compress(noise[:BITE_BYTES]) + gzip.compress(b"end")
    assert unpack(parts, "gzip", len(parts)) == noise + noise[:BITE_BYTES] + b"end"
    with pytest.raises(Unreadable, match="too early"):
        unpack(parts[:-1], "gzip", len(parts))


@pytest.mark.parametrize("packed", [b"x" * 1001, gzip.compress(b"x" * 1001)])
async def test_the_limit_counts_what_it_unpacks_to(packed: bytes) -> None:
    """A bomb is cut off, one byte over is too."""
    coding = b"" if packed[0] == ord("x") else b"Content-Encoding: gzip\r\n"
    head = b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (coding, len(packed))
    async with served(head + packed + b"\r\n0\r\n\r\n") as server, origin_of(server) as origin:
        with pytest.raises(TooLarge, match="larger than 1000 bytes"):
            await ask(origin)


async def test_https_through_a_proxy_is_a_tunnel_with_tls_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy sees where to, not what; its refusal means that nothing was sent."""
    paths = certificate(tmp_path, "there")
    there = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    there.load_cert_chain(paths.cert, paths.key)
    trust = ssl.create_default_context(cafile=str(paths.ca))
    asked: list[bytes] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if len(asked) > 1:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    proxy_port = listener.sockets[0].getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy_port}")
    monkeypatch.setenv("no_proxy", "")
    async with served(OK, tls=there) as server:
        url = f"https://localhost:{server.port}"
        origin = Origin(url, trust, use_env_proxy=True)
        assert (await ask(origin)).body == b"hi"
        assert asked[0].startswith(b"CONNECT localhost:%d HTTP/1.1\r\n" % server.port)
        assert b"Proxy-Authorization: Basic bWU6c2VjcmV0" in asked[0]
        assert b"secret" not in server.requests[0] and b"Proxy" not in server.requests[0]
        origin.close()
        refused = Origin(url, trust, use_env_proxy=True)
        sent: list[bool] = []
        with pytest.raises(OSError, match="the proxy answered 403"):
            await ask(refused, on_send=lambda: sent.append(True))
        assert not sent
    listener.close()

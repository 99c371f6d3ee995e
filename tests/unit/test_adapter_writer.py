"""The channel's writer: frames as RFC 6455 wants them, whole and in order, from whatever thread, however slowly they
are read."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_adapters import process
from outrider_adapters.governed import governed
from outrider_adapters.writer import PING, TEXT, DirectWriter, frame
from tests.support.certificates import certificate
from tests.support.gateway_server import TOKEN, GatewayServer


def unframed(data: bytes) -> list[tuple[int, bytes]]:
    """What a server reads: opcode and payload of each frame. Written after the RFC, not after the writer."""
    found = []
    while data:
        assert data[0] & 0x80, "every frame is whole"
        assert data[1] & 0x80, "a client's frame is masked"
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + wide], "big"), 2 + wide
        mask, payload = data[at : at + 4], data[at + 4 : at + 4 + size]
        assert len(payload) == size
        found.append((data[0] & 0x0F, bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))))
        data = data[at + 4 + size :]
    return found


@given(st.binary(max_size=300) | st.integers(0, 3).map(lambda more: b"x" * (65_533 + more)))
def test_a_frame_is_masked_and_carries_its_length(payload: bytes) -> None:
    """All three forms of the length."""
    assert unframed(frame(TEXT, payload)) == [(1, payload)]
    assert unframed(frame(PING, b"hi")) == [(9, b"hi")]


class Narrow:
    """A socket whose buffer is nearly always full."""

    def __init__(self, appetite: list[int]) -> None:
        self.taken = bytearray()
        self.appetite = appetite
        self.closed = False

    def send(self, data: bytes) -> int:
        room = self.appetite.pop(0) if self.appetite else len(data)
        if room < 0:
            raise BrokenPipeError
        if room == 0:
            raise BlockingIOError
        taken = data[:room]
        self.taken += taken
        return len(taken)

    def fileno(self) -> int:
        return 7

    def close(self) -> None:
        self.closed = True


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=20), st.lists(st.integers(0, 90)))
def test_frames_arrive_whole_and_in_order_however_little_the_socket_takes(
    payloads: list[bytes], appetite: list[int]
) -> None:
    """A frame taken in part is finished before the next begins; the loop is asked once for each time it is full."""
    raw = Narrow(list(appetite))
    asked: list[int] = []
    writer = DirectWriter(raw, asked.append)  # type: ignore[arg-type]
    for payload in payloads:
        writer.put(payload)
        writer.flush()
    while not writer.empty:
        assert asked, "it is full, and nobody was asked to watch it"
        asked.pop()
        writer.resume()
    assert [payload for _, payload in unframed(bytes(raw.taken))] == payloads


def test_urgent_frames_overtake_what_waits_and_never_cut_into_a_frame() -> None:
    """An abort's answer does not queue behind data."""
    raw = Narrow([5])
    writer = DirectWriter(raw, lambda fd: None)  # type: ignore[arg-type]
    for payload in (b"first", b"second", b"third"):
        writer.put(payload)
        writer.flush()
    writer.put(b"aborted", urgent=True)
    writer.flush()
    writer.resume()
    assert [payload for _, payload in unframed(bytes(raw.taken))] == [b"first", b"aborted", b"second", b"third"]


def test_a_broken_connection_ends_the_writing_and_marks_what_was_tried() -> None:
    """The reader sees the end too; a frame that was begun counts as sent, one that was not does not."""

    class Note:
        sent = False

    raw = Narrow([-1])
    writer = DirectWriter(raw, lambda fd: None)  # type: ignore[arg-type]
    tried, never = Note(), Note()
    writer.put(b"a", sending=tried)
    writer.put(b"b", sending=never)
    writer.flush()
    assert (tried.sent, never.sent, writer.empty) == (True, False, True)
    writer.drop()
    assert raw.closed


def test_many_threads_write_through_a_small_socket_and_nothing_is_lost_or_torn() -> None:
    """Whoever finds another one writing may leave: that one looks again."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    near.setblocking(False)
    full = threading.Event()
    writer = DirectWriter(near, lambda fd: full.set())
    received = bytearray()

    def read() -> None:
        while data := far.recv(1000):
            received.extend(data)

    def watch() -> None:
        while not over.is_set():
            if full.wait(0.01):
                full.clear()
                writer.resume()

    def write(number: int) -> None:
        for count in range(200):
            writer.put(f"{number}:{count}:{'x' * (count % 50)}".encode(), urgent=count % 7 == 0)
            writer.flush()

    over = threading.Event()
    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    helpers = [threading.Thread(target=read), threading.Thread(target=watch)]
    for thread in (*helpers, *threads):
        thread.start()
    for thread in threads:
        thread.join(20)
    deadline = threading.Event()
    while not writer.empty and not deadline.wait(0.005):
        pass
    over.set()
    helpers[1].join(10)
    near.shutdown(socket.SHUT_WR)
    helpers[0].join(10)
    texts = [payload.decode() for _, payload in unframed(bytes(received))]
    assert sorted(texts) == sorted(f"{n}:{c}:{'x' * (c % 50)}" for n in range(8) for c in range(200))
    near.close()
    far.close()


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    made = certificate(tmp_path, "gateway")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    with GatewayServer(tls=context) as server:
        monkeypatch.setenv("OUTRIDER_URL", server.url)
        monkeypatch.setenv("OUTRIDER_TOKEN", TOKEN)
        monkeypatch.setenv("OUTRIDER_CA_FILE", str(made.ca))
        yield server
        process.close(1.0)


def test_over_tls_with_a_private_ca_calls_pass_too(secure: GatewayServer) -> None:
    """There the loop writes; large frames and small ones."""

    @governed
    def measure(text: str) -> int:
        return len(text)

    assert secure.url.startswith("https://")
    assert [measure("x" * size) for size in (1, 200_000, 3)] == [1, 200_000, 3]

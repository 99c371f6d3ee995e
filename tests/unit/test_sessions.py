"""One connection's two lanes, and what a session keeps for a process that is away."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import WSMsgType

from outrider.calls import Agent
from outrider.identity.credential import shared
from outrider.sessions import BACKLOG_BYTES, FULL_BYTES, MAX_NAMES, RECENT_BYTES, Link, Session, session_id
from outrider.wire import Ack, Hello, encode_frame


class Socket:
    """A WebSocket, its flow control and its transport in one."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.room = asyncio.Event()
        self.gone = False
        self.buffered = 0
        self.aborted = 0
        self.fill(0)

    def fill(self, size: int) -> None:
        """The peer has not read so many bytes."""
        self.buffered = size
        (self.room.clear if size > FULL_BYTES else self.room.set)()

    async def send_frame(self, message: bytes, opcode: WSMsgType) -> None:
        assert opcode is WSMsgType.TEXT
        if self.gone:
            raise ConnectionResetError
        self.written.append(message)

    async def drain(self) -> None:
        await self.room.wait()
        if self.gone:
            raise ConnectionResetError

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == FULL_BYTES

    def abort(self) -> None:
        self.aborted += 1
        self.gone = True


def linked() -> tuple[Socket, Link]:
    socket = Socket()
    return socket, Link(socket, socket, socket)


def hello(key: str = "k" * 16) -> Hello:
    return Hello(1, "researcher", "langgraph", "i1", key)


async def test_frames_are_written_at_once_while_the_peer_reads() -> None:
    """No task, no turn of the loop."""
    socket, link = linked()
    assert link.urgent(b"abort")
    link.data(b"answer")
    assert socket.written == [b"abort", b"answer"]


async def test_urgent_frames_never_wait_behind_answers() -> None:
    """A peer that does not read: answers queue in order, aborts and acks go out."""
    socket, link = linked()
    socket.fill(FULL_BYTES + 1)
    link.data(b"one")
    link.data(b"two")
    assert link.urgent(b"abort") and link.urgent(b"ack")
    assert socket.written == [b"abort", b"ack"]
    socket.fill(0)
    await link.flush()
    assert socket.written == [b"abort", b"ack", b"one", b"two"]
    link.data(b"three")
    assert socket.written[-1] == b"three"


async def test_a_transport_that_says_room_and_has_none_is_looked_at_again() -> None:
    """TLS, and loops that write at the end of their turn: no busy loop, no lost answer."""
    socket, link = linked()
    socket.buffered = FULL_BYTES + 1
    link.data(b"one")
    await asyncio.sleep(0.02)
    assert socket.written == []
    socket.buffered = 0
    await link.flush()
    assert socket.written == [b"one"]


async def test_a_websocket_that_waits_is_a_bug_that_shows() -> None:
    """A frame that may be half sent must never count as not sent."""

    class Waiting(Socket):
        async def send_frame(self, message: bytes, opcode: WSMsgType) -> None:
            await asyncio.sleep(0)

    socket = Waiting()
    with pytest.raises(RuntimeError):
        Link(socket, socket, socket).urgent(b"execute")


async def test_an_answer_never_overtakes_an_earlier_one() -> None:
    """Room came back, but the queue is not empty yet."""
    socket, link = linked()
    socket.fill(FULL_BYTES + 1)
    link.data(b"one")
    socket.fill(0)
    link.data(b"two")
    await link.flush()
    assert socket.written == [b"one", b"two"]


async def test_a_peer_that_never_reads_is_cut_off() -> None:
    """Both lanes are bounded."""
    socket, link = linked()
    socket.fill(FULL_BYTES + 1)
    for _ in range(6):
        link.data(b"x" * (BACKLOG_BYTES // 4))
    assert socket.aborted == 1
    socket, link = linked()
    socket.fill(BACKLOG_BYTES + 1)
    assert not link.urgent(b"abort") and socket.aborted == 1


async def test_a_connection_that_is_gone_takes_nothing() -> None:
    """An execute that could not be handed over is known not to be sent."""
    socket, link = linked()
    socket.gone = True
    assert not link.urgent(b"execute")
    link.data(b"answer")
    assert socket.written == [] and link.undelivered() == [b"answer"]


async def test_a_connection_that_breaks_while_answers_queue_gives_them_back() -> None:
    """Nobody waits for ever, and nothing is lost on the way."""
    socket, link = linked()
    link.data(b"zero")
    socket.fill(FULL_BYTES + 1)
    link.data(b"one")
    link.data(b"two")
    socket.gone = True
    socket.fill(0)
    await link.flush()
    assert link.undelivered()[0] == b"zero" and b"two" in link.undelivered()


async def test_the_answers_written_most_recently_are_written_again() -> None:
    """Nobody acks an answer: those that may have been under way when the connection broke come again, within bounds."""
    socket, link = linked()
    for number in range(100):
        link.data(str(number).encode() * 10_000)
    kept = link.undelivered()
    assert kept[-1].startswith(b"99") and sum(map(len, kept)) <= RECENT_BYTES
    session = Session(hello(), shared())
    session.attach(link)
    session.detach()
    assert not session.idle
    socket, link = linked()
    session.attach(link)
    session.redeliver()
    assert socket.written == kept
    assert session.idle


async def test_answers_wait_for_a_process_that_is_away() -> None:
    """In order, up to a bound that is asked before."""
    session = Session(hello(), shared())
    assert not session.push(Ack("c", 1))
    assert session.has_room_for(b"x" * BACKLOG_BYTES) and not session.has_room_for(b"x" * (BACKLOG_BYTES + 1))
    session.deliver(b"one")
    session.deliver(b"two")
    assert not session.has_room_for(b"x" * BACKLOG_BYTES)
    socket, link = linked()
    session.attach(link)
    assert session.push(Ack("c", 1))
    session.redeliver()
    assert socket.written == [encode_frame(Ack("c", 1)), b"one", b"two"]
    session.redeliver()
    assert len(socket.written) == 3


def test_a_session_is_named_without_showing_its_key() -> None:
    """The same process has the same id after a restart of the sidecar; nobody learns the key from it."""
    key = "0123456789abcdef"
    assert Session(hello(key), shared()).id == Session(hello(key), shared()).id == session_id(key)
    assert key not in session_id(key) and session_id(key) != session_id(key + "0")


def test_a_process_may_hold_several_agents() -> None:
    """Each call's agent is its own; names do not pile up."""
    session = Session(hello(), shared())
    assert session.agent_named("") is session.agent is session.agent_named("researcher")
    assert session.agent_named("critic") == Agent("critic", "langgraph", instance="i1")
    assert session.agent_named("critic") is session.agent_named("critic")
    for number in range(MAX_NAMES * 3):
        assert session.agent_named(f"a{number}").name == f"a{number}"
    assert len(session._agents) <= MAX_NAMES

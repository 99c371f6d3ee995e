"""A channel session: one process of an agent, over as many connections as it takes.

    Link      one connection: writes frames, keeps aborts and acks from queueing behind data
    Session   what survives a broken connection: the calls under way by the adapter's own ref, and undelivered answers

Frames go out in two lanes. ``urgent`` (everything but answers: small, and in the order of the calls' own protocol) is
written at once. ``data`` (answers, up to a frame's size) waits while the peer does not read.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Protocol

from aiohttp import WSMsgType

from outrider.calls import Agent, Principal
from outrider.flight import Flight
from outrider.identity.credential import Credential
from outrider.wire import FromGateway, Hello, encode_frame

log = logging.getLogger("outrider.channel")

BACKLOG_BYTES = 4 * 1024 * 1024
"""The most that waits for one peer in either lane, and that is kept for one that is away."""
FULL_BYTES = 64 * 1024
"""With more than this not yet taken by the system, answers wait."""
LOOK_AGAIN_S = 0.005
"""For a transport that says it has room and has not: TLS, and a loop that writes at the end of its turn."""
NEVER_WAITS = sys.maxsize
"""``writer_limit`` of the WebSocket."""
RECENT_BYTES = 256 * 1024
"""Answers written most recently: nobody acks them, so they are written again after a reconnection. About what a
socket's buffers hold; an adapter ignores an answer that it has had."""
MAX_NAMES = 64
"""How many agents of one process are remembered as objects."""


class Socket(Protocol):
    """What a link needs of a WebSocket. Sending must never wait (``writer_limit=NEVER_WAITS``): the link does, where
    it should."""

    def send_frame(self, message: bytes, opcode: WSMsgType) -> Coroutine[object, object, None]: ...


class Drain(Protocol):
    """Waits while the peer does not read."""

    def drain(self) -> Coroutine[object, object, None]: ...


class Transport(Protocol):
    """The part of ``asyncio.Transport`` that is used."""

    def get_write_buffer_size(self) -> int: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def abort(self) -> None: ...


class Link:
    """One connection. Every method is called on the loop, and none waits but ``flush``."""

    def __init__(self, socket: Socket, drain: Drain, transport: Transport) -> None:
        self._socket = socket
        self._drain = drain
        self._transport = transport
        transport.set_write_buffer_limits(high=FULL_BYTES)  # so that "full" means one thing to it and to us
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._recent: deque[bytes] = deque()
        self._recent_bytes = 0
        self._pump: asyncio.Task[None] | None = None
        self._cut = False

    def urgent(self, data: bytes) -> bool:
        """Write now. False: the connection is gone, and nothing of it was written."""
        if self._transport.get_write_buffer_size() > BACKLOG_BYTES:
            self.cut("it reads nothing")
            return False
        return self._write(data)

    def data(self, data: bytes) -> None:
        """Write when there is room, in order."""
        if not self._queue and self._has_room():
            self._write_data(data)
            return
        self._queue.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > BACKLOG_BYTES:
            self.cut("it does not read its answers")
        elif self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._drain_queue())

    def undelivered(self) -> list[bytes]:
        """Answers that the peer may not have: those still queued, and those written most recently."""
        return [*self._recent, *self._queue]

    async def flush(self) -> None:
        """Wait until everything was handed to the system, or the connection is gone."""
        if self._pump is not None:
            await asyncio.wait({self._pump})

    def cut(self, why: str) -> None:
        """End a connection at once: its peer does not do its part, or has another one by now."""
        if not self._cut:
            self._cut = True
            log.warning("a channel's connection is cut: %s", why)
            self._transport.abort()

    def _has_room(self) -> bool:
        return self._transport.get_write_buffer_size() <= FULL_BYTES

    def _write(self, data: bytes) -> bool:
        """A coroutine that never waits is run by its first step; a task for each frame would cost more than the rest.
        It must not wait: two steps that stop at aiohttp's one shared future are an error inside asyncio."""
        try:
            self._socket.send_frame(data, WSMsgType.TEXT).send(None)
        except StopIteration:
            return True
        except OSError:
            return False
        raise RuntimeError("the WebSocket waited while a frame was sent; see NEVER_WAITS")

    def _write_data(self, data: bytes) -> None:
        self._write(data)
        self._recent.append(data)
        self._recent_bytes += len(data)
        while self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft())

    async def _drain_queue(self) -> None:
        try:
            while self._queue:
                await self._drain.drain()
                if not self._has_room():
                    await asyncio.sleep(LOOK_AGAIN_S)
                    continue
                data = self._queue.popleft()
                self._queued_bytes -= len(data)
                self._write_data(data)
        except OSError as error:
            log.debug("a channel's connection broke while it was written to: %s", error)
        finally:
            self._pump = None


class Session:
    """One process. ``id`` is derived from its session key, which is a secret of its own and is not shown."""

    def __init__(self, hello: Hello, credential: Credential) -> None:
        self.id = session_id(hello.session_key)
        self.credential = credential
        self.refused_at: float | None = None  # monotonic; since when its credential is worth nothing
        self.agent = Agent()
        self.principal = Principal()
        self.opens: dict[str, Flight] = {}
        self.link: Link | None = None
        self.window: asyncio.TimerHandle | None = None
        self.malformed = 0
        self.orderly = False
        self.over = False
        self._refs: dict[str, str] = {}
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._agents: dict[str, Agent] = {}
        self.introduce(hello, credential)

    @property
    def instance(self) -> str:
        return self.agent.instance

    @property
    def idle(self) -> bool:
        """Nothing under way and nothing to deliver: it may be forgotten when its connection breaks."""
        return not (self.opens or self._kept)

    def introduce(self, hello: Hello, credential: Credential) -> None:
        """Who this is, by its newest hello and what it showed, which must prove the name."""
        known = credential.agent_named(hello.agent)
        assert known is not None, "checked with the hello"
        self.credential = credential
        self.refused_at = None
        self.agent = replace(known, framework=hello.framework, instance=hello.instance)
        shared = Principal(f"channel:{hello.instance}", credential=credential)
        self.principal = credential.principal if credential.is_proven else shared
        self._agents.clear()

    def agent_named(self, name: str) -> Agent | None:
        """The agent of one call, in a process that may hold several. None: the name is another's."""
        if not name or name == self.agent.name:
            return self.agent
        found = self._agents.get(name)
        if found is None:
            known = self.credential.agent_named(name)
            if known is None:
                return None
            found = replace(known, framework=self.agent.framework, instance=self.agent.instance)
            if len(self._agents) < MAX_NAMES:
                self._agents[name] = found
        return found

    def speaks_for(self, name: str) -> bool:
        """Whether this process has called in the name of this agent."""
        return name == self.agent.name or name in self._agents

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    def promise(self, call_id: str, ref: str) -> None:
        """From now on the call may be executed here."""
        self._refs[call_id] = ref

    def answered(self, call_id: str, ref: str) -> None:
        """The call has its answer."""
        self.opens.pop(ref, None)
        self._refs.pop(call_id, None)

    def ref_of(self, call_id: str) -> str | None:
        return self._refs.get(call_id)

    # ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────

    def push(self, frame: FromGateway) -> bool:
        """Hand a frame to the socket now. False: not connected, nothing was sent."""
        return self.link is not None and self.link.urgent(encode_frame(frame))

    def has_room_for(self, answer: bytes) -> bool:
        """Whether an answer can be kept while the process is away."""
        return self.link is not None or self._kept_bytes + len(answer) <= BACKLOG_BYTES

    def deliver(self, answer: bytes) -> None:
        """Write an answer, or keep it until the process is back."""
        if self.link is not None:
            self.link.data(answer)
        else:
            self._keep(answer)

    def attach(self, link: Link) -> None:
        """Connected, or back."""
        if self.window is not None:
            self.window.cancel()
            self.window = None
        self.link = link
        self.malformed = 0
        self.orderly = False

    def redeliver(self) -> None:
        """After a reconnection: the answers that the process may not have."""
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        for answer in kept:
            self.deliver(answer)

    def detach(self) -> None:
        """The connection is gone."""
        if self.link is not None:
            self._keep_all(self.link.undelivered())
        self.link = None

    def _keep_all(self, answers: Iterable[bytes]) -> None:
        for answer in answers:
            self._keep(answer)

    def _keep(self, answer: bytes) -> None:
        self._kept.append(answer)
        self._kept_bytes += len(answer)


def session_id(session_key: str) -> str:
    """What a session is called in calls, in the ledger and by people: nothing from which its key could be learnt, and
    the same after a restart of the sidecar."""
    return "s-" + hashlib.sha256(session_key.encode()).hexdigest()[:24]

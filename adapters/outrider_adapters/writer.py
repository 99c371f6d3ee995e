"""Writes WebSocket frames from whatever thread has one, without waking the link's loop for each.

Waking another thread costs more than the write itself (a pipe's write, a poll, a read: about a tenth of a millisecond),
and every call needs two. So a frame is sent by the thread that made it, on a duplicate of the connection's socket; the
loop is asked only when the socket's buffer is full. Over TLS, where that cannot be, the loop writes everything.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import aiohttp

TEXT, PING, PONG = aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG
_FIN, _MASKED = 0x80, 0x80


class Sending(Protocol):
    """Told that its frame is about to be written."""

    sent: bool


Queued = tuple[aiohttp.WSMsgType, bytes, Sending | None]


def frame(opcode: aiohttp.WSMsgType, payload: bytes) -> bytes:
    """A client's frame, whole and masked (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", _FIN | opcode, _MASKED | size)
    elif size < 65536:
        head = struct.pack("!BBH", _FIN | opcode, _MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", _FIN | opcode, _MASKED | 127, size)
    mask = random.getrandbits(32).to_bytes(4, "little")
    stretched = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(stretched, "little")
    return head + mask + masked.to_bytes(size, "little")


class Writer:
    """One connection's outgoing frames, in two lanes: urgent ones never wait behind data."""

    def __init__(self) -> None:
        self._urgent: deque[Queued] = deque()
        self._data: deque[Queued] = deque()
        self._broken = False

    def put(
        self, payload: bytes, *, opcode: aiohttp.WSMsgType = TEXT, sending: Sending | None = None, urgent: bool = False
    ) -> None:
        """Queue a frame; ``flush`` sends it. Short enough to be done under a lock."""
        (self._urgent if urgent else self._data).append((opcode, payload, sending))

    def flush(self) -> None:
        """Send what is queued, from any thread; never blocks."""
        raise NotImplementedError

    def drop(self) -> None:
        """The connection is over."""
        self._broken = True

    @property
    def empty(self) -> bool:
        """Everything was handed to the system, or never will be."""
        return self._broken or not (self._urgent or self._data)

    def _next(self) -> Queued | None:
        queue = self._urgent or self._data
        if not queue:
            return None
        item = queue.popleft()
        if item[2] is not None:
            item[2].sent = True
        return item


class DirectWriter(Writer):
    """Sends on the thread that flushes.

    ``raw`` is a non-blocking socket of its own to write to. ``when_writable(fd)`` must have ``resume`` called, on any
    thread, once the socket takes more.
    """

    def __init__(self, raw: socket.socket, when_writable: Callable[[int], None]) -> None:
        super().__init__()
        self._raw = raw
        self._when_writable = when_writable
        self._lock = threading.Lock()
        self._rest = b""  # of a frame that the socket took only in part
        self._full = False

    @property
    def fd(self) -> int:
        return self._raw.fileno()

    def flush(self) -> None:
        """Whoever finds the lock taken may leave: the one who holds it looks at the queues again after letting go."""
        while (self._urgent or self._data) and not (self._full or self._broken):
            if not self._lock.acquire(blocking=False):
                return
            try:
                self._send_all()
            finally:
                self._lock.release()

    def resume(self) -> None:
        """The socket takes more."""
        with self._lock:
            self._full = False
            if self._rest:
                self._send(self._rest)
        self.flush()

    def drop(self) -> None:
        with self._lock:
            super().drop()
            self._raw.close()

    @property
    def empty(self) -> bool:
        return super().empty and not (self._rest and not self._broken)

    def _send_all(self) -> None:
        while not (self._full or self._broken) and (item := self._next()):
            self._send(frame(item[0], item[1]))

    def _send(self, data: bytes) -> None:
        try:
            taken = self._raw.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self._broken = True  # the reader sees the end of the connection too
            return
        self._rest = data[taken:]
        if self._rest:
            self._full = True
            self._when_writable(self._raw.fileno())


class LoopWriter(Writer):
    """Sends on the link's loop, through aiohttp. ``on_loop(action)`` runs ``action`` there."""

    def __init__(self, web_socket: aiohttp.ClientWebSocketResponse[bool], on_loop: Callable[..., None]) -> None:
        super().__init__()
        self._web_socket = web_socket
        self._on_loop = on_loop

    def flush(self) -> None:
        if self._urgent or self._data:
            self._on_loop(self._send_all)

    def _send_all(self) -> None:
        while not self._broken and (item := self._next()):
            writing = self._web_socket.send_frame(item[1], item[0])
            try:
                writing.send(None)  # aiohttp writes before its first wait, which is the drain's
            except StopIteration:
                continue
            except (aiohttp.ClientError, OSError):
                self._broken = True
                return
            writing.close()

"""One way to an MCP server, as the driver sees it: a message goes, messages come, a failure says how far it came."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from outrider.mcp_wire import Message


class Phase(StrEnum):
    """How far a request came before it failed."""

    CONNECT = "connect"  # nothing of it left: it was not executed
    SENT = "sent"  # it left, and nothing came back
    STREAMING = "streaming"  # a part of an answer came


class McpFailure(Exception):
    """A request that has no answer. ``peer``: the server said so itself (a status), else it was seen here.
    ``session_lost``: the server does not know our session any more, so it executed nothing (404 of the legacy era)."""

    def __init__(
        self,
        phase: Phase,
        text: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        peer: bool = False,
        garbage: bool = False,
        session_lost: bool = False,
    ) -> None:
        super().__init__(text)
        self.phase = phase
        self.text = text
        self.status = status
        self.retry_after_s = retry_after_s
        self.peer = peer
        self.garbage = garbage  # what came is not of the protocol, too large, or for another request
        self.session_lost = session_lost


@dataclass(frozen=True, slots=True)
class Listener:
    """What is told while a request is under way. ``sent``: now a byte may leave. ``told``: a notification that belongs
    to this request. ``asked``: a request of the server to its client; what it returns is the result, RpcError an error
    answer."""

    sent: Callable[[], None]
    told: Callable[[Message], None]
    asked: Callable[[Message], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Sending:
    """What a transport needs beside the message. ``headers`` only where it is HTTP; ``connect_s`` seconds."""

    connect_s: float
    headers: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = 20 * 1024 * 1024


class Transport(Protocol):
    """A connection to one server, shared by all calls. One ``request`` is at most one request on the wire.
    ``version`` is the legacy version that was agreed upon, empty before and in the modern era. ``gone``: it ended by
    itself, and a new one is needed."""

    version: str
    gone: bool

    async def request(self, message: Message, listener: Listener, sending: Sending) -> Message:
        """Send a JSON-RPC request and return the whole answer to its id (``result`` or ``error``). May be cancelled at
        any await: the server is then told, where the era has a way to. Raises McpFailure."""
        ...

    async def notify(self, message: Message) -> None:
        """Send a notification. Raises McpFailure."""
        ...

    def on_message(self, hear: Callable[[Message], None]) -> None:
        """``hear`` gets what belongs to no request: list changes, log messages."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """For the control plane; JSON types only."""
        ...

    async def close(self) -> None:
        """End it. Requests under way fail. Called once."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A transport on which a legacy server tells what belongs to no request only where it is listened to."""

    def stream(self, sending: Sending) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Its messages, until it ends. Raises McpFailure, with status 405 where the server offers none."""
        ...

"""stdio: JSON-RPC messages as lines over the pipes of a child. Many calls share one child, each by its id.

A message is on its way from the moment that its first byte is handed to the pipe. One that still waits for its turn
when the child ends has provably not been executed; every other one may have been.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from outrider import clock
from outrider.mcp_wire import (
    INTERNAL_ERROR,
    META_PROGRESS,
    METHOD_NOT_FOUND,
    Message,
    RpcError,
    is_answer,
    is_notification,
    is_request,
)
from outrider.upstreams.mcp.child import Child
from outrider.upstreams.mcp.keeper import Keeper
from outrider.upstreams.mcp.lines import TooLong
from outrider.upstreams.mcp.liveness import Liveness
from outrider.upstreams.mcp.session import SILENT
from outrider.upstreams.mcp.transport import Listener, McpFailure, Phase, Sending

PROBE_S = 10.0
"""A server of the older era may leave ``server/discover`` unanswered; after this it is taken for one."""
MAX_ASKING = 16
"""Requests of the server that are open at once."""
MAX_GARBAGE = 100
"""Lines in a row that are no message: many programs greet on stdout, none goes on with it."""
FLOOD, FLOOD_S = 20_000, 10.0
"""More messages than this in that time, beside answers, are a flood."""
log = logging.getLogger("outrider.mcp.child")
_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class _Waiting:
    """A request under way. ``token``: what its progress is told by."""

    answer: asyncio.Future[Message]
    listener: Listener
    method: str
    token: Any
    asking: set[asyncio.Task[None]] = field(default_factory=set)


class _Misbehaves(Exception):
    """The child has to be ended. The text says why, behind the words "the server"."""


class StdioTransport:
    """One child, from its start with the first request to its end. ``gone``: it ended, a new one is needed."""

    def __init__(self, keeper: Keeper, max_bytes: int) -> None:
        self._keeper = keeper
        self._max_bytes = max_bytes
        self._child: Child | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._waiting: dict[Any, _Waiting] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._hear: Callable[[Message], None] = lambda message: None
        self._liveness = Liveness(self._alive, lambda: bool(self._waiting), self._end_hung)
        self._greeted = False
        self._ended_for = ""  # why we ended it, behind the words "the server"
        self._garbage = 0
        self._told, self._told_since = 0, 0.0
        self._late = 0
        self._why = "is not running"
        self.gone = False
        self.version = ""

    # ── for the driver ───────────────────────────────────────────────────────────────────────────────────────────

    async def request(self, message: Message, listener: Listener, sending: Sending) -> Message:
        """See ``Transport``. Raises McpFailure, with ``session_lost`` where the child was gone before."""
        if message["method"] == "server/discover":
            return await self._probe(message, listener)
        return await self._request(message, listener)

    async def notify(self, message: Message) -> None:
        """Raises McpFailure."""
        await self._write(message, lambda: None)

    def on_message(self, hear: Callable[[Message], None]) -> None:
        """The driver has greeted the child, which answered: from now on it is watched."""
        self._hear, self._greeted = hear, True
        if not self.gone:
            self._keeper.ready()
            self._liveness.begin(self.version)

    def snapshot(self) -> Mapping[str, Any]:
        return {"kind": "stdio", "in_flight": len(self._waiting), "late": self._late, "garbage": self._garbage}

    async def close(self) -> None:
        if not self.gone and not self._greeted:
            self._ended_for = "was ended, because its handshake failed"
        self.gone = True
        await self._liveness.close()
        if self._child is not None:
            await self._child.end()
        if self._serving is not None:
            await self._serving

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _probe(self, message: Message, listener: Listener) -> Message:
        await self._started()
        with suppress(TimeoutError):
            async with asyncio.timeout(PROBE_S):
                return await self._request(message, listener)
        error = RpcError(METHOD_NOT_FOUND, f"no answer to server/discover within {PROBE_S:g} s")
        return {"jsonrpc": "2.0", "id": message["id"], "error": error.as_dict()}

    async def _request(self, message: Message, listener: Listener) -> Message:
        token = (message["params"].get("_meta") or {}).get(META_PROGRESS)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(answer, listener, message["method"], token)

        def leaving() -> None:
            self._waiting[message["id"]] = waiting
            listener.sent()

        try:
            await self._write(message, leaving)
            return await answer
        except asyncio.CancelledError:
            self._liveness.given_up()
            raise
        finally:
            self._waiting.pop(message["id"], None)
            for task in waiting.asking:
                task.cancel()

    async def _write(self, message: Message, leaving: Callable[[], None]) -> None:
        """Raises McpFailure; then nothing of the message left."""
        child = await self._started()
        try:
            await child.write(_encode(message) + b"\n", lambda: self._leaving(leaving))
        except OSError:
            raise self._lost() from None

    def _leaving(self, leaving: Callable[[], None]) -> None:
        if self.gone:  # it ended while this waited for its turn
            raise BrokenPipeError
        leaving()

    async def _started(self) -> Child:
        if self.gone:
            raise self._lost()
        if self._child is None:
            self._child = await self._keeper.start()
            self._serving = asyncio.get_running_loop().create_task(self._serve(self._child))
        return self._child

    def _lost(self) -> McpFailure:
        return McpFailure(Phase.CONNECT, f"the server {self._why}", session_lost=True)

    # ── what the child says ──────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, child: Child) -> None:
        """From its start to its end, whoever wanted that."""
        logged = asyncio.get_running_loop().create_task(self._keeper.log.drain(child.stderr))
        misbehaved = ""
        try:
            await self._listen(child)
        except _Misbehaves as error:
            misbehaved = str(error)
        except Exception:
            log.exception("what a child said could not be taken in")
            misbehaved = "said something that cannot be taken in"
        self.gone = True
        await self._liveness.close()
        await child.end()
        await logged
        self._over(misbehaved or self._ended_for or await child.how_it_ended(), garbage=bool(misbehaved))

    async def _listen(self, child: Child) -> None:
        """Until it closes its stdout. Raises _Misbehaves."""
        try:
            async for line in child.read(self._max_bytes):
                self._liveness.heard()
                if line.strip():
                    self._take(line)
        except TooLong as error:
            raise _Misbehaves(f"wrote too much: {error}") from None

    def _over(self, why: str, *, garbage: bool) -> None:
        self._why = why
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                failure = McpFailure(Phase.SENT, f"the server {why} before it answered", garbage=garbage)
                waiting.answer.set_exception(failure)
        for task in self._asking:
            task.cancel()
        self._keeper.gone(why)

    def _take(self, line: bytes) -> None:
        messages = _parsed(line)
        if not messages:
            self._garbage += 1
            if self._garbage >= MAX_GARBAGE:
                raise _Misbehaves(f"wrote {MAX_GARBAGE} lines in a row that are no JSON-RPC message")
            return
        self._garbage = 0
        for message in messages:
            if is_answer(message):
                self._answered(message)
            else:
                self._count()
                self._ask(message) if is_request(message) else self._tell(message)

    def _answered(self, message: Message) -> None:
        waiting = self._waiting.get(message["id"]) if isinstance(message["id"], int | str) else None
        if waiting is None or waiting.answer.done():
            self._late += 1  # to a request that nobody waits for any more
            return
        waiting.answer.set_result(message)

    def _count(self) -> None:
        now = clock.monotonic()
        if now - self._told_since > FLOOD_S:
            self._told, self._told_since = 0, now
        self._told += 1
        if self._told > FLOOD:
            raise _Misbehaves(f"wrote more than {FLOOD} messages within {FLOOD_S:g} s that are no answers")

    def _tell(self, message: Message) -> None:
        """Progress belongs to the request with its token; everything else to none."""
        if message["method"] != "notifications/progress":
            self._hear(message)
            return
        params = message.get("params")
        token = params.get("progressToken") if isinstance(params, dict) else None
        for waiting in self._waiting.values():
            if token is not None and waiting.token == token:
                waiting.listener.told(message)

    # ── what the child asks ──────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, message: Message) -> None:
        if len(self._asking) >= MAX_ASKING:
            raise _Misbehaves(f"asked more than {MAX_ASKING} things at once")
        about = self._asked_for()
        task = asyncio.get_running_loop().create_task(self._answer(message, about))
        for tasks in (self._asking, about.asking) if about is not None else (self._asking,):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def _asked_for(self) -> _Waiting | None:
        """The one call that a request of the server can be about. A message does not say so; where several are under
        way nobody is asked, because it could be the wrong one."""
        calls = [waiting for waiting in self._waiting.values() if waiting.method == "tools/call"]
        return calls[0] if len(calls) == 1 else None

    async def _answer(self, message: Message, about: _Waiting | None) -> None:
        answer: Message = {"jsonrpc": "2.0", "id": message["id"]}
        try:
            answer["result"] = await self._result(message, about)
        except RpcError as error:
            answer["error"] = error.as_dict()
        with suppress(McpFailure):
            await self._write(answer, lambda: None)

    async def _result(self, message: Message, about: _Waiting | None) -> Message:
        if message["method"] == "ping":
            return {}
        if about is None:
            raise RpcError(INTERNAL_ERROR, "it cannot be told which call this is for, so nobody is asked")
        return await about.listener.asked(message)

    # ── liveness ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _alive(self, question: Message) -> Message:
        return await self._request(question, SILENT)

    def _end_hung(self) -> None:
        """Its end ends whatever waits for it."""
        assert self._child is not None
        self._ended_for = "did not answer any more"
        self._ending = asyncio.get_running_loop().create_task(self._child.end())


def _parsed(line: bytes) -> list[Message]:
    """The messages of a line, more than one only in the batches of 2025-03-26; none where it is garbage."""
    try:
        found = _decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return []
    messages = found if isinstance(found, list) else [found]
    return messages if all(isinstance(one, dict) and _is_message(one) for one in messages) else []


def _is_message(message: Message) -> bool:
    return is_answer(message) or is_request(message) or is_notification(message)

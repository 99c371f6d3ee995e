"""What a server tells between calls: that its lists changed, that a resource did. Heard while somebody wants to know.

A modern server is asked for it (``subscriptions/listen``), a legacy one has a stream of its session (GET). Either is
opened again when it breaks, with growing pauses, and now and then anyway: a connection that died silently tells
nothing. What was missed meanwhile nobody knows, so then the tools count as changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from outrider import clock
from outrider.mcp_wire import (
    META_SUBSCRIPTION,
    METHOD_NOT_FOUND,
    Message,
    RpcError,
    is_notification,
    is_request,
)
from outrider.upstreams.mcp.session import Session
from outrider.upstreams.mcp.transport import Listener, McpFailure, Sending, Streaming

TOOLS_CHANGED = "notifications/tools/list_changed"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
STEADY_S = 30.0
"""A stream that lived this long was a good one: the next pause is the first one again."""
RENEW_S = 600.0
NOT_OFFERED = frozenset({405, 501})

SessionOf = Callable[[bool], Awaitable[Session]]
Lost = Callable[[Session], Awaitable[None]]
Heard = Callable[[Message, bool], None]


@dataclass(frozen=True, slots=True, eq=False)
class Hearer:
    """``modern``: in which era it would like to hear. ``uris``: the resources whose changes it wants to know."""

    hear: Callable[[Message], None]
    modern: bool
    uris: frozenset[str] = frozenset()


class Ear:
    """Hears one server in one era, until ``close``. ``heard`` gets each notification. It ends by itself where the
    server offers nothing to hear."""

    def __init__(
        self, modern: bool, uris: frozenset[str], session_of: SessionOf, lost: Lost, heard: Heard, sending: Sending
    ) -> None:
        """``session_of`` gives the session of an era, ``lost`` is told one that the server knows no more."""
        self._lost = lost
        self.modern = modern
        self.uris = uris
        self._session_of = session_of
        self._heard = heard
        self._sending = sending
        self._task = asyncio.get_running_loop().create_task(self._listen())

    def stop(self) -> None:
        self._task.cancel()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        pause_s = FIRST_PAUSE_S
        opened_before = False
        while True:
            began = clock.monotonic()
            try:
                session = await self._session_of(self.modern)
                if not offers(session.server.capabilities):
                    return
                if opened_before:
                    self._heard({"jsonrpc": "2.0", "method": TOOLS_CHANGED}, session.modern)
                opened_before = True
                if not await self._heard_out(session):
                    return
            except McpFailure:
                pass  # it cannot be reached now
            pause_s = FIRST_PAUSE_S if clock.monotonic() - began > STEADY_S else min(pause_s * 2, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _heard_out(self, session: Session) -> bool:
        """One stream, to its end. False: there is none to be had."""
        try:
            async with asyncio.timeout(RENEW_S):
                await self._once(session)
        except TimeoutError:
            return True
        except McpFailure as failure:
            if failure.session_lost:
                await self._lost(session)
            return failure.status not in NOT_OFFERED
        except RpcError as error:
            return error.code != METHOD_NOT_FOUND
        return True

    async def _once(self, session: Session) -> None:
        """One stream, to its end. Raises McpFailure and RpcError."""
        if session.modern:
            await self._subscribed(session)
        elif isinstance(session.transport, Streaming):
            await self._streamed(session, session.transport)
        else:
            await asyncio.Event().wait()  # a child's one pipe: all that it tells is heard anyway

    async def _subscribed(self, session: Session) -> None:
        wanted: Message = {f"{kind}ListChanged": True for kind in ("tools", "prompts", "resources")}
        if self.uris:
            wanted["resourceSubscriptions"] = sorted(self.uris)
        message, headers = session.dressed("subscriptions/listen", {"notifications": wanted}, {})
        listener = Listener(lambda: None, lambda told: self._heard(untagged(told), True), _cannot)
        answer = await session.request(message, listener, replace(self._sending, headers=headers))
        if "error" in answer:
            raise RpcError.of(answer["error"])

    async def _streamed(self, session: Session, transport: Streaming) -> None:
        async with transport.stream(self._sending) as messages:
            async for message in messages:
                if is_notification(message):
                    self._heard(message, False)
                elif is_request(message):
                    await _answer(session, message)


def offers(capabilities: Mapping[str, Any]) -> bool:
    """Whether a server says that it tells of changes at all."""
    kinds = [capabilities.get(kind) for kind in ("tools", "prompts", "resources")]
    return any(isinstance(kind, Mapping) and (kind.get("listChanged") or kind.get("subscribe")) for kind in kinds)


def untagged(message: Message) -> Message:
    """A notification without the mark of our own subscription."""
    params = dict(message.get("params") or {})
    meta = {key: value for key, value in (params.pop("_meta", None) or {}).items() if key != META_SUBSCRIPTION}
    if meta:
        params["_meta"] = meta
    plain = {key: value for key, value in message.items() if key != "params"}
    return {**plain, "params": params} if params else plain


async def _answer(session: Session, message: Message) -> None:
    """A ping is answered; there is no call here whose client could be asked for anything else."""
    answer: Message = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "ping":
        answer["result"] = {}
    else:
        answer["error"] = {"code": METHOD_NOT_FOUND, "message": "nobody can be asked outside of a call"}
    with suppress(McpFailure):
        await session.transport.notify(answer)


async def _cannot(message: Message) -> Message:
    if message.get("method") == "ping":
        return {}
    raise RpcError(METHOD_NOT_FOUND, "nobody can be asked outside of a call")

"""Streams that stay open: what servers tell between calls, and that the policy changed, told to who listens.

Modern clients ask for one (``subscriptions/listen``), legacy ones open the stream of their session (GET).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from outrider.errors import Fault
from outrider.mcp.answering import json_result
from outrider.mcp.sessions import Session
from outrider.mcp.work import Asked, Desk
from outrider.mcp_wire import META_SERVER, META_SUBSCRIPTION, Message
from outrider.policy.compile import MCP_METHOD
from outrider.policy.load import Policy
from outrider.upstreams.mcp.driver import McpDriver
from outrider.upstreams.mcp.listening import TOOLS_CHANGED
from outrider.upstreams.mcp.session import OURSELVES

MAX_STREAMS = 1_000
"""Over all clients."""
MAX_URIS = 1_000
"""Resources that one subscription names."""
TOO_MANY = -31003
UPDATED = "notifications/resources/updated"
KINDS = {
    TOOLS_CHANGED: "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
SUBSCRIBE = "resources/subscribe"

Shape = Callable[[Message], Message | None]
"""A notification as one client gets it, None for one that it did not ask for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """``kinds`` are names of ``KINDS``' values; ``uris`` resources."""

    kinds: frozenset[str]
    uris: frozenset[str] = frozenset()

    def as_dict(self) -> Message:
        agreed: Message = dict.fromkeys(sorted(self.kinds), True)
        return {**agreed, "resourceSubscriptions": sorted(self.uris)} if self.uris else agreed

    def covers(self, message: Message) -> bool:
        if message.get("method") == UPDATED:
            return of_these(message, self.uris)
        return KINDS.get(str(message.get("method"))) in self.kinds


def of_these(message: Message, uris: frozenset[str] | set[str]) -> bool:
    """Whether the resource that changed is one of these, or a part of one."""
    uri = str((message.get("params") or {}).get("uri"))
    return uri in uris or any(uri.startswith(f"{one.rstrip('/')}/") for one in uris)


async def agreed(desk: Desk, asked: Asked) -> Wanted:
    """What of a subscription can be had here. At the endpoint of all servers these are tools; single resources where
    the server is modern, and the agent may subscribe to them."""
    said = asked.inbound.params.get("notifications")
    said = said if isinstance(said, dict) else {}
    kinds = frozenset(kind for kind in KINDS.values() if said.get(kind))
    upstream = asked.upstream
    if upstream is None:
        return Wanted(kinds & {KINDS[TOOLS_CHANGED]})
    uris = said.get("resourceSubscriptions")
    if not isinstance(uris, list) or not uris:
        return Wanted(kinds)
    policy = desk.policies.current
    may = policy.observes or policy.rules.may(f"{upstream.name}.{MCP_METHOD}{SUBSCRIBE}", asked.asker.agent.name)
    modern = may and (await desk.server(upstream, modern=True)).version == asked.version
    named = frozenset(uri for uri in uris[:MAX_URIS] if isinstance(uri, str)) if modern else frozenset()
    return Wanted(kinds, named)


async def subscription(desk: Desk, asked: Asked, wanted: Wanted) -> web.StreamResponse:
    """The modern stream, for as long as its client wants it."""
    id_ = asked.inbound.id
    tag: Message = {"_meta": {META_SUBSCRIPTION: id_}}

    def shape(message: Message) -> Message | None:
        if not wanted.covers(message):
            return None
        params = message.get("params") or {}
        return {**message, "params": {**params, "_meta": {**(params.get("_meta") or {}), **tag["_meta"]}}}

    params = {**tag, "notifications": wanted.as_dict()}
    asked.answer.tell({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params})
    await until_over(desk, asked, shape, wanted.uris)
    meta = {META_SERVER: OURSELVES, **tag["_meta"]}
    return await asked.answer.finish(json_result(id_, {"resultType": "complete", "_meta": meta}))


async def session_stream(desk: Desk, asked: Asked, session: Session) -> web.StreamResponse:
    """The legacy stream of a session, until that is over or its client is gone."""
    answer = asked.answer
    over = asyncio.get_running_loop().create_task(session.over.wait())
    over.add_done_callback(lambda _: answer.lost.set())

    def shape(message: Message) -> Message | None:
        foreign = message.get("method") == UPDATED and not of_these(message, session.resources)
        return None if foreign else message

    try:
        await until_over(desk, asked, shape)
        return await answer.end()
    finally:
        over.cancel()


async def until_over(desk: Desk, asked: Asked, shape: Shape, uris: frozenset[str] = frozenset()) -> None:
    """Pass on what the servers tell, until the client is gone."""

    def heard(message: Message) -> None:
        shaped = shape(message)
        if shaped is not None:
            asked.answer.tell(shaped)

    ends: list[Callable[[], None]] = []

    def attach() -> None:
        """To the servers of the policy in force: a change may have made new drivers."""
        for end in ends:
            end()
        ends[:] = [driver.subscribe(heard, modern=asked.inbound.modern, uris=uris) for driver in _drivers(desk, asked)]

    def policy_changed(policy: Policy | None, _faults: tuple[Fault, ...]) -> None:
        if policy is not None:
            attach()
            heard({"jsonrpc": "2.0", "method": TOOLS_CHANGED})

    attach()
    no_longer = desk.policies.subscribe(policy_changed)
    asked.answer.keep_alive()
    try:
        await asked.answer.lost.wait()
    finally:
        no_longer()
        for end in ends:
            end()


def _drivers(desk: Desk, asked: Asked) -> list[McpDriver]:
    names = None if asked.upstream is None else {asked.upstream.name}
    ours: list[Any] = [
        desk.drivers.mcp(one)
        for one in desk.policies.current.upstreams.values()
        if one.mcp is not None and (names is None or one.name in names)
    ]
    return [driver for driver in ours if driver is not None]

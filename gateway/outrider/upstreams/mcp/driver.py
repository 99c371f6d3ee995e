"""An MCP server as an upstream. One attempt is one request on the wire, with an id of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from outrider.calls import Attempt, Outcome, OutcomeKind, Rpc
from outrider.errors import Code
from outrider.mcp_wire import (
    LEGACY,
    MODERN,
    Message,
    RpcError,
)
from outrider.policy.plans import McpUpstream, Plan
from outrider.upstreams.mcp import attempts
from outrider.upstreams.mcp.caller import McpCaller
from outrider.upstreams.mcp.catalog import Catalog, Shelf, Watch
from outrider.upstreams.mcp.listening import TOOLS_CHANGED, Ear, Hearer
from outrider.upstreams.mcp.outcomes import never_sent, of_answer, of_failure
from outrider.upstreams.mcp.session import SILENT, Session, open_legacy, open_modern
from outrider.upstreams.mcp.transport import McpFailure, Phase, Sending, Transport

OPEN_S = 10.0
"""How long a handshake may take."""
LIST_S = 15.0
"""How long reading the list of tools may take."""
CANCEL_S = 1.0
"""How long a server is given to take the news that nobody waits any more."""

NO_HANDSHAKE = frozenset({None, 400, 404, 405, 406, 415, 422})
"""The statuses, None for an error of the protocol itself, by which a server says that it takes no ``initialize``."""

Key = tuple[str, int]
NOBODY = Watch()
MakeTransport = Callable[[], Transport]


class McpDriver:
    """Sends attempts to one MCP server. ``connect`` makes a way to it; one that serves both eras gets one of each."""

    def __init__(
        self,
        settings: McpUpstream,
        connect: MakeTransport,
        watch: Watch = NOBODY,
        *,
        one_era: bool = False,
        open_s: float = OPEN_S,
    ) -> None:
        self._watch = watch
        self._settings = settings
        self._connect = connect
        self._one_era = one_era  # a child speaks over one pair of pipes, in one era
        self._open_s = open_s
        self._ids = itertools.count(1)
        self._sessions: dict[bool, Session] = {}  # by whether it is modern
        self._versions: tuple[str, ...] | None = None  # of the server, once it was asked
        self._opening = asyncio.Lock()
        self._openers: dict[bool, asyncio.Task[Session]] = {}  # by the era that is asked for
        self._shelf = Shelf(watch.read)
        self._under_way: dict[Key, tuple[Session, int]] = {}
        self._lost: list[Session] = []  # forgotten by the server, with calls that it took before
        self._hearers: list[Hearer] = []
        self._ears: dict[bool, Ear] = {}  # by whether what they hear is modern

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def send(self, attempt: Attempt, plan: Plan, timeout_s: float) -> Outcome:
        caller = attempt.caller if isinstance(attempt.caller, McpCaller) else None
        sending = Sending(plan.timeouts.connect_s, max_bytes=self._settings.max_response_bytes)
        try:
            session = await self.session(caller.modern if caller is not None else True, sending)
        except McpFailure as failure:
            return never_sent(failure)
        outcome = await self._exchange(session, attempt, plan, caller, sending)
        if isinstance(outcome, Outcome):
            return outcome
        # the server forgot our session, so it executed nothing: a new one, once
        attempt.sent = False
        try:
            session = await self._reopened(session, sending)
        except McpFailure as failure:
            return never_sent(failure)
        outcome = await self._exchange(session, attempt, plan, caller, sending)
        return outcome if isinstance(outcome, Outcome) else of_failure(outcome, attempt)

    async def stopped(self, attempt: Attempt, plan: Plan, why: str) -> Outcome:
        """The modern era sees a closed response; a legacy server and a child are told."""
        found = self._under_way.pop((attempt.call.id, attempt.n), None)
        if found is not None and attempt.sent and (self._one_era or not found[0].modern):
            session, request_id = found
            params = {"requestId": request_id, "reason": why}
            with suppress(McpFailure, TimeoutError):
                async with asyncio.timeout(CANCEL_S):
                    await session.transport.notify(attempts.notification("notifications/cancelled", params))
        return Outcome(OutcomeKind.UNKNOWN if attempt.sent else OutcomeKind.NOT_EXECUTED)

    async def _exchange(
        self, session: Session, attempt: Attempt, plan: Plan, caller: McpCaller | None, sending: Sending
    ) -> Outcome | McpFailure:
        """One request. A failure is handed back only where the session is lost."""
        method, params = attempts.asked(attempt, plan, caller)
        tool = await self._described(session, method, params, sending)
        against = self._watch.against(str(params.get("name"))) if method == "tools/call" else ""
        if against:
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.TOOL_DRIFTED, detail=against, stage="send")
        meta, token = attempts.meta(attempt, params)
        message, headers = session.dressed(
            method, params, meta, capabilities=caller.capabilities if caller else None, tool=tool
        )
        if attempt.idempotency_key and plan.idempotency_header:
            headers[plan.idempotency_header] = attempt.idempotency_key
        key = (attempt.call.id, attempt.n)
        self._under_way[key] = (session, message["id"])
        attempt.rpc = Rpc(session.server.version, message["id"])
        listener = attempts.listener(attempt, caller, token, self._shelf)
        answer = failed = None
        try:
            answer = await session.request(message, listener, replace(sending, headers=headers))
        except McpFailure as failure:
            failed = failure
        # not in a ``finally``: an attempt that is interrupted is looked up once more, by ``stopped``
        self._under_way.pop(key, None)
        await self._close_lost()
        if failed is not None:
            return failed if failed.session_lost else of_failure(failed, attempt)
        assert answer is not None
        if "error" in answer:
            attempt.rpc = replace(attempt.rpc, code=str(RpcError.of(answer["error"]).code))
        return of_answer(answer, whole=caller is not None)

    async def _described(
        self, session: Session, method: str, params: Mapping[str, Any], sending: Sending
    ) -> Message | None:
        """What the list of tools says of this one: the modern era over HTTP repeats some arguments in headers, and
        where drift is refused it must have been looked at. A server that cannot be asked just now is sent the call all
        the same, and judges it."""
        over_http = session.modern and not self._one_era
        if method != "tools/call" or not (over_http or self._settings.drift == "refuse"):
            return None
        with suppress(McpFailure, RpcError, ValueError, TimeoutError):
            async with asyncio.timeout(LIST_S):
                catalog = await self._shelf.get(lambda page: self._list(session, page, sending))
            return catalog.tools.get(str(params.get("name")))
        return None

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def session(self, modern: bool, sending: Sending) -> Session:
        """The one of this era, or of the other where the server speaks only that. Raises McpFailure: nothing of a call
        was sent. All who ask meanwhile share one opening; it goes on when they lose patience, or a server that starts
        slowly would never be up."""
        found = self._found(modern)
        if found is not None:
            return found
        opener = self._openers.get(modern)
        if opener is None or opener.done():
            opener = asyncio.get_running_loop().create_task(self._opened(modern, sending))
            opener.add_done_callback(_retrieved)
            self._openers[modern] = opener
        return await asyncio.shield(opener)

    def _found(self, modern: bool) -> Session | None:
        found = self._sessions.get(self._era(modern))
        if found is None or not found.transport.gone:
            return found
        del self._sessions[found.modern]
        return None

    async def _opened(self, modern: bool, sending: Sending) -> Session:
        async with self._opening:
            found = self._found(modern)
            if found is not None:
                return found
            try:
                async with asyncio.timeout(self._open_s):
                    return await self._open(modern, sending)
            except TimeoutError:
                raise McpFailure(Phase.CONNECT, f"no handshake within {self._open_s:g} s") from None

    def _era(self, modern: bool) -> bool:
        """Whether the modern one is spoken, as far as is known."""
        if self._settings.protocol != "auto":
            return self._settings.protocol == MODERN
        if self._one_era and self._sessions:
            return next(iter(self._sessions))
        if self._versions is None:
            return modern
        if self._one_era:
            return MODERN in self._versions
        speaks_modern, speaks_legacy = MODERN in self._versions, any(one in LEGACY for one in self._versions)
        return speaks_modern if modern else speaks_modern and not speaks_legacy

    async def _open(self, modern: bool, sending: Sending) -> Session:
        transport = self._connect()
        try:
            session = await self._greeted(transport, modern, sending)
        except BaseException:
            if self._one_era:
                self._versions = None  # what was learnt of a child that did not come up may be wrong
            await transport.close()
            raise
        transport.on_message(lambda message: self._heard(message, session.modern))
        self._shelf.forget()
        self._sessions[session.modern] = session
        return session

    async def _greeted(self, transport: Transport, modern: bool, sending: Sending) -> Session:
        wanted = self._settings.protocol
        if wanted in LEGACY:
            return await open_legacy(transport, sending, self._ids, wanted)
        if self._versions is None:
            asked = await open_modern(transport, sending, self._ids)
            if isinstance(asked, Session):
                self._versions = _with_handshake(asked.server.versions)
                if self._era(modern) or self._one_era:
                    return asked
            elif wanted == MODERN:
                raise McpFailure(Phase.CONNECT, f"the server does not speak {MODERN}", peer=True)
            else:
                self._versions = tuple(version for version in asked if version in LEGACY) or LEGACY
        elif self._era(modern):
            asked = await open_modern(transport, sending, self._ids)
            if isinstance(asked, Session):
                return asked
            self._versions = LEGACY
        return await self._shaken(transport, sending, self._versions)

    async def _shaken(self, transport: Transport, sending: Sending, versions: tuple[str, ...]) -> Session:
        """By a handshake; without one where it turns out that the server takes none."""
        newest = next(version for version in LEGACY if version in versions)
        try:
            return await open_legacy(transport, sending, self._ids, newest)
        except McpFailure as failure:
            if MODERN not in versions or not failure.peer or failure.status not in NO_HANDSHAKE:
                raise
        self._versions = (MODERN,)
        asked = await open_modern(transport, sending, self._ids)
        if isinstance(asked, Session):
            return asked
        raise McpFailure(Phase.CONNECT, f"the server speaks neither {MODERN} nor by a handshake", peer=True)

    async def _reopened(self, lost: Session, sending: Sending) -> Session:
        await self._drop(lost)
        return await self.session(lost.modern, sending)

    async def _drop(self, lost: Session) -> None:
        if self._sessions.get(lost.modern) is lost:
            del self._sessions[lost.modern]
            self._lost.append(lost)
            await self._close_lost()

    async def _close_lost(self) -> None:
        """A server may answer what it took before it forgot the session: that is waited for."""
        busy = {id(session) for session, _ in self._under_way.values()}
        idle = [session for session in self._lost if id(session) not in busy]
        self._lost = [session for session in self._lost if id(session) in busy]
        for session in idle:
            await session.transport.close()

    # ── what else the server tells ───────────────────────────────────────────────────────────────────────────────

    async def catalog(self) -> Catalog:
        """Its tools. Raises McpFailure, RpcError, and ValueError for a list that is none."""
        sending = self._sending()
        session = await self.session(True, sending)
        try:
            async with asyncio.timeout(LIST_S):
                return await self._shelf.get(lambda page: self._list(session, page, sending))
        except TimeoutError:
            raise McpFailure(Phase.SENT, f"no list of tools within {LIST_S:g} s") from None

    async def _list(self, session: Session, page: Message, sending: Sending) -> Message:
        message, headers = session.dressed("tools/list", page, {})
        answer = await session.request(message, SILENT, replace(sending, headers=headers))
        if "error" in answer:
            raise RpcError.of(answer["error"])
        if not isinstance(answer["result"], dict):
            raise ValueError("the server's list of tools is none")
        return answer["result"]

    def subscribe(
        self, hear: Callable[[Message], None], *, modern: bool = True, uris: frozenset[str] = frozenset()
    ) -> Callable[[], None]:
        """``hear`` gets every notification that belongs to no call, until what is returned is called; of resources
        those that are named. Meanwhile the server is listened to."""
        hearer = Hearer(hear, modern, uris)
        self._hearers.append(hearer)
        self._tune()

        def end() -> None:
            self._hearers.remove(hearer)
            self._tune()

        return end

    def _tune(self) -> None:
        """Listen in the eras, and for the resources, that somebody wants, and in no other."""
        wanted: dict[bool, frozenset[str]] = {}
        for hearer in self._hearers:
            era = self._era(hearer.modern)
            wanted[era] = wanted.get(era, frozenset()) | hearer.uris
        for era, ear in tuple(self._ears.items()):
            if wanted.get(era) != ear.uris:
                ear.stop()
                del self._ears[era]
        for era in wanted.keys() - self._ears.keys():
            self._ears[era] = Ear(era, wanted[era], self._to_listen, self._drop, self._heard, self._sending())

    async def _to_listen(self, modern: bool) -> Session:
        session = await self.session(modern, self._sending())
        if session.modern is not modern:  # only now it is known which era it speaks
            self._tune()
        return session

    def _sending(self) -> Sending:
        return Sending(OPEN_S, max_bytes=self._settings.max_response_bytes)

    def _heard(self, message: Message, modern: bool) -> None:
        if message.get("method") == TOOLS_CHANGED:
            self._shelf.forget()
        for hearer in tuple(self._hearers):
            if self._era(hearer.modern) is modern:
                hearer.hear(message)

    def snapshot(self) -> dict[str, Any]:
        """For the control plane; JSON types only."""
        known = self._shelf.known
        sessions = [
            {"version": session.server.version, "server": dict(session.server.info), **session.transport.snapshot()}
            for session in self._sessions.values()
        ]
        return {"sessions": sessions, "tools": None if known is None else len(known.tools)}

    async def close(self) -> None:
        for ear in self._ears.values():
            await ear.close()
        for opener in self._openers.values():
            opener.cancel()
        await asyncio.gather(*self._openers.values(), return_exceptions=True)
        await self._shelf.close()
        for session in (*self._sessions.values(), *self._lost):
            await session.transport.close()
        self._sessions.clear()
        self._lost.clear()


def _with_handshake(versions: tuple[str, ...]) -> tuple[str, ...]:
    """What a modern server tells are the versions that need no handshake; whether it takes one too is found out when a
    client wants it."""
    return versions if any(version in LEGACY for version in versions) else (*versions, *LEGACY)


def _retrieved(opener: asyncio.Task[Session]) -> None:
    """Whether or not anybody still waits for it, its failure was seen."""
    if not opener.cancelled():
        opener.exception()

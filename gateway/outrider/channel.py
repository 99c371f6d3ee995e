"""The adapters' WebSocket, ``GET /v1/channel``: sessions, their calls, and what they are told.

    Channel     the handler and the registry of sessions
    sessions    Session (a process, over reconnections) and Link (one connection)
    local       the driver whose far ends the sessions are

A connection begins with ``hello`` and is answered with ``welcome`` or a ``problem``. When it breaks without ``bye``,
its session stays for ``limits.suspect_s``: the same process may come back, its calls go on, and answers it missed are
delivered. After that the session is over: callers count as gone, and what ran there is unknown.

No frame costs a task: they are handled where they are read, and written where they are made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from outrider import clock
from outrider.agents import Agents
from outrider.agents.commanded import Switch
from outrider.agents.observed import GAP_S
from outrider.calls import Call, Outcome, OutcomeKind
from outrider.errors import Code, problem
from outrider.flight import Flight
from outrider.frames import Malformed, check_hello, check_open, decoded, encode_answer, encode_undeliverable
from outrider.identity.credential import Credential
from outrider.policy.plans import Limits
from outrider.proof import caller, check_resumption, named
from outrider.sessions import NEVER_WAITS, Link, Session, session_id
from outrider.telemetry import traceparent_from, tracestate_from
from outrider.upstreams.local import LocalUpstream
from outrider.wire import (
    FRAME_BYTES,
    PROTOCOL,
    Aborted,
    Bye,
    Cancel,
    Ended,
    Finished,
    FromAdapter,
    Heartbeat,
    Hello,
    Lifecycle,
    Open,
    ProblemFrame,
    Welcome,
    encode_frame,
)
from outrider.wire import Limits as ChannelLimits

log = logging.getLogger("outrider.channel")

HEARTBEAT_S = 10.0
"""A connection silent for this long is pinged; no answer within half of it ends the connection."""
HELLO_S = 10.0
"""How long a new connection may take to say hello."""
CLOSE_S = 2.0
"""How long the end of a connection may take, for its last frames and the closing handshake."""
REVOKED_GRACE_S = 5.0
"""How long a process whose credential was revoked may still report how its calls under way ended."""
MAX_MALFORMED = 5
"""Frames that cannot be understood before the connection is ended."""
_CLAIMS = frozenset({"read", "idempotent", "write"})
LIMITS = ChannelLimits()


class Supervisor(Protocol):
    """What the channel asks of the supervisor."""

    def submit(self, call: Call) -> Flight: ...
    def caller_gone(self, flight: Flight) -> None: ...
    def problem(self, flight: Flight, outcome: Outcome) -> dict[str, Any]: ...


class _NotNow(Exception):
    """A connection that cannot be had now, though nothing is wrong with it."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Channel:
    """The sessions of all adapters. ``kills()`` are the scopes engaged now; ``incarnation`` names this sidecar's life.
    ``limits`` is asked each time, so that a reloaded policy counts."""

    def __init__(
        self,
        *,
        agents: Agents,
        local: LocalUpstream,
        supervisor: Supervisor,
        limits: Callable[[], Limits],
        kills: Callable[[], Sequence[str]],
        incarnation: str,
    ) -> None:
        self._agents = agents
        self._local = local
        self._supervisor = supervisor
        self._limits = limits
        self._kills = kills
        self._incarnation = incarnation
        self._sessions: dict[str, Session] = {}  # connected
        self._away: dict[str, Session] = {}  # may come back; the one longest away first
        self._sockets: dict[web.WebSocketResponse, Link] = {}
        self._dismissals: set[asyncio.Future[bool]] = set()
        self._closing = False
        self._handlers: Mapping[type[FromAdapter], Callable[[Session, Any], None]] = {
            Open: self._on_open,
            Finished: self._on_finished,
            Aborted: self._on_aborted,
            Ended: self._on_ended,
            Cancel: self._on_cancel,
            Heartbeat: self._on_heartbeat,
            Bye: self._on_bye,
            Hello: self._on_second_hello,
        }

    # ── for the sidecar ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def connected(self) -> int:
        """How many processes are connected."""
        return len(self._sessions)

    def broadcast_lifecycle(self, state: str, reason: str) -> None:
        """Tell every process: ``killed`` and ``revived`` with the scope as ``reason``, ``draining``."""
        for session in self._sessions.values():
            session.push(Lifecycle(state, reason))

    def end_refused(self) -> None:
        """End the sessions whose credential is worth nothing any more. One that lapsed may come back with a fresh one,
        and its calls go on. Of one that was revoked, calls under way have a moment to say how they ended."""
        now = clock.monotonic()
        for session in (*self._sessions.values(), *self._away.values()):
            denial = None if session.orderly else session.credential.refusal()
            if denial is None:
                continue
            if session.refused_at is None:
                session.refused_at = now
                if denial.lapsed:
                    self._dismiss(session, denial.detail)
            idle = session.idle and not self._local.holds(session.id)
            if not denial.lapsed and (idle or now - session.refused_at >= REVOKED_GRACE_S):
                session.orderly = True  # it has no window to come back in
                self._dismiss(session, denial.detail)

    def _dismiss(self, session: Session, why: str) -> None:
        """Close its connection; what follows is what follows of any. One that is away has none."""
        log.warning("%s (%s) is sent away: %s", session.agent.name, session.instance, why)
        socket = next((socket for socket, link in self._sockets.items() if link is session.link), None)
        if socket is not None:
            closing = asyncio.ensure_future(socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"not trusted now"))
            self._dismissals.add(closing)
            closing.add_done_callback(self._dismissals.discard)
        elif session.orderly:
            self._end(session)

    def tell_agent(self, agent: str, switch: Switch | None) -> None:
        """Tell the processes of one agent what was commanded of it."""
        state, why = ("open", "") if switch is None else (switch.state.value, switch.why)
        for session in self._sessions.values():
            if session.speaks_for(agent):
                session.push(Lifecycle(state, why, agent))

    async def close(self) -> None:
        """Take no new connection, write what is to be written, and end all; about twice ``CLOSE_S`` at most."""
        self._closing = True
        flushes = [asyncio.ensure_future(link.flush()) for link in self._sockets.values()]
        await _all(flushes)
        closes = [
            asyncio.ensure_future(socket.close(code=WSCloseCode.GOING_AWAY, message=b"the sidecar shuts down"))
            for socket in self._sockets
        ]
        await _all(closes)
        for session in list(self._sessions.values()):
            self._lose(session)
        for session in list(self._away.values()):
            self._end(session)

    async def handler(self, request: web.Request, credential: Credential) -> web.WebSocketResponse:
        """One connection, from hello to its end, with what was shown to the data plane."""
        socket = web.WebSocketResponse(
            compress=False,
            max_msg_size=FRAME_BYTES + 1,  # aiohttp refuses from this size on
            heartbeat=HEARTBEAT_S,
            timeout=CLOSE_S,
            writer_limit=NEVER_WAITS,
            decode_text=False,
        )
        drain = await socket.prepare(request)
        if request.transport is None:
            return socket
        link = self._sockets[socket] = Link(socket, drain, request.transport)
        try:
            hello = await self._greeted(socket, link, credential)
            if hello is not None:
                await self._serve(socket, link, hello, credential)
        finally:
            del self._sockets[socket]
        return socket

    # ── hello ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _greeted(self, socket: web.WebSocketResponse, link: Link, credential: Credential) -> Hello | None:
        """The hello of a process that is welcome; None for one that was told why it is not."""
        try:
            self._check_room(len(self._sockets), 2)
            return self._admitted(await socket.receive(HELLO_S), credential)
        except Malformed as wrong:
            told = ProblemFrame(problem(wrong.code, str(wrong)), fatal=True)
        except _NotNow as wrong:
            told = ProblemFrame(problem(wrong.code, str(wrong)))
        except TimeoutError:
            told = ProblemFrame(problem(Code.INVALID_REQUEST, f"No hello came within {HELLO_S:g} s."))
        link.urgent(encode_frame(told))
        await socket.close(code=WSCloseCode.POLICY_VIOLATION if told.fatal else WSCloseCode.TRY_AGAIN_LATER)
        return None

    def _admitted(self, message: WSMessage, credential: Credential) -> Hello | None:
        """None: the connection ended before it said anything. Raises Malformed and _NotNow."""
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return None
        hello = named(check_hello(decoded(message.data)), credential)
        if self._closing:
            raise _NotNow(Code.DRAINING, "The sidecar is shutting down; connect again soon.")
        key = session_id(hello.session_key)
        if key not in self._sessions:
            self._check_room(self.connected + 1)
        check_resumption(self._sessions.get(key) or self._away.get(key), credential)
        return hello

    def _check_room(self, count: int, times: int = 1) -> None:
        """Raises _NotNow. Connections may be twice as many as sessions: some are old, or have not said hello yet."""
        most = self._limits().max_channels
        if count > times * most:
            raise _NotNow(Code.OVERLOADED, f"No more than {most} processes may be connected (limits.maxChannels).")

    def _welcome(self, link: Link, hello: Hello, credential: Credential) -> Session:
        """Attach the connection to its session. Nothing here waits: frames of the call protocol come after welcome."""
        session = self._session_of(hello, credential)
        session.attach(link)
        self._sessions[session.id] = session
        session.push(
            Welcome(
                protocol=min(hello.protocol, PROTOCOL),
                incarnation=self._incarnation,
                agent=hello.agent,
                limits=LIMITS,
                kills=tuple(self._kills()),
                opens=tuple(ref for ref in hello.opens if ref in session.opens),
            )
        )
        self._agents.connected(hello, session.id, session.agent)
        self._local.connected(session, {(one.call, one.n) for one in hello.running}, hello.unacked)
        session.redeliver()
        log.info("%s (%s) is connected", hello.agent, hello.instance)
        return session

    def _session_of(self, hello: Hello, credential: Credential) -> Session:
        key = session_id(hello.session_key)
        session = self._sessions.get(key)
        if session is not None and session.link is not None:  # it noticed the break before we did
            session.link.cut("its process has connected again")
            self._lose(session)
        session = self._away.pop(key, None)
        if session is None:
            return Session(hello, credential)
        session.introduce(hello, credential)
        return session

    # ── one connection's life ────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, socket: web.WebSocketResponse, link: Link, hello: Hello, credential: Credential) -> None:
        session = self._welcome(link, hello, credential)
        try:
            async for message in socket:
                if session.link is not link or message.type is WSMsgType.ERROR:
                    break
                self._receive(session, link, message)
                if session.orderly or session.malformed >= MAX_MALFORMED:
                    break
        finally:
            self._ended(session, link)
        await socket.close(code=WSCloseCode.OK if session.orderly else WSCloseCode.POLICY_VIOLATION)

    def _receive(self, session: Session, link: Link, message: WSMessage) -> None:
        frame: FromAdapter | None = None
        try:
            if message.type is not WSMsgType.TEXT:
                raise Malformed("Frames are JSON in text messages.")
            frame = decoded(message.data)
            self._handlers[type(frame)](session, frame)
        except Malformed as wrong:
            session.malformed += not wrong.ref
            link.urgent(wrong.frame())
        except Exception:
            log.exception("a frame could not be handled")
            session.malformed += 1
            ref = frame.ref if isinstance(frame, Open) else ""
            link.urgent(Malformed("A fault in Outrider; see the sidecar's log.", ref=ref, code=Code.INTERNAL).frame())

    def _ended(self, session: Session, link: Link) -> None:
        """The connection is over; a newer one of the same process may have taken its place."""
        if session.link is not link:
            return
        self._lose(session)
        if session.orderly or self._closing or (session.idle and not self._local.holds(session.id)):
            self._end(session)

    def _lose(self, session: Session) -> None:
        """Connected no more. It has the window to come back."""
        self._sessions.pop(session.id, None)
        self._away[session.id] = session
        session.detach()
        self._agents.disconnected(session.id, orderly=session.orderly)
        self._local.lost(session.id)
        limits = self._limits()
        self._open_window(session)
        log.info("%s (%s) is gone", session.agent.name, session.instance)
        while len(self._away) > limits.max_channels:
            self._end(next(iter(self._away.values())))

    def _open_window(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._limits().suspect_s
        session.window = loop.call_at(due, self._window_over, session, due)

    def _window_over(self, session: Session, due: float) -> None:
        """A sidecar that stood still has not listened: whoever is away gets the whole time again."""
        if asyncio.get_running_loop().time() - due > GAP_S:
            self._open_window(session)
        else:
            self._end(session)

    def _end(self, session: Session) -> None:
        """The process is gone for good. Its callers first, so that nothing is tried again for them."""
        if session.over:
            return
        session.over = True
        if session.window is not None:
            session.window.cancel()
        self._sessions.pop(session.id, None)
        self._away.pop(session.id, None)
        for flight in list(session.opens.values()):
            self._supervisor.caller_gone(flight)
        self._local.over(session.id)

    # ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_open(self, session: Session, frame: Open) -> None:
        check_open(frame)
        if frame.ref in session.opens:
            raise Malformed(f"The ref {frame.ref} is in use; every open needs its own.")
        if len(session.opens) >= LIMITS.max_open:
            text = f"This process has {LIMITS.max_open} calls open; wait until some have ended."
            raise Malformed(text, ref=frame.ref, code=Code.OVERLOADED)
        agent = caller(session, frame)
        if frame.digest:
            self._agents.declare(agent, frame.tool, frame.digest)
        call = Call(
            id=clock.new_id(),
            tool=frame.tool,
            args=frame.args,
            agent=agent,
            principal=session.principal,
            run=frame.run,
            session=frame.session,
            parent=frame.parent,
            caller_ref=frame.caller_ref,
            deadline_ms=frame.deadline_ms,
            traceparent=traceparent_from(frame.traceparent),
            tracestate=tracestate_from(frame.traceparent, frame.tracestate),
            origin=session.id,
            framework_tool=frame.framework_tool,
            declares=frame.declares if frame.declares in _CLAIMS else "",
        )
        session.promise(call.id, frame.ref)
        flight = self._supervisor.submit(call)
        assert flight.answer is not None
        session.opens[frame.ref] = flight
        flight.answer.add_done_callback(partial(self._answered, session, frame.ref, flight))

    def _on_finished(self, session: Session, frame: Finished) -> None:
        _own(self._local.finished(session, frame))

    def _on_aborted(self, session: Session, frame: Aborted) -> None:
        _own(self._local.aborted(session, frame))

    def _on_ended(self, session: Session, frame: Ended) -> None:
        _own(self._local.ended(session, frame))

    def _on_cancel(self, session: Session, frame: Cancel) -> None:
        flight = session.opens.get(frame.ref)
        if flight is not None:
            self._supervisor.caller_gone(flight)

    def _on_heartbeat(self, session: Session, frame: Heartbeat) -> None:
        self._agents.heartbeat(session.id)

    def _on_bye(self, session: Session, frame: Bye) -> None:
        session.orderly = True

    def _on_second_hello(self, session: Session, frame: Hello) -> None:
        raise Malformed("This connection has said hello before.")

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _answered(self, session: Session, ref: str, flight: Flight, answer: asyncio.Future[Outcome]) -> None:
        session.answered(flight.call.id, ref)
        if session.over:
            return
        data = encode_answer(ref, flight, _outcome_of(answer), self._supervisor.problem)
        if not session.has_room_for(data):
            data = encode_undeliverable(ref, flight, "too much waits for its process, which is away")
        session.deliver(data)


def _own(known: bool) -> None:
    if not known:
        raise Malformed("That attempt is another process's.")


def _outcome_of(answer: asyncio.Future[Outcome]) -> Outcome:
    """A flight's answer is always an outcome; anything else is a bug, and is told as one."""
    if answer.cancelled() or answer.exception() is not None:
        return Outcome(OutcomeKind.UNKNOWN, code=Code.INTERNAL, detail="A fault in Outrider; see the sidecar's log.")
    return answer.result()


async def _all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Wait for all, at most ``CLOSE_S``; what takes longer is cancelled."""
    pending = set(tasks)
    if pending:
        _, pending = await asyncio.wait(pending, timeout=CLOSE_S)
    for task in pending:
        task.cancel()

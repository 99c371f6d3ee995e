"""A sidecar's end of the channel, scripted: a real WebSocket server in a thread, for tests of the adapters.

It speaks ``wire.py`` and decides nothing by itself. A *script* is a coroutine function that plays one call:

    async def twice(call):
        first = await call.execute()
        last = first if first.state == "returned" else await call.execute()
        call.close(last)
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from outrider import wire
from outrider.errors import Code, problem

TOKEN = "a-token-of-a-test"
WAIT_S = 10.0


class ServedCall:
    """One ``open``, and what may be answered to it. Methods run on the server's loop."""

    def __init__(self, session: Session, frame: wire.Open) -> None:
        self.session = session
        self.open = frame
        self.id = f"call-{uuid.uuid4().hex[:12]}"
        self.n = 0
        self.finished: list[wire.Finished] = []
        self.cancelled = asyncio.Event()

    async def execute(self, *, waits: bool = True, **how: Any) -> wire.Finished:
        """Send ``execute``; the attempt's end, or at once a made-up one when it is not waited for."""
        self.n += 1
        key = (self.id, self.n)
        future = self.session.expect(key)
        self.session.send(wire.Execute(self.open.ref, self.id, self.n, **how))
        if not waits:
            return wire.Finished(*key)
        finished = await asyncio.wait_for(future, WAIT_S)
        self.finished.append(finished)
        return finished

    async def abort(self, reason: str = "killed") -> wire.Aborted:
        """Send ``abort`` for the newest attempt; its answer."""
        future = self.session.expect_abort((self.id, self.n))
        self.session.send(wire.Abort(self.id, self.n, reason))
        return await asyncio.wait_for(future, WAIT_S)

    def close(self, finished: wire.Finished | None = None) -> None:
        """Close by how the attempt ended: ``use`` for a value, a problem for everything else."""
        last = finished or self.finished[-1]
        if last.state == "returned":
            self.session.send(wire.Closed(self.open.ref, self.id, "ok", use=last.n, attempts=self.n))
            return
        text = f"{last.raised.type.rpartition('.')[2]}: {last.raised.text}" if last.raised else last.state
        self.fail(Code.UPSTREAM_FAILED, f"{self.open.tool} failed after {self.n} attempts: {text}", outcome="definite")

    def give(self, result: Any, degraded: bool = False) -> None:
        """Close with a value of the gateway's own."""
        self.session.send(wire.Closed(self.open.ref, self.id, "ok", result=result, degraded=degraded))

    def fail(self, code: Code, detail: str, **more: Any) -> None:
        """Close with a problem."""
        told = problem(code, detail, call_id=self.id, attempts=self.n, **{"outcome": "not_executed", **more})
        self.session.send(wire.Closed(self.open.ref, self.id, told["outcome"], problem=told, attempts=self.n))


Script = Callable[[ServedCall], Awaitable[None]]


async def once(call: ServedCall) -> None:
    """Execute, report a good result at once, close."""
    call.close(await call.execute(on_ok="report"))


async def awaiting(call: ServedCall) -> None:
    """Execute; the result is handed out by ``closed`` only."""
    call.close(await call.execute(on_ok="await"))


def with_timeout(timeout_ms: int, **how: Any) -> Script:
    """Execute on a thread of its own, with a timeout that only the adapter's backstop knows."""

    async def script(call: ServedCall) -> None:
        call.close(await call.execute(timeout_ms=timeout_ms, **how))

    return script


def retrying(attempts: int, **how: Any) -> Script:
    """Up to so many attempts, without a pause."""

    async def script(call: ServedCall) -> None:
        finished = await call.execute(**how)
        while finished.state == "raised" and call.n < attempts:
            finished = await call.execute(**how)
        call.close(finished)

    return script


def refusing(code: Code = Code.DENIED, detail: str = "a rule says no") -> Script:
    """Never execute."""

    async def script(call: ServedCall) -> None:
        call.fail(code, detail)

    return script


def giving(result: Any) -> Script:
    """Answer with a value, as for a tool that lives elsewhere."""

    async def script(call: ServedCall) -> None:
        call.give(result)

    return script


class Session:
    """One process, over as many connections as it makes to one incarnation."""

    def __init__(self, server: GatewayServer, hello: wire.Hello) -> None:
        self.server = server
        self.hello = hello
        self.socket: web.WebSocketResponse | None = None
        self._ends: dict[tuple[str, int], asyncio.Future[wire.Finished]] = {}
        self._aborts: dict[tuple[str, int], asyncio.Future[wire.Aborted]] = {}
        self._calls: dict[str, ServedCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: list[wire.Frame] = []

    def send(self, frame: wire.Frame) -> None:
        """Say it now, or in the case of an answer when the process is back."""
        if self.socket is not None and not self.socket.closed:
            task = asyncio.ensure_future(self.socket.send_str(wire.encode_frame(frame).decode()))
            self.server.tasks.add(task)
            task.add_done_callback(self.server.tasks.discard)
        elif isinstance(frame, wire.Closed):
            self._kept.append(frame)

    def expect(self, key: tuple[str, int]) -> asyncio.Future[wire.Finished]:
        return self._ends.setdefault(key, asyncio.get_running_loop().create_future())

    def expect_abort(self, key: tuple[str, int]) -> asyncio.Future[wire.Aborted]:
        return self._aborts.setdefault(key, asyncio.get_running_loop().create_future())

    def greet(self, socket: web.WebSocketResponse, hello: wire.Hello) -> None:
        self.socket, self.hello = socket, hello
        self.send(self.server.greeting(hello, tuple(ref for ref in hello.opens if ref in self._calls)))
        for finished in hello.unacked:
            self._ended(finished)
        kept, self._kept = self._kept, []
        for frame in kept:
            self.send(frame)

    def over(self) -> None:
        for task in self._tasks:
            task.cancel()

    def take(self, frame: wire.FromAdapter) -> None:
        match frame:
            case wire.Open():
                self._open(frame)
            case wire.Finished():
                self._ended(frame)
            case wire.Aborted():
                future_abort = self._aborts.get((frame.call, frame.n))
                if future_abort is not None and not future_abort.done():
                    future_abort.set_result(frame)
            case wire.Cancel() if frame.ref in self._calls:
                self._calls[frame.ref].cancelled.set()

    def _open(self, frame: wire.Open) -> None:
        call = ServedCall(self, frame)
        self._calls[frame.ref] = call
        self.server.calls.append(call)
        script = self.server.scripts.get(frame.tool, self.server.script)
        task = asyncio.ensure_future(script(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ended(self, finished: wire.Finished) -> None:
        if self.server.acks:
            self.send(wire.Ack(finished.call, finished.n, finished.state))
        future = self._ends.get((finished.call, finished.n))
        if future is not None and not future.done():
            future.set_result(finished)


class GatewayServer:
    """Start, script, watch. ``scripts`` by tool name; ``script`` for the others."""

    def __init__(self, script: Script = once, *, uds: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.scripts: dict[str, Script] = {}
        self.acks = True
        self.protocol = wire.PROTOCOL
        self.limits = wire.Limits()
        self.refusal: dict[str, Any] | None = None
        self.refusal_is_fatal = True
        self.incarnation = ""
        self.calls: list[ServedCall] = []
        self.hellos: list[wire.Hello] = []
        self.said: list[wire.FromAdapter] = []
        self.sessions: dict[str, Session] = {}
        self.tasks: set[asyncio.Future[None]] = set()
        self._uds = uds
        self._tls = tls
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="gateway-server")
        self._thread.start()

    @property
    def url(self) -> str:
        if self._uds:
            return f"unix:{self._uds}"
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> GatewayServer:
        """Listen; again on the same port after ``stop``, as another incarnation."""
        self.run(self._start())
        return self

    def stop(self) -> None:
        """As SIGKILL would: connections end without a word, the port is closed."""
        self.drop()
        self.run(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def __enter__(self) -> GatewayServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the server's loop, from a test's thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def drop(self) -> None:
        """Cut every connection; calls go on, and their processes may come back for the answers."""

        async def cut() -> None:
            for session in self.sessions.values():
                request = session.socket._req if session.socket is not None else None
                if request is not None and request.transport is not None:
                    request.transport.abort()
                session.socket = None

        self.run(cut())

    def push(self, frame: wire.Frame) -> None:
        """Say something on every connection."""
        for session in self.sessions.values():
            self._loop.call_soon_threadsafe(session.send, frame)

    def greeting(self, hello: wire.Hello, opens: tuple[str, ...]) -> wire.Frame:
        if self.refusal is not None:
            return wire.ProblemFrame(self.refusal, fatal=self.refusal_is_fatal)
        return wire.Welcome(self.protocol, self.incarnation, hello.agent, self.limits, opens=opens)

    def ends(self) -> list[wire.Finished]:
        """Every end that was told, in order, those inside greetings too."""
        told: list[wire.Finished] = []
        for frame in list(self.said):
            if isinstance(frame, wire.Finished):
                told.append(frame)
            elif isinstance(frame, wire.Hello):
                told.extend(frame.unacked)
        return told

    async def _start(self) -> None:
        self.incarnation = uuid.uuid4().hex
        application = web.Application()
        application.router.add_get("/v1/channel", self._channel)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        if self._uds:
            await web.UnixSite(self._runner, self._uds).start()
            return
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        for session in self.sessions.values():
            session.over()
        self.sessions.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _channel(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        socket = web.WebSocketResponse(compress=False, max_msg_size=4 * wire.FRAME_BYTES)
        await socket.prepare(request)
        session: Session | None = None
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            frame = wire.decode_from_adapter.decode(message.data)
            self.said.append(frame)
            if isinstance(frame, wire.Hello):
                self.hellos.append(frame)
                session = self.sessions.setdefault(frame.session_key, Session(self, frame))
                session.greet(socket, frame)
            elif session is not None:
                session.take(frame)
        return socket

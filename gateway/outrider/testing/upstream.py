"""A scripted upstream: a real HTTP server that misbehaves exactly as told, and counts what reached it on the wire.

In a test's own loop:

    async with ScriptedUpstream({"/pay": [reset(), respond(json={"paid": True})]}) as upstream:
        ...                                       # call upstream.url + "/pay" twice
        assert upstream.count("/pay") == 2        # as counted on the wire, not as the client believes

As a process of its own (``outrider.testing.upstream_process.UpstreamProcess`` starts and stops it):

    python -m outrider.testing.upstream --port 0 --script script.json

prints one line ``upstream ready listen=HOST:PORT control=HOST:PORT``. The control paths are served on both addresses,
on the second one also while the first refuses connections, and are not counted:

    GET    /__script__                        the script as JSON
    PUT    /__script__                        another script; it begins anew
    POST   /__script__                        other steps for the paths named; those begin anew
    GET    /__requests__?path=&at_least=&timeout_s=   what was received; waits until there are so many, 408 if never
    DELETE /__requests__                      forget what was received
    POST   /__release__                       let the requests go that are on hold
    POST   /__refuse__                        reset every connection and close the port; {"for_s": 1.5} or {}
    POST   /__accept__                        open the port again
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from outrider import clock
from outrider.testing.connection import Connection, Opened, Wire
from outrider.testing.http_wire import Received
from outrider.testing.script import Script, Step, Steps, echo, path_matches

MAX_KEPT_REQUESTS = 10_000
"""So many of the latest requests can be looked at; counts go on beyond."""

BACKLOG = 1024
MAX_WAIT_S = 600.0


class ScriptedUpstream:
    """A real HTTP server on a free loopback port. Use it with ``async with``.

    ``script`` maps paths to steps (see ``outrider.testing.script``). ``port`` 0 takes a free one. What it received is
    in ``requests``, oldest first, each with its body, headers, time, connection and what was done with it."""

    def __init__(self, script: Mapping[str, Steps] | Script | None = None, *, host: str = "127.0.0.1", port: int = 0):
        self.host = host
        self.port = port
        self.control_port = 0
        self.requests: deque[Received] = deque(maxlen=MAX_KEPT_REQUESTS)
        self.connections = 0  # opened so far
        self.gate = asyncio.Event()
        self._script = script if isinstance(script, Script) else Script(script)
        self._received = 0
        self._changed = asyncio.Event()
        self._open: dict[Connection, asyncio.Task[Any] | None] = {}
        self._server: asyncio.Server | None = None
        self._control: asyncio.Server | None = None
        self._reserved: socket.socket | None = None  # keeps the port while it refuses
        self._reopening: asyncio.Task[None] | None = None
        self._started = 0.0

    # --- life

    async def __aenter__(self) -> ScriptedUpstream:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. Raises OSError where the port is taken."""
        self._started = clock.monotonic()
        self._reserved = self._bind(self.port)
        self.port = self._reserved.getsockname()[1]
        await self.accept()
        control = self._bind(0)
        self.control_port = control.getsockname()[1]
        self._control = await self._listen(control, self._control_opened)

    async def stop(self) -> None:
        """Close every socket; requests under way end."""
        self._stop_reopening()
        tasks = [task for task in self._open.values() if task is not None]
        self._close_port()
        if self._control is not None:
            self._control.close()
        if self._reserved is not None:
            self._reserved.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        try:
            sock.bind((self.host, port))
        except OSError:
            sock.close()
            raise
        return sock

    async def _listen(self, sock: socket.socket, opened: Opened) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Wire(opened), sock=sock, backlog=BACKLOG)

    async def _opened(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._attend(Connection(self, self.connections, wire, reader, writer))

    async def _control_opened(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._attend(Connection(self, 0, wire, reader, writer))

    async def _attend(self, connection: Connection) -> None:
        self._open[connection] = asyncio.current_task()
        try:
            await connection.serve()
        except asyncio.CancelledError:
            connection.reset()  # a server that stops waits for nobody
        finally:
            self._open.pop(connection, None)

    # --- what users ask

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """``http://HOST:PORT``, for a policy's ``http.url``."""
        return f"http://{self.address}"

    def script(self, path: str, *steps: Step) -> None:
        """Set the steps of a path (``/pay``, ``GET /accounts/*``, ``*``); they begin anew."""
        self._script.update({path: steps})

    def count(self, path: str | None = None) -> int:
        """How many requests were received, of all or of one path (exact or a prefix with ``*``)."""
        return self._received if path is None else len(self.received(path))

    def received(self, path: str | None = None) -> list[Received]:
        """The requests received, oldest first, of all or of one path."""
        return [request for request in self.requests if path is None or path_matches(path, request.path)]

    def clear(self) -> None:
        """Forget what was received. Steps go on where they are."""
        self.requests.clear()
        self._received = 0

    async def wait_for(self, count: int, path: str | None = None, timeout_s: float = 10.0) -> list[Received]:
        """Wait until at least ``count`` requests were received. Raises TimeoutError, which says how many there were."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.count(path) < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            got = self.count(path)
            raise TimeoutError(f"{got} of {count} requests to {path or 'any path'} came in {timeout_s:g} s") from None
        return self.received(path)

    def release(self) -> None:
        """Let every request go that is on hold; later ones hold again."""
        self.gate.set()
        self.gate = asyncio.Event()

    def refuse(self, for_s: float | None = None) -> None:
        """Reset every connection and close the port; connecting is refused until ``accept()`` or for ``for_s`` seconds.

        The port stays ours, so that no other process can take it meanwhile."""
        self._stop_reopening()
        self._close_port()
        for connection in self._open:
            if connection.number:  # those for the control paths stay
                connection.reset()
        if self._reserved is None:
            self._reserved = self._bind(self.port)
        if for_s is not None:
            self._reopening = asyncio.get_running_loop().create_task(self._reopen(for_s))

    async def accept(self) -> None:
        """Open the port again. Does nothing where it is open."""
        self._stop_reopening()
        if self._reserved is not None:
            sock, self._reserved = self._reserved, None
            self._server = await self._listen(sock, self._opened)

    def _close_port(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _reopen(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._reopening = None  # so that opening does not cancel itself
        await self.accept()

    def _stop_reopening(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None

    # --- what a connection asks

    def accept_request(self, received: Received, *, unscripted: str = "") -> Step:
        """Count a request and say what is to be done with it. ``unscripted`` names what is done without a step."""
        self._received += 1
        received.n = self._received
        received.at_s = clock.monotonic() - self._started
        received.wall = clock.wall()
        step = echo() if unscripted else self._script.next(received.method, received.path)
        received.step = unscripted or step.do.value
        self.requests.append(received)
        self._changed.set()
        return step

    def refuse_soon(self, for_s: float | None) -> None:
        """``refuse`` from inside a connection, which it ends too."""
        self.refuse(for_s)

    async def answer_control(self, received: Received) -> tuple[int, bytes]:
        """Status and JSON of a control path."""
        route = _ROUTES.get((received.method, received.path))
        if route is None:
            return 404, _json({"error": f"no {received.method} {received.path}"})
        try:
            return await route(self, received)
        except (ValueError, TypeError, AttributeError) as error:
            return 400, _json({"error": str(error)})

    async def _get_script(self, _received: Received) -> tuple[int, bytes]:
        return 200, _json(self._script.as_json())

    async def _put_script(self, received: Received) -> tuple[int, bytes]:
        self._script = Script.from_json(received.json())
        return 200, _json({})

    async def _post_script(self, received: Received) -> tuple[int, bytes]:
        self._script.update(Script.from_json(received.json()).steps())
        return 200, _json({})

    async def _get_requests(self, received: Received) -> tuple[int, bytes]:
        query = received.query
        path = query.get("path") or None
        status = 200
        try:
            timeout_s = min(MAX_WAIT_S, float(query.get("timeout_s", "0")))
            await self.wait_for(int(query.get("at_least", "0")), path, timeout_s)
        except TimeoutError:
            status = 408
        shown = [request.as_json() for request in self.received(path)]
        return status, _json({"count": self.count(path), "connections": self.connections, "requests": shown})

    async def _delete_requests(self, _received: Received) -> tuple[int, bytes]:
        self.clear()
        return 200, _json({})

    async def _post_release(self, _received: Received) -> tuple[int, bytes]:
        self.release()
        return 200, _json({})

    async def _post_refuse(self, received: Received) -> tuple[int, bytes]:
        for_s = (received.json() if received.body else {}).get("for_s")
        self.refuse(None if for_s is None else float(for_s))
        return 200, _json({})

    async def _post_accept(self, _received: Received) -> tuple[int, bytes]:
        await self.accept()
        return 200, _json({})


_Route = Callable[[ScriptedUpstream, Received], Awaitable[tuple[int, bytes]]]
_ROUTES: Mapping[tuple[str, str], _Route] = {
    ("GET", "/__script__"): ScriptedUpstream._get_script,
    ("PUT", "/__script__"): ScriptedUpstream._put_script,
    ("POST", "/__script__"): ScriptedUpstream._post_script,
    ("GET", "/__requests__"): ScriptedUpstream._get_requests,
    ("DELETE", "/__requests__"): ScriptedUpstream._delete_requests,
    ("POST", "/__release__"): ScriptedUpstream._post_release,
    ("POST", "/__refuse__"): ScriptedUpstream._post_refuse,
    ("POST", "/__accept__"): ScriptedUpstream._post_accept,
}


def _json(shown: Any) -> bytes:
    return json.dumps(shown).encode()


async def _serve(host: str, port: int, script: Script) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows: the process is ended hard
            loop.add_signal_handler(number, stopped.set)
    async with ScriptedUpstream(script, host=host, port=port) as upstream:
        ready = f"upstream ready listen={upstream.address} control={host}:{upstream.control_port}"
        sys.stdout.write(ready + "\n")
        sys.stdout.flush()
        await stopped.wait()


def main(arguments: list[str] | None = None) -> int:
    """``python -m outrider.testing.upstream``: serve until SIGTERM. 2 where the script cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m outrider.testing.upstream", description="A scripted HTTP upstream."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one (default)")
    parser.add_argument("--script", type=Path, help='JSON file: {"/path": [{"do": "respond", "status": 503}, …]}')
    options = parser.parse_args(arguments)
    try:
        script = Script() if options.script is None else Script.from_json(json.loads(options.script.read_text()))
    except (OSError, ValueError) as error:
        parser.error(f"--script {options.script}: {error}")
    asyncio.run(_serve(options.host, options.port, script))
    return 0


if __name__ == "__main__":
    sys.exit(main())

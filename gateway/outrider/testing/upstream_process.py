"""A scripted upstream as a process of its own, driven from synchronous tests."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from outrider.testing.http_wire import Received
from outrider.testing.process import ManagedProcess, python_module
from outrider.testing.script import Script, Step, Steps

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy of the environment


class UpstreamProcess:
    """The same server as ``ScriptedUpstream`` in a process of its own. Use it with ``with``, or ``start`` and ``stop``.

    with UpstreamProcess({"/pay": [unavailable(1), respond(json={"paid": True})]}) as upstream:
        ...
        assert upstream.count("/pay") == 2
    """

    def __init__(self, script: Mapping[str, Steps] | None = None, *, port: int = 0) -> None:
        self._first = Script(script)
        self._port = port
        self._process: ManagedProcess | None = None
        self.address = ""
        self._control = ""

    def __enter__(self) -> UpstreamProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> UpstreamProcess:
        """Start it. Raises ProcessFailed. After ``stop`` it comes back on the same port, with the first script."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "script.json"
            file.write_text(json.dumps(self._first.as_json()))
            command = python_module("outrider.testing.upstream", "--port", str(self._port), "--script", str(file))
            self._process = ManagedProcess(command, "upstream ready ")
            ready = dict(word.split("=", 1) for word in self._process.start().split()[2:])
        self.address, self._control = ready["listen"], f"http://{ready['control']}"
        self._port = int(self.address.rpartition(":")[2])
        return self

    def stop(self) -> None:
        """End it; nothing happens where it has ended."""
        if self._process is not None:
            self._process.terminate()

    def kill9(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill9()

    @property
    def url(self) -> str:
        """``http://HOST:PORT``, for a policy's ``http.url``."""
        return f"http://{self.address}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def script(self, path: str, *steps: Step) -> None:
        """Set the steps of a path (``/pay``, ``GET /accounts/*``, ``*``); they begin anew."""
        self._ask("POST", "/__script__", Script({path: steps}).as_json())

    def replace_script(self, script: Mapping[str, Steps]) -> None:
        """Another script instead of the whole one."""
        self._ask("PUT", "/__script__", Script(script).as_json())

    def requests(self, path: str | None = None) -> list[Received]:
        """The requests received, oldest first, of all or of one path (exact or a prefix with ``*``)."""
        return [Received.from_json(shown) for shown in self._list(path)["requests"]]

    def count(self, path: str | None = None) -> int:
        """How many requests were received on the wire, of all or of one path."""
        return int(self._list(path)["count"])

    def connections(self) -> int:
        """How many connections were opened so far, those of this class's own requests included."""
        return int(self._list(None)["connections"])

    def wait_for(self, count: int, path: str | None = None, timeout_s: float = 10.0) -> list[Received]:
        """Wait until at least ``count`` requests were received. Raises TimeoutError, which says how many there were."""
        found = self._list(path, at_least=count, timeout_s=timeout_s)
        if found["count"] < count:
            raise TimeoutError(f"{found['count']} of {count} requests to {path or 'any path'} came in {timeout_s:g} s")
        return [Received.from_json(shown) for shown in found["requests"]]

    def clear(self) -> None:
        """Forget what was received. Steps go on where they are."""
        self._ask("DELETE", "/__requests__")

    def release(self) -> None:
        """Let every request go that is on hold; later ones hold again."""
        self._ask("POST", "/__release__")

    def refuse(self, for_s: float | None = None) -> None:
        """Reset every connection and close the port until ``accept()``, or for ``for_s`` seconds."""
        self._ask("POST", "/__refuse__", {"for_s": for_s})

    def accept(self) -> None:
        """Open the port again."""
        self._ask("POST", "/__accept__")

    def _list(self, path: str | None, at_least: int = 0, timeout_s: float = 0.0) -> Any:
        query = urllib.parse.urlencode({"path": path or "", "at_least": at_least, "timeout_s": timeout_s})
        return self._ask("GET", f"/__requests__?{query}", wait_s=timeout_s)

    def _ask(self, method: str, target: str, body: Any = None, wait_s: float = 0.0) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._control + target, data=data, method=method)
        try:
            with _DIRECT.open(request, timeout=10.0 + wait_s) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                said = json.loads(error.read())
            if error.code == 408:
                return said
            raise ValueError(said["error"]) from None

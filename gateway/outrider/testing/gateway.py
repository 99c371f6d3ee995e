"""A gateway as a real process, for tests of what runs behind it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from outrider.testing.process import ManagedProcess, python_module

API_VERSION = "outrider.dev/v1alpha1"
Policy = Mapping[str, Any] | str | Path
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy of the environment


class GatewayProcess:
    """``outrider serve`` on free loopback ports. Use it with ``with``, or ``start`` and ``close``.

        policy = {
            "upstreams": {"bank": {"http": {"url": upstream.url}}},
            "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
        }
        with GatewayProcess(policy) as gateway:
            status, answer = gateway.call("bank.get_balance", {"id": "42"})

    ``policy``: a dict (``apiVersion``, ``kind``, ``metadata`` may be left out), YAML text, or the path of a policy's
    file or folder. A folder is used where it is; everything else is written to a folder of our own.
    ``data``: the data folder; None makes one that ``close`` removes.
    ``env``: variables beside those of this process, for ``{env:NAME}`` in the policy.
    ``uds``: the path of a Unix socket that the data plane serves too. ``arguments``: more of ``serve``'s options.

    A restart keeps policy, data, tokens and addresses, so that clients find the gateway again."""

    def __init__(
        self,
        policy: Policy,
        data: Path | None = None,
        *,
        env: Mapping[str, str] | None = None,
        uds: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="outrider-test-"))
        self.data = self._folder / "data" if data is None else data
        self.uds = uds
        self._is_folder = isinstance(policy, Path) and policy.is_dir()
        self.policy = policy if isinstance(policy, Path) and self._is_folder else self._folder / "policy"
        if not self._is_folder:
            self.policy.mkdir()
            self.write_policy(policy)
        self._env = {**os.environ, **(env or {})}
        self._arguments = tuple(arguments)
        self._process: ManagedProcess | None = None
        self.listen = "127.0.0.1:0"
        self.control_address = "127.0.0.1:0"

    # --- life

    def __enter__(self) -> GatewayProcess:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, timeout_s: float = 30.0) -> GatewayProcess:
        """Start it and wait until it serves. Raises ProcessFailed with the end of its log."""
        command = python_module(
            "outrider",
            "serve",
            *("--policy", str(self.policy)),
            *("--data", str(self.data)),
            *("--listen", self.listen),
            *("--control", self.control_address),
            *(("--uds", str(self.uds)) if self.uds is not None else ()),
            *self._arguments,
        )
        self._process = ManagedProcess(command, "outrider ready ", env=self._env)
        ready = dict(word.split("=", 1) for word in self._process.start(timeout_s).split()[2:])
        self.listen, self.control_address = ready["listen"], ready["control"]
        return self

    def terminate(self, timeout_s: float = 35.0) -> int:
        """SIGTERM: it drains and ends; its exit code. Raises ProcessFailed where it does not end."""
        return self._started.terminate(timeout_s)

    def kill9(self) -> None:
        """SIGKILL: it ends at once and in the middle of whatever it does."""
        self._started.kill9()

    def restart(self) -> None:
        """End it in good order where it runs, and start it again with the same data and addresses."""
        if self._process is not None and self._process.running:
            self.terminate()
        self.start()

    def close(self) -> None:
        """End it and remove what it was given to write in. Never raises for a gateway that hangs: it is killed."""
        try:
            if self._process is not None and self._process.running:
                self._process.kill9()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _started(self) -> ManagedProcess:
        if self._process is None:
            raise RuntimeError("this gateway was not started; use it with 'with', or call start()")
        return self._process

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def log(self) -> str:
        """The last lines of its log."""
        return "" if self._process is None else self._process.log

    # --- where it is

    @property
    def url(self) -> str:
        """The data plane's, for agents."""
        return f"http://{self.listen}"

    @property
    def control_url(self) -> str:
        """The control plane's, for people."""
        return f"http://{self.control_address}"

    @property
    def agent_token(self) -> str:
        return (self.data / "agent.token").read_text().strip()

    @property
    def admin_token(self) -> str:
        return (self.data / "admin.token").read_text().strip()

    @property
    def env(self) -> dict[str, str]:
        """What an adapter or the command line needs to find this gateway."""
        return {
            "OUTRIDER_URL": self.url,
            "OUTRIDER_CONTROL_URL": self.control_url,
            "OUTRIDER_TOKEN": self.agent_token,
            "OUTRIDER_ADMIN_TOKEN": self.admin_token,
        }

    def write_policy(self, policy: Policy) -> None:
        """Another policy instead of the one it was made with; a running gateway reloads it by itself within 2 s.

        Raises ValueError where the policy is a folder of the caller's own."""
        if self._is_folder:
            raise ValueError(f"the policy is the folder {self.policy}; change its files instead")
        written = self.policy / "policy.new"
        written.write_text(_policy_text(policy))
        written.replace(self.policy / "policy.yaml")  # whole or not at all: a reload never sees half a file

    # --- what it answers

    def call(
        self,
        tool: str,
        args: Mapping[str, Any] | None = None,
        *,
        agent: str | None = None,
        run: str | None = None,
        session: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> tuple[int, Any]:
        """``POST /v1/call`` with the agents' token; status and body, a problem object where it is not 200."""
        named = {"agent": agent, "run": run, "session": session}
        body = {"tool": tool, "args": dict(args or {})} | {
            name: text for name, text in named.items() if text is not None
        }
        return self.request("POST", f"{self.url}/v1/call", body, self.agent_token, headers, timeout_s)

    def control(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, timeout_s: float = 60.0
    ) -> tuple[int, Any]:
        """A request to the control plane with the people's token, or another; status and body."""
        return self.request(method, self.control_url + path, body, token or self.admin_token, None, timeout_s)

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> tuple[int, Any]:
        """Any request: bytes are sent as they are, everything else as JSON. JSON answers are read, others are text."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers=sent | dict(headers or {}))
        try:
            with _DIRECT.open(request, timeout=timeout_s) as answer:
                return answer.status, _read(answer.headers.get_content_type(), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _read(error.headers.get_content_type(), error.read())


def _read(content_type: str, body: bytes) -> Any:
    is_json = content_type == "application/json" or content_type.endswith("+json")
    return json.loads(body) if is_json and body else body.decode(errors="replace")


def _policy_text(policy: Policy) -> str:
    """YAML; JSON is YAML too."""
    if isinstance(policy, Path):
        return policy.read_text()
    if isinstance(policy, str):
        return policy
    head = {"apiVersion": API_VERSION, "kind": "Policy", "metadata": {"name": "test"}}
    return json.dumps(head | dict(policy), indent=2)

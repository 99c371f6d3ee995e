"""The demonstration's processes: started, listened to, and ended by their ids, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from outrider.errors import OutriderError

START_S = 40.0
"""How long a process may take to be ready: a cold machine imports a framework slowly."""
END_S = 5.0
"""How long a process may take to end before it is killed."""
LOG_LINES = 12

_FOREIGN = ("OUTRIDER_", "LANGSMITH_", "LANGCHAIN_", "CREWAI_", "AUTOGEN_", "OTEL_")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "ftp_proxy"}


class Unexpected(OutriderError):
    """The demonstration cannot go on; says what happened."""


def surroundings(**more: str) -> dict[str, str]:
    """The environment of a child: nothing that sends traffic off this machine or changes what is shown."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name.lower() not in _PROXIES
    }
    return {**kept, "LANGSMITH_TRACING": "false", "PYTHONUNBUFFERED": "1", **more}


class TooLate(Unexpected):
    """Something was waited for and did not come in time."""


class Program:
    """One process that tells what happens in lines on its standard output, and takes lines on its standard input."""

    def __init__(self, name: str, arguments: list[str], folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._arguments = arguments
        self._env = dict(env)
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._heard = asyncio.Condition()
        self._over = False

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._env,
                start_new_session=True,  # a Ctrl-C is for the demonstration, which then ends its children in order
            )
        self._reader = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()
        if self._reader is not None:
            self._reader.cancel()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _listen(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        async for line in self._process.stdout:
            self.hear(line.decode("utf-8", "replace").strip())
            async with self._heard:
                self._heard.notify_all()
        self._over = True
        async with self._heard:
            self._heard.notify_all()

    def hear(self, line: str) -> None:
        """One line of the process."""

    def tell(self, **message: Any) -> None:
        """One line for the process."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def until(self, true: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
        """Wait until ``true()``. Raises Unexpected when the process ends before, TooLate when the time is over."""
        try:
            async with asyncio.timeout(timeout_s), self._heard:
                await self._heard.wait_for(lambda: true() or self._over)
        except TimeoutError:
            raise TooLate(f"{self.name}: {what} did not come within {timeout_s:g} s.{self._last_words()}") from None
        if not true():
            raise Unexpected(f"{self.name} ended before this: {what}.{self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
        return "".join(f"\n    {line}" for line in lines)

    async def end(self, signal_number: int = signal.SIGTERM) -> int | None:
        """Ask it to end, insist after ``END_S``; its exit code."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._signal(signal_number)
            try:
                async with asyncio.timeout(END_S):
                    await self._process.wait()
            except TimeoutError:
                self._signal(signal.SIGKILL)
                await self._process.wait()
        return self._process.returncode

    def _signal(self, number: int) -> None:
        """To the process and what it may have started: it leads a group of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Server(Program):
    """The flaky tool server."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, [sys.executable, "-m", "outrider.demo.upstream"], folder, surroundings())
        self.url = ""

    def hear(self, line: str) -> None:
        self.url = f"http://127.0.0.1:{json.loads(line)['port']}"

    async def ready(self) -> None:
        await self.until(lambda: bool(self.url), "its first line")


class Sidecar(Program):
    """``outrider serve`` on free ports. It ends with the demonstration, however that ends."""

    def __init__(self, folder: Path, policy: Path, shop_url: str) -> None:
        self.data = folder / "data"
        outrider = [sys.executable, "-m", "outrider.demo.tethered"]
        arguments = [*outrider, "serve", "--policy", str(policy), "--data", str(self.data)]
        arguments += ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
        super().__init__("sidecar", arguments, folder, surroundings(SHOP_URL=shop_url))
        self.url = ""
        self.control_url = ""

    def hear(self, line: str) -> None:
        if line.startswith("outrider ready "):
            told = dict(word.split("=", 1) for word in line.split()[2:])
            self.url, self.control_url = f"http://{told['listen']}", f"http://{told['control']}"

    async def ready(self) -> None:
        await self.until(lambda: bool(self.url), "the line 'outrider ready'")

    @property
    def agent_surroundings(self) -> dict[str, str]:
        """What an agent must know to find its sidecar."""
        return {"OUTRIDER_URL": self.url, "OUTRIDER_TOKEN_FILE": str(self.data / "agent.token")}


class AgentProcess(Program):
    """A program with agents. ``ends`` maps a task to how it ended; ``ran`` lists the in-process functions that it told
    of."""

    def __init__(self, name: str, arguments: list[str], folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(name, arguments, folder, env)
        self.is_ready = False
        self.ends: dict[str, dict[str, Any]] = {}
        self.ran: list[str] = []

    def hear(self, line: str) -> None:
        told = json.loads(line)
        match told["event"]:
            case "ready":
                self.is_ready = True
            case "ran":
                self.ran.append(told["tool"])
            case "end":
                self.ends[told["task"]] = told

    async def ready(self) -> None:
        await self.until(lambda: self.is_ready, "its first line")

    def give(self, task: str) -> None:
        """Begin a task; it runs beside the others."""
        self.tell(task=task)

    async def ended(self, task: str, timeout_s: float) -> dict[str, Any]:
        """How the task ended. Raises TooLate when it does not."""
        await self.until(lambda: task in self.ends, f"the end of the task '{task}'", timeout_s)
        return self.ends[task]

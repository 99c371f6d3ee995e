"""A program under test as a real process: started, waited for within bounds, and ended, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

LOG_LINES = 400
"""So many of the last lines on stderr are kept for error messages."""


class ProcessFailed(RuntimeError):
    """A process did not start, did not get ready in time, or did not end; the message holds the end of its stderr."""


class ManagedProcess:
    """Starts ``command`` and waits for a line on its stdout that begins with ``ready``.

    Both of its streams are read all the time, so that it never blocks on a full pipe. ``start`` may be called again
    after ``terminate`` or ``kill9``."""

    def __init__(self, command: Sequence[str], ready: str, *, env: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.ready_prefix = ready
        self.env = dict(os.environ if env is None else env)
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._ready = threading.Event()
        self._ready_line = ""
        self._log: deque[str] = deque(maxlen=LOG_LINES)

    def start(self, timeout_s: float = 20.0) -> str:
        """Start it and return its ready line. Raises ProcessFailed, and then nothing is left running."""
        if self.running:
            raise ProcessFailed(f"{self.command} is running already, as pid {self.pid}")
        self._ready.clear()
        self._ready_line = ""
        self._log.clear()
        self._begin()
        try:
            self._await_ready(timeout_s)
        except BaseException:
            self.kill9()
            raise
        return self._ready_line

    def _begin(self) -> None:
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self.env,
        )
        self._readers = [self._read_in_background(self._read_stdout), self._read_in_background(self._read_stderr)]

    def _await_ready(self, timeout_s: float) -> None:
        if not self._ready.wait(timeout_s):
            raise ProcessFailed(self._told(f"was not ready within {timeout_s:g} s"))
        if not self._ready_line:
            code = self.wait(timeout_s)
            raise ProcessFailed(self._told(f"ended with exit code {code} before it was ready"))

    def _read_in_background(self, read: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _read_stdout(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._lines(self._process.stdout):
            if not self._ready_line and line.startswith(self.ready_prefix):
                self._ready_line = line.strip()
                self._ready.set()
        self._ready.set()  # it ended; whoever waits need not wait for the time limit

    def _read_stderr(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        for line in self._lines(self._process.stderr):
            self._log.append(line.rstrip("\n"))

    def _lines(self, stream: IO[str]) -> Iterator[str]:
        with contextlib.suppress(ValueError, OSError):  # closed by ``wait``, where a grandchild keeps the other end
            yield from stream

    def _told(self, what: str) -> str:
        return f"{' '.join(self.command)}\n{what}. The end of its stderr:\n{self.log or '(nothing)'}"

    @property
    def log(self) -> str:
        """The last lines of its stderr."""
        return "\n".join(self._log)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id. Raises ProcessFailed before the first start."""
        if self._process is None:
            raise ProcessFailed(f"{self.command} was never started")
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens where it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Its exit code, once it has ended. Raises ProcessFailed when it does not."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(self._told(f"did not end within {timeout_s:g} s")) from None
        for reader in self._readers:
            reader.join(5.0)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        return code

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, then its exit code. Where it does not end in time it is killed and ProcessFailed is raised."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self.wait(timeout_s)
        except ProcessFailed:
            self.kill9()
            raise

    def kill9(self) -> None:
        """SIGKILL: it ends without a chance to do anything more."""
        if self._process is not None:
            self._process.kill()
            self.wait()


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this very interpreter."""
    return [sys.executable, "-m", module, *arguments]

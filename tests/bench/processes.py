"""Starting and stopping the processes of the bench, and what they cost: CPU time by their clocks, memory by ``/proc``.

Linux only. Every process is stopped by its own id, and every one that is Python's ends by itself when its standard
input is closed, so that nothing is left behind when the bench itself is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
START_S = 30.0
"""How long a process may take until it says that it is ready."""
ANSWER_S = 300.0
"""How long one command to a process may take."""
STOP_S = 30.0


class Broken(Exception):
    """A process of the bench did not do what it is there for."""


class Child:
    """One process. ``ask`` speaks JSON lines over its standard input and output."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._buffer = b""
        self._spent_s = 0.0
        self.started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=os.environ | (env or {}),
                bufsize=0,
                start_new_session=True,  # Ctrl-C is the bench's; it stops its processes in order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    # ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────

    def cpu_s(self) -> float:
        """User and system time of all its threads so far, ended ones included; of an ended process, the last known."""
        if self.running:
            self._spent_s = cpu_of(self.pid)
        return self._spent_s

    def rss_bytes(self) -> int:
        """What of it is in memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_BYTES

    # ── talking to it ────────────────────────────────────────────────────────────────────────────────────────────

    def line(self, timeout_s: float = START_S) -> str:
        """The next line that it prints. Raises Broken when none comes."""
        until = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            self._more(until)
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def _more(self, until: float) -> None:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        ready, _, _ = select.select([output], [], [], max(0.0, until - time.monotonic()))
        data = os.read(output, 65536) if ready else b""
        if not data:
            raise Broken(f"{self.name} {'ended' if ready else 'said nothing in time'}.\n{self.last_words()}")
        self._buffer += data

    def ask(self, **command: Any) -> dict[str, Any]:
        """One command, one answer. Raises Broken; ``error`` in an answer is one too."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            raise Broken(f"{self.name} has ended.\n{self.last_words()}") from None
        answer: dict[str, Any] = json.loads(self.line(ANSWER_S))
        if "error" in answer:
            raise Broken(f"{self.name}: {answer['error']}\n{self.last_words()}")
        return answer

    def last_words(self) -> str:
        """The end of what it wrote to its standard error."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """SIGTERM, then SIGKILL. May be called twice."""
        self.cpu_s()
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Household:
    """All processes of one case; leaving the ``with`` ends them, the last one first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Household:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            child.stop()

    def start(self, name: str, argv: Sequence[str], env: dict[str, str] | None = None) -> Child:
        """A program."""
        child = Child(f"{name}-{len(self._children)}", argv, self.folder, env)
        self._children.append(child)
        return child

    def python(self, module: str, *arguments: str, env: dict[str, str] | None = None) -> Child:
        """A module of the bench, with the interpreter that runs it."""
        argv = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
        return self.start(module, argv, env)

    def cpu_s(self) -> float:
        """Of all its processes, and of the bench itself."""
        return time.process_time() + sum(child.cpu_s() for child in self._children)


def cpu_of(pid: int) -> float:
    """User and system seconds of a process, in nanoseconds' steps: its CPU clock, whose id Linux makes of the pid as
    clock_getcpuclockid(3) does. (``/proc/PID/stat`` says the same in steps of 10 ms.)"""
    return time.clock_gettime((~pid << 3) | 2)


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago, for programs that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(child: Child, port: int, timeout_s: float = START_S) -> None:
    """Return once somebody listens. Raises Broken."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and child.running:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise Broken(f"{child.name} does not listen.\n{child.last_words()}")


# ── noise ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Noise:
    """How much of the machine others use while something is measured."""

    def __init__(self, household: Household) -> None:
        self._household = household
        self.restart()

    def restart(self) -> None:
        """From now on."""
        self._began, self._busy, self._ours = time.monotonic(), _busy_s(), self._household.cpu_s()

    def share(self) -> float:
        """Since the last start: 0.5 is half of all processors. In steps of 10 ms of processor time."""
        took_s = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        others_s = (_busy_s() - self._busy) - (self._household.cpu_s() - self._ours)
        return min(1.0, max(0.0, others_s / took_s)) if took_s > 0 else 0.0


def _busy_s() -> float:
    """Seconds that all processors together have been busy, steal included."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * TICK_S

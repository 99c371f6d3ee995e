"""Stands between the sidecar and a child, so that nothing of the child outlives either: run as a file, never imported.

    python -I -S guardian.py LINE_FD TERM_SECONDS PROGRAM ARGUMENT…

LINE_FD is one end of a socket pair whose other end only the sidecar has. On it the guardian tells, a line each,
``started PID``, ``failed REASON`` and ``ended STATUS`` (negative: the signal that ended it). When the sidecar closes
its end, or is gone, SIGKILL included, the child's process group gets SIGTERM, and SIGKILL after TERM_SECONDS. Whatever
a child that ended left running, daemons of its own too, is ended as well: the guardian adopts it.

Only the standard library, and little of it: there is one such process for each child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

_now = time.monotonic  # noqa: TID251  # no loop runs here
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
CLEAN_S = 2.0
"""How long what a child left behind may take to be gone."""


def main(words: list[str]) -> int:
    line, term_s, command = int(words[0]), float(words[1]), words[2:]
    os.set_inheritable(line, False)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken = _wake_on(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    try:
        pid = _started(command)
    except OSError as error:
        _tell(line, f"failed {error.strerror}")
        return 127
    for stream in (0, 1, 2):  # they are the child's: where it closes them, they are closed
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    _tell(line, f"started {pid}")
    status = _watched(line, woken, pid, term_s)
    _clean(pid)
    _tell(line, f"ended {status}")
    return 0


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the process group and the line have to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _wake_on(*signals: int) -> int:
    """A descriptor that can be read as soon as one of the signals came."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for one in signals:
        signal.signal(one, lambda *_: None)
    return reading


def _started(command: list[str]) -> int:
    """The child, leader of a process group of its own. Raises OSError where the program cannot be run."""
    reading, writing = os.pipe()  # closed by exec: nothing to read means that it runs
    pid = os.fork()
    if pid == 0:
        _become(command, writing)
    os.close(writing)
    told = os.read(reading, 16)
    os.close(reading)
    if told:
        os.waitpid(pid, 0)
        raise OSError(int(told), os.strerror(int(told)))
    return pid


def _become(command: list[str], writing: int) -> None:
    """In the forked process: the program, or the reason why not."""
    try:
        os.setpgid(0, 0)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvp(command[0], command)  # noqa: S606  # the policy's command, without a shell
    except OSError as error:
        os.write(writing, str(error.errno).encode())
    finally:
        os._exit(127)


def _tell(line: int, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody is there any more
        os.write(line, f"{text}\n".encode())


def _watched(line: int, woken: int, pid: int, term_s: float) -> int:
    """Until the child ended; its exit code, or minus the signal."""
    watched, ends_at = [line, woken], float("inf")
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        left_s = None if ends_at == float("inf") else max(0.0, ends_at - _now())
        ready, _, _ = select.select(watched, [], [], left_s)
        if line in ready or _is_to_end(woken, ready):
            watched, ends_at = [woken], min(ends_at, _now() + term_s)
            _signal_group(pid, signal.SIGTERM)
        elif not ready:
            ends_at = float("inf")
            _signal_group(pid, signal.SIGKILL)


def _is_to_end(woken: int, ready: list[int]) -> bool:
    """Whether a signal other than SIGCHLD came."""
    return woken in ready and any(one != signal.SIGCHLD for one in os.read(woken, 4096))


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _clean(pid: int) -> None:
    """End what the child left: the rest of its group, and every orphan that came to us."""
    until = _now() + CLEAN_S
    while _now() < until:
        _signal_group(pid, signal.SIGKILL)
        for orphan in _orphans():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(orphan, signal.SIGKILL)
        try:
            done, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not done:
            time.sleep(0.01)


def _orphans() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path("/proc/thread-self/children").read_text().split()]
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

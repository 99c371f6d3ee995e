"""A process that speaks over its stdin and stdout: started, read, written to, and ended with all that it started.

Between it and us stands ``guardian.py``, a small process that ends the child's process group when we are gone, however
that came about.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from outrider.upstreams.mcp.lines import Lines

GUARDIAN = Path(__file__).with_name("guardian.py")
INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
"""What a child gets of our environment: what programs need to be found and to find their files, and no secret."""
CHUNK_BYTES = 64 * 1024
LEAVE_S = 2.0
"""How long a child may take to end by itself once its stdin is closed, as the protocol wants it to."""
TERM_S = 2.0
"""How long it may take after SIGTERM, before SIGKILL."""
REPORT_S = TERM_S + 5.0
"""How long the guardian is waited for: it cleans up after a SIGKILL too."""

PIPES_S = 1.0
"""How long the ends of the pipes are waited for, when everything that we know to hold them is gone."""


class NotStarted(Exception):
    """The program could not be run. The text says why."""


def environment(said: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """All that a child gets."""
    return {name: ours[name] for name in INHERITED if name in ours} | dict(said)


class Child:
    """One process. Made by ``Child.start``, ended by ``end``, whoever has ended it before."""

    def __init__(
        self,
        transport: asyncio.SubprocessTransport,
        guardian: Process,
        reports: asyncio.StreamReader,
        line: asyncio.StreamWriter,
    ) -> None:
        assert guardian.stdin is not None and guardian.stdout is not None and guardian.stderr is not None
        self._transport = transport
        self._guardian = guardian
        self._reports = reports
        self._line = line
        self._stdin, self._stdout, self.stderr = guardian.stdin, guardian.stdout, guardian.stderr
        self._stdin.transport.set_write_buffer_limits(high=0)  # ``drain`` waits until all is with the kernel
        self._writing = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[str] | None = None
        self.pid = 0

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], cwd: str) -> Child:
        """The program runs. Raises NotStarted."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(CHUNK_BYTES, loop),
                *(sys.executable, "-I", "-S", str(GUARDIAN), str(theirs.fileno()), str(TERM_S)),
                *command,
                env=environment(env, os.environ),
                cwd=cwd or None,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise NotStarted(error.strerror or str(error)) from None
        finally:
            theirs.close()
        reports, line = await asyncio.open_connection(sock=ours)
        child = cls(transport, Process(transport, protocol, loop), reports, line)
        try:
            await child._begin()
        except BaseException:
            await child.end()
            raise
        return child

    async def _begin(self) -> None:
        word, _, rest = (await self._reports.readline()).decode("utf-8", "replace").strip().partition(" ")
        if word != "started":
            raise NotStarted(rest or "its guardian ended before it was started")
        self.pid = int(rest)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> str:
        """How it ended, once it did. Not asked of the process's transport: that waits for whoever holds the pipes."""
        word, _, status = (await self._reports.readline()).decode("ascii", "replace").strip().partition(" ")
        if word != "ended":
            self._without_guardian()
            return "was ended together with its guardian"
        return f"exited with code {status}" if int(status) >= 0 else f"was ended by {_signal_name(-int(status))}"

    def _without_guardian(self) -> None:
        """Somebody killed it, and the system the child with it. What else there is may hold the pipes."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._transport.close()

    async def read(self, max_bytes: int) -> AsyncIterator[bytes]:
        """Its lines, until it closes its stdout. Raises TooLong."""
        lines = Lines(max_bytes)
        while chunk := await self._stdout.read(CHUNK_BYTES):
            for line in lines.feed(chunk):
                yield line

    async def write(self, line: bytes, leaving: Callable[[], None]) -> None:
        """One line. Nothing of it left unless ``leaving`` was called, which is right before; a child that does not read
        is waited for until then. Raises OSError where it does not listen any more."""
        async with self._writing:
            await self._stdin.drain()
            if self._stdin.is_closing():
                raise BrokenPipeError("its stdin is closed")
            leaving()
            self._stdin.write(line)

    async def how_it_ended(self) -> str:
        """Waits until it did. The end of its stdout is no end yet: ``end`` it then."""
        assert self._watching is not None
        return await asyncio.shield(self._watching)

    async def end(self) -> None:
        """Close its stdin, wait, SIGTERM, wait, SIGKILL; with all that it started. Bounded."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        self._stdin.close()
        if self._watching is not None and not await self._ended_within(LEAVE_S):
            with suppress(OSError):
                self._line.write_eof()
            if not await self._ended_within(REPORT_S):
                self._guardian.kill()
                await self._watching
        self._line.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(PIPES_S):
                await self._guardian.wait()
        self._transport.close()

    async def _ended_within(self, seconds: float) -> bool:
        assert self._watching is not None
        done, _ = await asyncio.wait([self._watching], timeout=seconds)
        return bool(done)


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"

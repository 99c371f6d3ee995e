"""An upstream that shows every byte of a request as it came, and answers whatever a test wants, byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

CHUNK = 256 * 1024


@dataclass
class Seen:
    """One request. ``lines`` are its head; of the body there are size and digest."""

    lines: list[bytes]
    size: int = 0
    digest: str = ""
    body: bytes = b""  # its first 4 kB

    @property
    def target(self) -> str:
        return self.lines[0].split(b" ")[1].decode("latin-1")

    @property
    def method(self) -> str:
        return self.lines[0].split(b" ")[0].decode("latin-1")

    def header(self, name: str) -> list[str]:
        pairs = (line.decode("latin-1").split(":", 1) for line in self.lines[1:])
        return [value.strip() for key, value in pairs if key.lower() == name.lower()]


Answer = Callable[[Seen], Iterable[bytes]]
HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


@dataclass
class WireUpstream:
    """Use it with ``with``. ``answer`` gives the bytes of an answer, part by part."""

    answer: Answer = lambda seen: [HELLO]
    seen: list[Seen] = field(default_factory=list)
    broken: int = 0  # answers that could not be sent to their end

    def __enter__(self) -> WireUpstream:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in (self._listening, *self._open):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb", CHUNK) as file:
            try:
                while (seen := self._read(file)) is not None:
                    for part in self.answer(seen):
                        connection.sendall(part)
                    if "close" in seen.header("x-then"):
                        return
            except OSError:
                self.broken += 1

    def _read(self, file) -> Seen | None:  # type: ignore[no-untyped-def]
        lines: list[bytes] = []
        while line := file.readline():
            if line == b"\r\n":
                break
            lines.append(line.rstrip(b"\r\n"))
        if not lines:
            return None
        seen = Seen(lines)
        digest = hashlib.sha256()
        for part in self._body(seen, file):
            seen.size += len(part)
            seen.body += part[: 4096 - len(seen.body)]
            digest.update(part)
        seen.digest = digest.hexdigest()
        self.seen.append(seen)
        return seen

    def _body(self, seen: Seen, file) -> Iterator[bytes]:  # type: ignore[no-untyped-def]
        if seen.header("transfer-encoding") == ["chunked"]:
            while size := int(file.readline(), 16):
                yield file.read(size)
                file.readline()
            file.readline()
            return
        left = int((seen.header("content-length") or ["0"])[0])
        while left:
            part = file.read(min(left, CHUNK))
            if not part:
                raise ConnectionResetError("the body ended too early")
            left -= len(part)
            yield part


@dataclass
class Reply:
    """What a client read: ``body`` undone of its chunks; ``whole`` False: it was cut off or reset."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


def ask(port: int, request: bytes, timeout_s: float = 20.0) -> Reply:
    """Send exactly these bytes, and read one answer to its end."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as file:
            return read_reply(file, head_only=request.startswith(b"HEAD "))


def read_reply(file, head_only: bool = False) -> Reply:  # type: ignore[no-untyped-def]
    status = 100
    while status == 100:  # Continue
        status = int(file.readline().split(b" ")[1])
        headers = []
        while (line := file.readline().rstrip(b"\r\n")) != b"":
            key, _, value = line.decode("latin-1").partition(":")
            headers.append((key, value.strip()))
    reply = Reply(status, headers, b"", False)
    with contextlib.suppress(OSError):
        reply.whole = head_only or _read_body(reply, file)
    return reply


def _read_body(reply: Reply, file) -> bool:  # type: ignore[no-untyped-def]
    if reply.header("transfer-encoding") == "chunked":
        while line := file.readline():
            size = int(line, 16)
            if size == 0:
                return file.readline() == b"\r\n"
            reply.body += file.read(size)
            file.readline()
        return False
    declared = reply.header("content-length")
    if not declared:
        if reply.status not in {204, 304}:
            reply.body = file.read()
        return True
    while len(reply.body) < int(declared) and (part := file.read1(CHUNK)):
        reply.body += part
    return len(reply.body) == int(declared)

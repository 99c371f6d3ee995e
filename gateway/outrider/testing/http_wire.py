"""HTTP/1.1 on raw streams, as much as a scripted upstream needs: no framework stands between a test and the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
KEPT_BODY_BYTES = 1024 * 1024
"""So much of a body is kept for the test to look at; ``size`` is always the true one."""

REASONS = {200: "OK", 201: "Created", 204: "No Content", 400: "Bad Request", 404: "Not Found", 408: "Request Timeout",
           409: "Conflict", 429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway",
           503: "Service Unavailable", 504: "Gateway Timeout"}  # fmt: skip


class NotHttp(ValueError):
    """The bytes received are no request that can be read."""


@dataclass(slots=True)
class Received:
    """One request as it came over the wire."""

    method: str
    target: str  # path and query as sent
    headers: dict[str, str]  # names in lower case; repeated ones joined by ", "
    keep_alive: bool
    body: bytes = b""
    size: int = 0  # bytes of the whole body
    whole: bool = True  # False: the client left before it had sent the whole body
    n: int = 0  # 1 is the first request of this upstream
    connection: int = 0  # which connection it came on, counted from 1
    at_s: float = 0.0  # seconds since the upstream started
    wall: float = 0.0  # seconds since the Unix epoch
    step: str = ""  # what was done with it
    left_after_s: float | None = None  # the client went away so many seconds later, before it was answered

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError where it is none."""
        return json.loads(self.body)

    def as_json(self) -> dict[str, Any]:
        """For the control path; ``from_json`` reads it back, with the body as text."""
        return {
            "n": self.n, "method": self.method, "target": self.target, "path": self.path, "query": self.query,
            "headers": self.headers, "body": self.text, "size": self.size, "whole": self.whole,
            "connection": self.connection, "at_s": self.at_s, "wall": self.wall, "step": self.step,
            "keep_alive": self.keep_alive, "left_after_s": self.left_after_s,
        }  # fmt: skip

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Received:
        given = {name: value for name, value in shown.items() if name not in {"path", "query"}}
        return cls(**given | {"body": shown["body"].encode()})


@dataclass(slots=True)
class _Head:
    method: str
    target: str
    version: str
    headers: dict[str, str]

    @property
    def keep_alive(self) -> bool:
        said = self.headers.get("connection", "").lower()
        return "close" not in said and (self.version != "HTTP/1.0" or "keep-alive" in said)


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Received | None:
    """The next request on a connection, None where the client closed it. Raises NotHttp, ConnectionError."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise NotHttp("the client closed the connection inside a request's head") from None
        return None
    except asyncio.LimitOverrunError:
        raise NotHttp(f"the request's head is larger than {MAX_HEAD_BYTES} bytes") from None
    head = _parse_head(raw)
    received = Received(head.method, head.target, head.headers, head.keep_alive)
    if head.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        await _read_body(reader, received)
    except (asyncio.IncompleteReadError, ConnectionError):
        received.whole = False
    return received


def _parse_head(raw: bytes) -> _Head:
    lines = raw.decode("latin-1").strip("\r\n").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise NotHttp(f"'{lines[0][:80]}' is no HTTP/1 request line")
    head = _Head(words[0], words[1], words[2], {})
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise NotHttp(f"'{line[:80]}' is no header")
        key = name.strip().lower()
        head.headers[key] = f"{head.headers[key]}, {value.strip()}" if key in head.headers else value.strip()
    return head


async def _read_body(reader: asyncio.StreamReader, received: Received) -> None:
    if "chunked" in received.headers.get("transfer-encoding", "").lower():
        await _read_chunks(reader, received)
        return
    length = received.headers.get("content-length", "0")
    if not length.isdigit():
        raise NotHttp(f"Content-Length '{length[:40]}' is no number")
    await _read_bytes(reader, received, int(length))


async def _read_chunks(reader: asyncio.StreamReader, received: Received) -> None:
    while True:
        line = (await reader.readuntil(b"\r\n")).partition(b";")[0].strip()
        try:
            size = int(line, 16)
        except ValueError:
            raise NotHttp(f"{line[:40]!r} is no chunk's size") from None
        await _read_bytes(reader, received, size)
        trailer = await reader.readuntil(b"\r\n")
        if size == 0:
            while trailer.strip():
                trailer = await reader.readuntil(b"\r\n")
            return


async def _read_bytes(reader: asyncio.StreamReader, received: Received, count: int) -> None:
    if received.size + count > MAX_BODY_BYTES:
        raise NotHttp(f"the request's body is larger than {MAX_BODY_BYTES} bytes")
    while count > 0:
        part = await reader.read(min(count, 64 * 1024))
        if not part:
            raise asyncio.IncompleteReadError(b"", count)
        count -= len(part)
        received.size += len(part)
        if len(received.body) < KEPT_BODY_BYTES:
            received.body += part


def head_of(status: int, headers: Mapping[str, str], length: int, *, keep_alive: bool) -> bytes:
    """The head of an answer whose body has ``length`` bytes. Headers of the script win over ours."""
    own = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(length)}
    if not keep_alive:
        own["Connection"] = "close"
    given = {name.lower() for name in headers}
    both = {name: value for name, value in own.items() if name.lower() not in given} | dict(headers)
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}",
        *(f"{name}: {value}" for name, value in both.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

"""The caller's side of one raw request: its body, and the answer as it goes out."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from outrider.raw.headers import of_answer
from outrider.upstreams.raw_caller import CallerGone, RawCaller, Said, Upload
from outrider.upstreams.streaming import Head, Headers

AT_ONCE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: a close that the other side sees as a reset, whatever was to end the body."""
OUR_SIGNATURE: Final = ("Server", "Content-Type")
"""What aiohttp writes by itself into an answer that says nothing of it."""


class Passed(web.StreamResponse):
    """An answer of an upstream, as it comes. ``said`` are the names of its headers, in lower case."""

    said: frozenset[str] = frozenset()


class Whole(web.Response):
    """An answer of an upstream that was kept: head and body leave in one piece."""

    said: frozenset[str] = frozenset()


async def unsigned(_request: web.Request, response: web.StreamResponse) -> None:
    """A signal of the application, right before headers are written: those of an upstream are its own."""
    if isinstance(response, Passed | Whole):
        for name in OUR_SIGNATURE:
            if name.lower() not in response.said:
                response.headers.popall(name, None)


class Body(Upload):
    """The rest of a request's body, after what was read of it already."""

    def __init__(self, request: web.Request, first: bytes) -> None:
        self.length = request.content_length
        self._request = request
        self._first = first

    async def read(self) -> bytes:
        first, self._first = self._first, b""
        return first or await more_of(self._request)


async def more_of(request: web.Request) -> bytes:
    """What came of a body, waiting for something; empty at its end. Raises CallerGone."""
    try:
        return await request.content.readany()
    except (web.RequestPayloadError, ConnectionError, OSError) as error:
        raise CallerGone from error


async def ask_for_body(request: web.Request) -> None:
    """A client that waits to hear whether its body is wanted (RFC 9110, section 10.1.1) is told so."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


class Exchange(RawCaller):
    """See ``RawCaller``. ``finish`` and ``reset`` belong to the route, the rest to the driver."""

    def __init__(
        self,
        request: web.Request,
        call_id: str,
        tool: str,
        target: str,
        headers: Headers,
        body: bytes | Upload | None,
    ) -> None:
        self.tool = tool
        self.method = request.method
        self.target = target
        self.headers = headers
        self.body = body
        self._request = request
        self._call_id = call_id
        self._response: Passed | None = None
        self._last = b""
        self._broken = False

    @property
    def is_broken(self) -> bool:
        return self._broken

    @property
    def response(self) -> web.StreamResponse | None:
        """The answer of which a part was passed on."""
        return self._response

    async def begin(self, head: Head, said: Said) -> None:
        if self._broken:
            raise CallerGone
        headers = self._headers(head, said)
        response = Passed(status=head.status, reason=head.reason, headers=headers)
        response.said = frozenset(name.lower() for name in headers)
        self._response = response
        try:
            await response.prepare(self._request)
        except (ConnectionError, RuntimeError) as error:
            raise CallerGone from error

    def _headers(self, head: Head, said: Said) -> CIMultiDict[str]:
        headers = CIMultiDict(of_answer(head.headers))
        headers["Outrider-Call"] = self._call_id
        headers["Outrider-Attempts"] = str(said.attempt)
        headers["Outrider-Outcome"] = said.outcome
        return headers

    async def pass_on(self, part: bytes) -> None:
        assert self._response is not None
        try:
            await self._response.write(part)
        except (ConnectionError, RuntimeError) as error:
            raise CallerGone from error

    def keep_last(self, part: bytes) -> None:
        self._last = part

    def kept(self) -> web.StreamResponse:
        """The answer that was kept, now that the call's end is recorded."""
        assert self.whole is not None
        head, body, said = self.whole
        headers = self._headers(head, said)
        response = Whole(status=head.status, reason=head.reason, headers=headers, body=body or None)
        response.said = frozenset(name.lower() for name in headers)
        return response

    async def finish(self) -> web.StreamResponse:
        """The end of an answer that was begun, now that the call's end is recorded. Raises CallerGone."""
        assert self._response is not None
        try:
            await self._response.write_eof(self._last)
        except (ConnectionError, RuntimeError) as error:
            raise CallerGone from error
        return self._response

    def reset(self) -> None:
        self._broken = True
        transport = self._request.transport
        if transport is None:
            return
        connection: Any = transport.get_extra_info("socket")
        with contextlib.suppress(AttributeError, OSError):  # then it is closed, in the middle of a body all the same
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        transport.abort()

"""Streamable HTTP: one POST for each message, its answer as JSON or as a stream of events.

aiohttp's client sends a POST once and never again by itself (it repeats idempotent methods only); that is checked by
tests which count requests at a real server. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec

from outrider import __version__, clock
from outrider.domains.backoff import parse_retry_after
from outrider.mcp_wire import (
    NO_WORD,
    SESSION_HEADER,
    VERSION_HEADER,
    Message,
    RpcError,
    is_answer,
    is_notification,
    is_request,
)
from outrider.policy.plans import HttpUpstream, Secret
from outrider.upstreams.http import ssl_context
from outrider.upstreams.mcp.sse import Event, Parser, TooLarge
from outrider.upstreams.mcp.transport import Listener, McpFailure, Phase, Sending

ACCEPT = "application/json, text/event-stream"
MAX_MESSAGES = 10_000
"""Notifications and requests of the server within one answer."""
MAX_ASKING = 16
"""Requests of the server to its client that are open at once within one answer."""
MAX_ERROR_BYTES = 64 * 1024
MAX_RESUMES = 10
"""How often the stream of one answer is taken up again; each time it must have told an event's id."""
MAX_PAUSE_S = 30.0
REDIRECTED = "redirects are not followed; set the upstream's url to the final address"
IDLE_CONNECTION_S = 30.0
_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.Decoder().decode


class HttpTransport:
    """The connections to one endpoint, pooled. ``session`` is the legacy session's id, empty for none."""

    def __init__(self, settings: HttpUpstream) -> None:
        """Raises Misconfigured when a certificate file cannot be read."""
        self._settings = settings
        self._ssl = ssl_context(settings) or True
        self._headers = {"User-Agent": f"outrider/{__version__}", "Accept": ACCEPT}
        for name, value in settings.headers.items():
            self._headers[name] = value.reveal() if isinstance(value, Secret) else value
        self._http: aiohttp.ClientSession | None = None
        self._hear: Callable[[Message], None] = lambda message: None
        self.session = ""
        self.version = ""
        self.gone = False

    # ── for the driver ───────────────────────────────────────────────────────────────────────────────────────────

    async def request(self, message: Message, listener: Listener, sending: Sending) -> Message:
        """See ``Transport``. Raises McpFailure."""
        progress = _Progress()

        def sent() -> None:
            progress.phase = Phase.SENT
            listener.sent()

        exchange = _Exchange(self, message, listener, sending, progress)
        try:
            async with self._post(message, sending, sent) as response:
                return await exchange.read(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = f"{type(error).__name__}: {error}"[:500]
            raise McpFailure(progress.phase, text, garbage=isinstance(error, aiohttp.ClientPayloadError)) from None
        except TooLarge as error:
            raise McpFailure(Phase.STREAMING, str(error), garbage=True) from None
        finally:
            await exchange.end()

    async def notify(self, message: Message) -> None:
        """A notification, or the answer to a request of the server. Raises McpFailure."""
        await self.tell(message, Sending(connect_s=5.0))

    async def tell(self, message: Message, sending: Sending) -> None:
        """The same, with headers of the era."""
        try:
            async with self._post(message, sending, lambda: None) as response:
                if response.status >= 400:
                    raise McpFailure(Phase.SENT, f"HTTP {response.status}", status=response.status, peer=True)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise McpFailure(Phase.SENT, f"{type(error).__name__}: {error}"[:500]) from None

    def on_message(self, hear: Callable[[Message], None]) -> None:
        self._hear = hear

    def snapshot(self) -> Mapping[str, Any]:
        return {"kind": "http", "url": self._settings.url, "session": bool(self.session)}

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    @asynccontextmanager
    async def stream(self, sending: Sending, last_event: str = "") -> AsyncIterator[AsyncIterator[Message]]:
        """The GET stream of the legacy era, or a broken answer's rest after ``last_event``. Raises McpFailure, with
        status 405 where the server offers none."""
        headers = {**sending.headers, "Accept": "text/event-stream"}
        if last_event:
            headers["Last-Event-ID"] = last_event
        try:
            async with self._client().get(
                self._settings.url, headers=self._all(headers), **self._how(sending, lambda: None)
            ) as response:
                if response.status != 200 or response.content_type != "text/event-stream":
                    lost = response.status == 404 and bool(self.session)
                    text = f"HTTP {response.status}"
                    raise McpFailure(Phase.SENT, text, status=response.status, peer=True, session_lost=lost)
                yield _messages(response, sending.max_bytes, _Progress())
        except (aiohttp.ClientError, OSError, TimeoutError, TooLarge) as error:
            raise McpFailure(Phase.STREAMING, f"{type(error).__name__}: {error}"[:500]) from None

    async def delete(self, sending: Sending) -> None:
        """Tell the server that a legacy session is over; whether it cares is its own affair."""
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(2.0):
                url, headers = self._settings.url, self._all(sending.headers)
                async with self._client().delete(url, headers=headers, **self._how(sending, lambda: None)):
                    pass

    def heard(self, message: Message) -> None:
        """What belongs to no request."""
        self._hear(message)

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _client(self) -> aiohttp.ClientSession:
        """Made in the loop that uses it."""
        if self._http is None or self._http.closed:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_headers_sent)
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S, ssl=self._ssl)
            self._http = aiohttp.ClientSession(
                connector=connector,
                trace_configs=[trace],
                trust_env=self._settings.use_env_proxy,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
        return self._http

    def _post(self, message: Message, sending: Sending, sent: Callable[[], None]) -> Any:
        headers = self._all({**sending.headers, "Content-Type": "application/json"})
        return self._client().post(
            self._settings.url, data=_encode(message), headers=headers, **self._how(sending, sent)
        )

    def _how(self, sending: Sending, sent: Callable[[], None]) -> dict[str, Any]:
        return {
            "allow_redirects": False,
            # the pipeline has the other limits: per try, in all, and what a caller is willing to wait
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=sending.connect_s),
            "trace_request_ctx": SimpleNamespace(sent=sent),
        }

    def _all(self, headers: Mapping[str, str]) -> dict[str, str]:
        session = {SESSION_HEADER: self.session} if self.session else {}
        if self.version:
            session[VERSION_HEADER] = self.version
        return {**headers, **session, **self._headers} if "Accept" not in headers else {
            **self._headers, **session, **headers,
        }  # fmt: skip


async def _headers_sent(_session: Any, context: Any, _params: Any) -> None:
    context.trace_request_ctx.sent()


class _Progress:
    """How far a request came."""

    def __init__(self) -> None:
        self.phase = Phase.CONNECT
        self.last_event = ""
        self.pause_s = 0.0


class _Exchange:
    """The answer to one request, and what the server says and asks before it."""

    def __init__(
        self, transport: HttpTransport, message: Message, listener: Listener, sending: Sending, progress: _Progress
    ) -> None:
        self._transport = transport
        self._id, self._method = message["id"], message["method"]
        self._listener = listener
        self._sending = sending
        self._progress = progress
        self._asking: set[asyncio.Task[None]] = set()

    async def read(self, response: aiohttp.ClientResponse) -> Message:
        """The answer to our id. Raises McpFailure and what aiohttp raises."""
        self._progress.phase = Phase.STREAMING
        if response.status != 200:
            return await self._of_status(response)
        if self._method == "initialize":
            self._transport.session = response.headers.get(SESSION_HEADER, "")
        if response.content_type == "text/event-stream":
            return await self._of_stream(response)
        if response.content_type != "application/json":
            raise McpFailure(Phase.STREAMING, f"an answer of type {response.content_type[:80]}", garbage=True)
        return self._mine(_parsed(await _whole(response, self._sending.max_bytes)))

    async def end(self) -> None:
        """What the server asked for and nobody waits for any more."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _of_status(self, response: aiohttp.ClientResponse) -> Message:
        status = response.status
        if status < 300:
            raise McpFailure(Phase.STREAMING, f"HTTP {status} instead of an answer", garbage=True)
        body = (await response.content.read(MAX_ERROR_BYTES)).decode("utf-8", "replace")
        error = _rpc_error(body) if status in {400, 404} else None
        unknown_session = bool(self._transport.session) and _lost_session(status, error)
        if error is not None and not unknown_session and error["error"].get("code") not in NO_WORD:
            return error
        retry_after_s = parse_retry_after(response.headers.get("Retry-After"), clock.wall())
        said = REDIRECTED if status < 400 else body
        raise McpFailure(
            Phase.SENT,
            f"HTTP {status}: {said.strip()[:500]}",
            status=status,
            retry_after_s=retry_after_s,
            peer=True,
            session_lost=unknown_session,
        )

    def _mine(self, message: Any) -> Message:
        if not isinstance(message, dict) or not is_answer(message):
            raise McpFailure(Phase.STREAMING, "an answer that is no JSON-RPC answer", garbage=True)
        if message["id"] != self._id and not (message["id"] is None and "error" in message):
            raise McpFailure(Phase.STREAMING, "an answer to another request", garbage=True)
        return message

    async def _of_stream(self, response: aiohttp.ClientResponse) -> Message:
        answer = await self._until_answered(_messages(response, self._sending.max_bytes, self._progress))
        resumes = 0
        while answer is None and self._progress.last_event and self._transport.session and resumes < MAX_RESUMES:
            resumes += 1
            await asyncio.sleep(min(self._progress.pause_s, MAX_PAUSE_S))
            last_event, self._progress.last_event = self._progress.last_event, ""
            async with self._transport.stream(self._sending, last_event) as messages:
                answer = await self._until_answered(messages)
        if answer is None:
            raise McpFailure(Phase.STREAMING, "the stream ended before the answer")
        return answer

    async def _until_answered(self, messages: AsyncIterator[Message]) -> Message | None:
        count = 0
        async for message in messages:
            count += 1
            if count > MAX_MESSAGES:
                raise McpFailure(Phase.STREAMING, f"more than {MAX_MESSAGES} messages before the answer", garbage=True)
            if is_answer(message):
                return self._mine(message)
            if is_request(message):
                self._ask(message)
            elif is_notification(message):
                self._listener.told(message)
        return None

    def _ask(self, message: Message) -> None:
        if len(self._asking) >= MAX_ASKING:
            raise McpFailure(Phase.STREAMING, f"more than {MAX_ASKING} requests of the server at once", garbage=True)
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, message: Message) -> None:
        """The client's answer goes to the server in a POST of its own. One that cannot be delivered ends with the call:
        the server waits for it, until its own patience or ours is over."""
        answer: Message = {"jsonrpc": "2.0", "id": message["id"]}
        try:
            answer["result"] = await self._listener.asked(message)
        except RpcError as error:
            answer["error"] = error.as_dict()
        with suppress(McpFailure):
            await self._transport.tell(answer, self._sending)


async def _messages(response: aiohttp.ClientResponse, max_bytes: int, progress: _Progress) -> AsyncIterator[Message]:
    """The JSON-RPC messages of a stream of events. Raises McpFailure for what is none."""
    parser = Parser(max_bytes)
    async for chunk in response.content.iter_any():
        try:
            events = list(parser.feed(chunk))
        except UnicodeDecodeError:
            raise McpFailure(Phase.STREAMING, "an event that is no UTF-8", garbage=True) from None
        for event in events:
            _note(event, progress)
            if event.data:
                message = _parsed(event.data)
                if not isinstance(message, dict):
                    raise McpFailure(Phase.STREAMING, "an event that is no JSON-RPC message", garbage=True)
                yield message


def _note(event: Event, progress: _Progress) -> None:
    if event.id is not None:
        progress.last_event = event.id
    if event.retry_ms is not None:
        progress.pause_s = event.retry_ms / 1000


async def _whole(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"an answer is larger than {max_bytes} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _parsed(text: bytes | str) -> Any:
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise McpFailure(Phase.STREAMING, f"an answer that is no JSON: {error}", garbage=True) from None


def _lost_session(status: int, error: Message | None) -> bool:
    """Whether a server that knew our session knows it no more. The standard's word for it is 404, which means nothing
    else there; servers after the examples of the TypeScript SDK say 400, with a sentence."""
    if status == 404:
        return True
    return status == 400 and error is not None and "session" in str(error["error"].get("message")).lower()


def _rpc_error(body: str) -> Message | None:
    """The error object in the body of a refusal, None where there is none."""
    try:
        message = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    is_error = isinstance(message, dict) and isinstance(message.get("error"), dict) and "method" not in message
    return message if is_error else None

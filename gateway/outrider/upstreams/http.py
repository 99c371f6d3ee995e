"""An HTTP service as an upstream: one request on the wire for each attempt, never a redirect, never a hidden retry."""

from __future__ import annotations

import base64
import codecs
import ssl
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yarl
from aiohttp.connector import Connection

from outrider import __version__, clock
from outrider.calls import Attempt, Failure, Outcome, OutcomeKind, Reason
from outrider.domains.backoff import parse_retry_after
from outrider.errors import Code, Misconfigured
from outrider.policy.plans import HttpUpstream, Plan, Secret
from outrider.upstreams.template import Request, TemplateError, render

NEVER_PROCESSED = frozenset({425, 429})
"""RFC 8470 and RFC 6585: the server says that it did not process the request."""
BETWEEN_GATEWAYS = frozenset({502, 504})
"""An intermediary got no answer: what it asked may have run."""
KEEPALIVE_S = 4.0
"""Idle connections are dropped before common servers drop them (5 s): a write on a connection that the server has just
closed would be an unknown outcome for nothing."""
NOT_CHARSETS = frozenset(
    {"idna", "mbcs", "oem", "palmos", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)
"""Python's own text codecs, which no HTTP charset names: some take quadratic time, others make lone surrogates."""
_sending: ContextVar[Attempt] = ContextVar("attempt")
"""The attempt that this task sends. A call's task sends one at a time."""
_decode_json = msgspec.json.Decoder().decode


class HttpDriver:
    """Sends attempts to one HTTP upstream."""

    def __init__(self, settings: HttpUpstream) -> None:
        """Raises Misconfigured when a certificate file cannot be read."""
        self._settings = settings
        self._base = settings.url.rstrip("/")
        self._ssl = ssl_context(settings)
        self._session: aiohttp.ClientSession | None = None

    async def send(self, attempt: Attempt, plan: Plan, timeout_s: float) -> Outcome:
        try:
            request = render(plan.http, attempt.tool.partition(".")[2], self._args(attempt, plan))
        except TemplateError as wrong:
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.INVALID_REQUEST, detail=str(wrong), stage="upstream")
        try:
            return await self._exchange(attempt, plan, request)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return _broken(attempt, error)

    async def stopped(self, attempt: Attempt, plan: Plan, why: str) -> Outcome:
        """The connection is closed by then. Only what never left is proven not to have run."""
        kind = OutcomeKind.UNKNOWN if attempt.sent else OutcomeKind.NOT_EXECUTED
        failure = None if attempt.sent else Failure(Reason.CONNECT, f"no connection to {self._base} in time")
        return Outcome(kind, failure=failure)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _args(self, attempt: Attempt, plan: Plan) -> dict[str, Any]:
        args = dict(attempt.call.args)
        if attempt.idempotency_key and plan.idempotency_argument:
            args[plan.idempotency_argument] = attempt.idempotency_key
        return args

    async def _exchange(self, attempt: Attempt, plan: Plan, request: Request) -> Outcome:
        session = self._session or self._open()
        _sending.set(attempt)
        async with session.request(
            request.method,
            yarl.URL(self._base + request.path, encoded=True),
            data=request.body,
            headers=self._headers(attempt, plan, request),
            allow_redirects=False,
            timeout=_timeout(plan.timeouts.connect_s),
        ) as response:
            body = await self._read(response)
            return self._judge(response, body)

    def _headers(self, attempt: Attempt, plan: Plan, request: Request) -> dict[str, str]:
        headers = {"Outrider-Call": attempt.call.id, "Gateway-Attempt": str(attempt.n), **request.headers}
        if attempt.deadline_ms is not None:
            headers["Gateway-Timeout-Ms"] = str(attempt.deadline_ms)
        if attempt.call.traceparent:
            headers["traceparent"] = attempt.call.traceparent
        if attempt.idempotency_key and plan.idempotency_header:
            headers[plan.idempotency_header] = attempt.idempotency_key
        for name, value in self._settings.headers.items():
            headers[name] = value.reveal() if isinstance(value, Secret) else value
        return headers

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._settings.use_env_proxy,
            request_class=_MarkingRequest,
            headers={"User-Agent": f"outrider/{__version__}"},
            max_line_size=16 * 1024,
            max_field_size=16 * 1024,
        )
        # aiohttp re-sends GET, PUT and DELETE once by itself after a disconnect: a second request for one attempt.
        # A private switch, so a test counts the requests at a server.
        self._session._retry_connection = False
        return self._session

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._settings.max_response_bytes
        if response.content_length is not None and response.content_length > limit:
            raise _TooLarge(limit)
        parts: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                raise _TooLarge(limit)
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _judge(self, response: aiohttp.ClientResponse, body: bytes) -> Outcome:
        status = response.status
        if 200 <= status < 300:
            return _success(response, body)
        retry_after_s = parse_retry_after(response.headers.get("Retry-After"), clock.wall())
        failure = Failure(Reason.STATUS, _status_text(response, body), status, retry_after_s)
        if status in NEVER_PROCESSED or status in self._settings.safe_statuses:
            return Outcome(OutcomeKind.NOT_EXECUTED, failure=failure)
        kind = OutcomeKind.UNKNOWN if status in BETWEEN_GATEWAYS else OutcomeKind.DEFINITE
        return Outcome(kind, failure=failure)


class _TooLarge(ValueError):
    """The answer is larger than the policy allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the answer is larger than {limit} bytes (http.maxResponse of the upstream)")


class _MarkingRequest(aiohttp.ClientRequest):
    """Marks the attempt as sent when its request gets a connection: the next thing that happens is a write.

    aiohttp's tracing could tell too, at 30 µs a request; this is the same moment, a step earlier."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        _sending.get().sent = True
        return await super().send(conn)


@lru_cache(maxsize=64)
def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s)


def _broken(attempt: Attempt, error: Exception) -> Outcome:
    """No whole answer. Before the headers left, nothing can have run; after, it may have."""
    text = _clean(f"{type(error).__name__}: {error}"[:500])
    if not attempt.sent:
        return Outcome(OutcomeKind.NOT_EXECUTED, failure=Failure(Reason.CONNECT, text))
    unreadable = isinstance(error, (aiohttp.ClientResponseError, aiohttp.ClientPayloadError, ValueError))
    return Outcome(OutcomeKind.UNKNOWN, failure=Failure(Reason.PROTOCOL if unreadable else Reason.RESET, text))


def _success(response: aiohttp.ClientResponse, body: bytes) -> Outcome:
    if not body:
        return Outcome(OutcomeKind.OK, value=None, result_bytes=0)
    kind = response.content_type
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return Outcome(OutcomeKind.OK, value=_decode_json(body), result_bytes=len(body))
        except (msgspec.DecodeError, RecursionError) as error:
            failure = Failure(Reason.PROTOCOL, f"the answer says it is JSON and is not: {error}", response.status)
            return Outcome(OutcomeKind.UNKNOWN, failure=failure)
    return Outcome(OutcomeKind.OK, value=_text_or_base64(response, body), result_bytes=len(body))


def _text_or_base64(response: aiohttp.ClientResponse, body: bytes) -> Any:
    try:
        codec = codecs.lookup(response.charset or "utf-8").name
        if codec not in NOT_CHARSETS:
            text = body.decode(codec)
            text.encode()  # UTF-7 can spell lone surrogates, which cannot be sent on
            return text
    except (ValueError, LookupError):  # not of this charset, or no charset
        pass
    return {"content_type": _clean(response.content_type), "base64": base64.b64encode(body).decode()}


def _clean(text: str) -> str:
    """Header text without the lone surrogates that stand for bytes that were not UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _status_text(response: aiohttp.ClientResponse, body: bytes) -> str:
    """What the model may learn from: the status and the beginning of the body."""
    said = body[:1000].decode("utf-8", "replace").strip()
    if 300 <= response.status < 400:
        said = "redirects are not followed; set the upstream's url to the final address"
    return _clean(f"HTTP {response.status} {response.reason or ''}".strip()) + (f": {said}" if said else "")


def ssl_context(settings: HttpUpstream) -> ssl.SSLContext | bool:
    """The trust for this upstream: the system's, or a private CA; with a client certificate where one is named."""
    if not (settings.ca_file or settings.cert_file):
        return True
    for name in filter(None, (settings.ca_file, settings.cert_file, settings.key_file)):
        if not Path(name).is_file():
            raise Misconfigured(f"The file {name} of the upstream {settings.url} does not exist.")
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"The TLS files of the upstream {settings.url} cannot be used: {error}") from None
    return context

"""An HTTP service as an upstream: one request on the wire for each attempt, never a redirect, never a hidden retry."""

from __future__ import annotations

import base64
import codecs
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from outrider import __version__, clock
from outrider.calls import Attempt, Failure, Outcome, OutcomeKind, Reason
from outrider.domains.backoff import parse_retry_after
from outrider.errors import Code, Misconfigured
from outrider.policy.plans import HttpUpstream, Plan, Secret
from outrider.upstreams.http1 import Answer, Origin
from outrider.upstreams.http_stream import RawDriver
from outrider.upstreams.raw_caller import RawCaller
from outrider.upstreams.statuses import kind_of
from outrider.upstreams.template import Request, TemplateError, render

NOT_CHARSETS = frozenset(
    {"idna", "mbcs", "oem", "palmos", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)
"""Python's own text codecs, which no HTTP charset names: some take quadratic time, others make lone surrogates."""
_decode_json = msgspec.json.Decoder().decode


class HttpDriver:
    """Sends attempts to one HTTP upstream."""

    def __init__(self, settings: HttpUpstream) -> None:
        """Raises Misconfigured when a certificate file cannot be read."""
        self._settings = settings
        self._context = ssl_context(settings)
        self._origin = Origin(settings.url, self._context, use_env_proxy=settings.use_env_proxy)
        self._raw: RawDriver | None = None
        self._headers = {"User-Agent": f"outrider/{__version__}"}
        for name, value in settings.headers.items():
            self._headers[name] = value.reveal() if isinstance(value, Secret) else value

    async def send(self, attempt: Attempt, plan: Plan, timeout_s: float) -> Outcome:
        caller = attempt.caller
        if isinstance(caller, RawCaller) and caller.tool == attempt.tool:
            return await self._raw_driver().send(attempt, plan, caller)
        try:
            request = render(plan.http, attempt.tool.partition(".")[2], self._args(attempt, plan))
        except TemplateError as wrong:
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.INVALID_REQUEST, detail=str(wrong), stage="upstream")
        try:
            return await self._exchange(attempt, plan, request)
        except (OSError, TimeoutError, ValueError) as error:
            return _broken(attempt, error)

    async def stopped(self, attempt: Attempt, plan: Plan, why: str) -> Outcome:
        """The connection is closed by then. Only what never left is proven not to have run."""
        kind = OutcomeKind.UNKNOWN if attempt.sent else OutcomeKind.NOT_EXECUTED
        failure = None if attempt.sent else Failure(Reason.CONNECT, f"no connection to {self._settings.url} in time")
        return Outcome(kind, failure=failure)

    async def close(self) -> None:
        self._origin.close()
        if self._raw is not None:
            self._raw.close()

    def _raw_driver(self) -> RawDriver:
        """Made when it is first needed: most upstreams are never spoken to so."""
        if self._raw is None:
            own = {name: value for name, value in self._headers.items() if name in self._settings.headers}
            self._raw = RawDriver(self._settings, self._context, own)
        return self._raw

    def _args(self, attempt: Attempt, plan: Plan) -> dict[str, Any]:
        args = dict(attempt.call.args)
        if attempt.idempotency_key and plan.idempotency_argument:
            args[plan.idempotency_argument] = attempt.idempotency_key
        return args

    async def _exchange(self, attempt: Attempt, plan: Plan, request: Request) -> Outcome:
        headers = self._headers_of(attempt, plan, request)
        data = self._origin.request(request.method, request.path, headers, request.body)

        def on_send() -> None:
            attempt.sent = True

        answer = await self._origin.exchange(
            data,
            head_only=request.method == "HEAD",
            limit=self._settings.max_response_bytes,
            connect_s=plan.timeouts.connect_s,
            on_send=on_send,
        )
        attempt.status = answer.status
        return self._judge(answer)

    def _headers_of(self, attempt: Attempt, plan: Plan, request: Request) -> dict[str, str]:
        headers = {"Outrider-Call": attempt.call.id, "Gateway-Attempt": str(attempt.n), **request.headers}
        if attempt.deadline_ms is not None:
            headers["Gateway-Timeout-Ms"] = str(attempt.deadline_ms)
        if attempt.traceparent:
            headers["traceparent"] = attempt.traceparent
            if attempt.call.tracestate:
                headers["tracestate"] = attempt.call.tracestate
        if attempt.idempotency_key and plan.idempotency_header:
            headers[plan.idempotency_header] = attempt.idempotency_key
        headers.update(self._headers)
        return headers

    def _judge(self, answer: Answer) -> Outcome:
        status = answer.status
        if 200 <= status < 300:
            return _success(answer)
        retry_after_s = parse_retry_after(answer.headers.get("retry-after"), clock.wall())
        failure = Failure(Reason.STATUS, _status_text(answer), status, retry_after_s)
        return Outcome(kind_of(status, self._settings), failure=failure)


def _broken(attempt: Attempt, error: Exception) -> Outcome:
    """No whole answer. Before the first byte left, nothing can have run; after, it may have."""
    text = _clean(f"{type(error).__name__}: {error}"[:500])
    if not attempt.sent:
        return Outcome(OutcomeKind.NOT_EXECUTED, failure=Failure(Reason.CONNECT, text))
    reason = Reason.PROTOCOL if isinstance(error, ValueError) else Reason.RESET
    return Outcome(OutcomeKind.UNKNOWN, failure=Failure(reason, text))


def _success(answer: Answer) -> Outcome:
    body = answer.body
    if not body:
        return Outcome(OutcomeKind.OK, value=None, result_bytes=0)
    kind, charset = _content_type(answer.headers.get("content-type", ""))
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return Outcome(OutcomeKind.OK, value=_decode_json(body), result_bytes=len(body))
        except (msgspec.DecodeError, RecursionError) as error:
            failure = Failure(Reason.PROTOCOL, f"the answer says it is JSON and is not: {error}", answer.status)
            return Outcome(OutcomeKind.UNKNOWN, failure=failure)
    return Outcome(OutcomeKind.OK, value=_text_or_base64(body, kind, charset), result_bytes=len(body))


@lru_cache(maxsize=256)
def _content_type(text: str) -> tuple[str, str]:
    """Type and charset, both in lower case (RFC 9110, section 8.3); without a type it is bytes."""
    kind, *parameters = (part.strip() for part in text.lower().split(";"))
    found = dict(parameter.partition("=")[::2] for parameter in parameters)
    return kind or "application/octet-stream", found.get("charset", "").strip('"') or "utf-8"


def _text_or_base64(body: bytes, kind: str, charset: str) -> Any:
    try:
        codec = codecs.lookup(charset).name
        if codec not in NOT_CHARSETS:
            text = body.decode(codec)
            text.encode()  # UTF-7 can spell lone surrogates, which cannot be sent on
            return text
    except (ValueError, LookupError):  # not of this charset, or no charset
        pass
    return {"content_type": _clean(kind), "base64": base64.b64encode(body).decode()}


def _clean(text: str) -> str:
    """Header text without the lone surrogates that stand for bytes that were not UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _status_text(answer: Answer) -> str:
    """What the model may learn from: the status and the beginning of the body."""
    said = answer.body[:1000].decode("utf-8", "replace").strip()
    if 300 <= answer.status < 400:
        said = "redirects are not followed; set the upstream's url to the final address"
    return _clean(f"HTTP {answer.status} {answer.reason}".strip()) + (f": {said}" if said else "")


def ssl_context(settings: HttpUpstream) -> ssl.SSLContext | None:
    """The trust for this upstream where it is not the system's: a private CA, a client certificate."""
    if not (settings.ca_file or settings.cert_file):
        return None
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

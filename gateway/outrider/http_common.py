"""What both planes share: credentials, problems, limits, and no to browsers of other origins."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import logging
import os
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web

from outrider.errors import CODES, Code, Misconfigured, Refused, problem
from outrider.identity.credential import Credential
from outrider.peers.client import credential
from outrider.settings import Peers, Settings, Tls

log = logging.getLogger("outrider.http")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Guard = Callable[[web.Request], web.Response | Awaitable[web.Response | None] | None]
"""Says no to a request, or nothing. What must be waited for to know comes as an awaitable; waiting is the exception."""
CREDENTIAL: web.RequestKey[Credential] = web.RequestKey("credential", Credential)
"""Where the guard of the data plane leaves what was shown."""
TOKEN_HEADER = "Outrider-Token"  # noqa: S105  # a header's name
PROBLEM_TYPE = "application/problem+json"
MIN_TOKEN_CHARS = 16
MAKE_ONE = "Make one for all sidecars, for example by: openssl rand -hex 32"
encode_json = msgspec.json.Encoder(enc_hook=str).encode


class AnothersName(ValueError):
    """A request under a name that its credential does not prove."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The bearer tokens of this sidecar. ``metrics`` may read /metrics and nothing else, ``peer`` opens the routes for
    peers and nothing else."""

    agent: str
    admin: str
    metrics: str | None = None
    peer: str | None = None

    def kind(self, token: str) -> Literal["agent", "admin", "metrics", "peer"] | None:
        """Whose token this is, in constant time for each candidate."""
        given = token.encode("utf-8", "surrogateescape")
        if hmac.compare_digest(given, self.agent.encode()):
            return "agent"
        if hmac.compare_digest(given, self.admin.encode()):
            return "admin"
        if self.metrics is not None and hmac.compare_digest(given, self.metrics.encode()):
            return "metrics"
        if self.peer is not None and hmac.compare_digest(given, self.peer.encode()):
            return "peer"
        return None

    @classmethod
    def load(cls, settings: Settings) -> Tokens:
        """Read them, making the agents' and the people's on the first start. Raises Misconfigured."""
        metrics = settings.metrics_token_file
        admin = _read_or_make(settings.admin_token_file)
        return cls(
            agent=_read_or_make(settings.agent_token_file),
            admin=admin,
            metrics=_read(metrics) if metrics.exists() else None,
            peer=_peer(settings.peers, admin),
        )


def _peer(peers: Peers, admin: str) -> str | None:
    """None without peers: nothing then opens their routes but the people's token."""
    if not peers:
        return None
    return credential(admin if peers.secret_file is None else _read(peers.secret_file, MAKE_ONE))


def _read_or_make(path: Path) -> str:
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
    return _read(path)


def _read(path: Path, fix: str = "Delete the file, and the next start makes one.") -> str:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise Misconfigured(f"The token file {path} cannot be read: {error.strerror}.") from None
    if len(token) < MIN_TOKEN_CHARS:
        raise Misconfigured(f"The token in {path} is shorter than {MIN_TOKEN_CHARS} characters. {fix}")
    return token


def bearer(request: web.Request) -> str:
    """The token of ``Authorization: Bearer …``, empty where there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def shown(request: web.Request) -> str:
    """An agent's credential, in a header of our own, which leaves Authorization to the client, or in Authorization."""
    own = request.headers.get(TOKEN_HEADER)
    return own.strip() if own is not None else in_authorization(request.headers.get("Authorization", ""))


def in_authorization(value: str) -> str:
    """The token of ``Bearer TOKEN``, or of ``Basic`` with the user ``token``: the user part of a URL, as in
    ``http://token:TOKEN@host``. Empty where there is none."""
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        user, _, password = base64.b64decode(rest.strip(), validate=True).decode("ascii").partition(":")
    except ValueError:
        return ""
    return password if user == "token" else ""


def problem_response(code: Code, detail: str, *, status: int | None = None, **fields: Any) -> web.Response:
    """An RFC 9457 answer."""
    return respond_problem(problem(code, detail, status=status, **fields))


def respond_problem(body: dict[str, Any]) -> web.Response:
    """The HTTP answer of a problem object, with ``Retry-After`` (whole seconds, rounded up) where it is known."""
    headers: dict[str, str] = {}
    retry_after_ms = body.get("retry_after_ms")
    if retry_after_ms is not None:
        headers["Retry-After"] = str(max(1, -(-int(retry_after_ms) // 1000)))
    if body["status"] == 401:
        headers["WWW-Authenticate"] = f'Bearer realm="outrider", error_description="{_quotable(body["detail"])}"'
    return web.Response(body=_encoded(body), status=int(body["status"]), headers=headers, content_type=PROBLEM_TYPE)


def _quotable(text: str) -> str:
    """What may stand between quotes in a header: the answer to a WebSocket's handshake has no body that is read."""
    return text.encode("ascii", "replace").decode().replace("\\", "/").replace('"', "'")[:500]


def _encoded(body: dict[str, Any]) -> bytes:
    """A problem that quotes bytes which were no UTF-8 is told all the same."""
    try:
        return encode_json(body)
    except UnicodeEncodeError:
        return encode_json({**body, "detail": str(body["detail"]).encode("utf-8", "replace").decode()})


def json_response(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=encode_json(body), status=status, content_type="application/json")


def cross_origin(request: web.Request) -> web.Response | None:
    """A page of another origin may not use a person's browser to reach this listener."""
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin != f"{request.scheme}://{request.host}"
    if foreign or request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        return problem_response(Code.FORBIDDEN, "Requests from pages of another origin are refused.")
    return None


def own_host_only(request: web.Request) -> web.Response | None:
    """A page whose name was pointed at this machine is of the same origin to a browser, so a browser must have asked
    for an address or for localhost. Programs may use any name."""
    browser = "Sec-Fetch-Site" in request.headers or "Origin" in request.headers
    if browser and not _is_own(request.url.host or ""):
        return problem_response(Code.FORBIDDEN, "Browsers reach this listener by its address or as localhost only.")
    return None


def no_tunnel(request: web.Request) -> web.Response | None:
    """What a tunnel carries cannot be governed."""
    if request.method != "CONNECT":
        return None
    detail = "CONNECT is not offered: this is no forward proxy. Set your client's base URL to …/http/UPSTREAM."
    return problem_response(Code.INVALID_REQUEST, detail, status=501)


def _is_own(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def guarded(*guards: Guard) -> Any:
    """A middleware: the guards in order, then the route. Every error answer is a problem object, the framework's own
    ones and faults of ours; a guard that errs refuses."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            for guard in guards:
                refusal = guard(request)
                if refusal is not None and not isinstance(refusal, web.Response):
                    refusal = await refusal
                if refusal is not None:
                    return refusal
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return respond_problem(_of_http_error(request, error))
        except Refused as refusal:
            return problem_response(Code(refusal.code), str(refusal), errors=refusal.problem.get("errors"))
        except Exception:
            log.exception("a route failed", extra={"path": request.path})
            return problem_response(Code.INTERNAL, "A fault in Outrider; see the sidecar's log.")

    return middleware


def _of_http_error(request: web.Request, error: web.HTTPException) -> dict[str, Any]:
    by_status = {CODES[code].status: code for code in (Code.INVALID_REQUEST, Code.NOT_FOUND, Code.TOO_LARGE)}
    code = by_status.get(error.status, Code.INVALID_REQUEST)
    details = {
        404: f"There is no {request.method} {request.path} here.",
        405: f"{request.method} is not offered at {request.path}; allowed: {error.headers.get('Allow', '')}.",
        413: "The request's body is larger than this listener accepts.",
    }
    return problem(code, details.get(error.status, error.reason), status=error.status)


def ssl_context(tls: Tls, option: str) -> ssl.SSLContext | None:
    """The TLS of a listener, None for plain text. Raises Misconfigured."""
    if not (tls.cert_file or tls.key_file):
        return None
    if not (tls.cert_file and tls.key_file):
        raise Misconfigured(f"{option}: a certificate and a key belong together; only one of them is given.")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"{option}: {tls.cert_file} and {tls.key_file} cannot be used: {error}") from None
    return context


def peer_tls(settings: Settings) -> ssl.SSLContext | None:
    """How peers are spoken to: as they speak to us. None for plain text. Raises Misconfigured."""
    ca_file = settings.peers.ca_file
    if not settings.control_tls.cert_file:
        if ca_file:
            raise Misconfigured("--peer-ca is for TLS, and this control plane has none: give --control-cert too.")
        return None
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"--peer-ca: {ca_file} cannot be used: {error}") from None

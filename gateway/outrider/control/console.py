"""The page that people look at; see ``console/``.

GET    /                          the page
GET    /console/{file}            its scripts, its style, its picture
GET    /v1/console/session        whether this browser is signed in
POST   /v1/console/session        sign in with the admin token: a cookie
DELETE /v1/console/session        sign out
GET    /v1/events                 everything the page shows, as server-sent events
GET    /v1/peer/board             for peers: what the page of this sidecar alone would show
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from aiohttp import web

from outrider import clock
from outrider.console import files
from outrider.console.live import Live, TooMany
from outrider.console.sessions import Session, Sessions
from outrider.control.console_board import Reading
from outrider.control.routes import CREDENTIAL, MAX_ACTOR_CHARS, Routes
from outrider.control_bodies import read_body, refuse_unknown
from outrider.errors import Code
from outrider.http_common import Tokens, json_response, problem_response
from outrider.services import Services

HEADER = "Outrider-Console"
"""Sent by the page with whatever changes something: a form of another page cannot send it."""
MAY = frozenset({("GET", "/v1/events"), ("POST", "/v1/kills"), ("DELETE", "/v1/console/session")})
"""What the cookie opens, and nothing else."""
OPEN = frozenset({("GET", "/"), ("GET", "/v1/console/session"), ("POST", "/v1/console/session")})
SLOW_S = 10.0
"""A page that takes nothing for this long is let go."""
SAFE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Headers of every file: no script, style, picture or connection of anybody else's, in nobody's frame, and no text that
becomes markup."""


class SignIn(msgspec.Struct, frozen=True):
    """``POST /v1/console/session``. ``name`` is recorded in the ledger as who acts, as the word of who signs in."""

    token: str
    name: str = ""


class Desk:
    """What the page's routes keep: who is signed in, the files, the board."""

    def __init__(self, services: Services, tokens: Tokens) -> None:
        self.tokens = tokens
        self.sessions = Sessions()
        self.files = files.load()
        self.reading = Reading(services)
        self.live = Live(self.reading.board)


DESK = web.AppKey("desk", Desk)


async def on_shutdown(app: web.Application) -> None:
    """The listener closes: open pages are told, and hold nothing up."""
    app[DESK].live.close()
    await app[DESK].reading.close()


# ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_open(request: web.Request) -> bool:
    """The page itself holds nothing; a browser asks for it before anybody signed in."""
    return (request.method, request.path) in OPEN or (request.method == "GET" and request.path.startswith("/console/"))


def is_arrival(request: web.Request) -> bool:
    """Somebody follows a link to the page. Sites may link to it; what it then loads it asks for itself."""
    fetched = (request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest"))
    return (request.method, request.path) == ("GET", "/") and fetched == ("navigate", "document")


def signed_in(request: web.Request) -> bool:
    """Whether the browser's cookie is a live session's, and opens this."""
    session = session_of(request)
    asked = (request.method, request.path)
    if session is None or asked not in MAY or (request.method != "GET" and HEADER not in request.headers):
        return False
    request[CREDENTIAL] = f"console ({session.name})" if session.name else "console"
    return True


def session_of(request: web.Request) -> Session | None:
    """The session of the browser's cookie."""
    secret = request.cookies.get(_cookie(request), "")
    return request.app[DESK].sessions.find(secret, clock.monotonic()) if secret else None


def _cookie(request: web.Request) -> str:
    """Cookies are shared by all ports of a host: each sidecar's has its own name."""
    return f"outrider_session_{request.url.port}"


async def _session(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    session = session_of(request)
    return _private(json_response({"signed_in": session is not None, "name": session.name if session else ""}))


async def _sign_in(services: Services, request: web.Request) -> web.Response:
    desk, now = request.app[DESK], clock.monotonic()
    given = read_body(await request.read(), SignIn)
    if (wait_s := desk.sessions.patience_s(now)) > 0:
        detail = "Too many wrong tokens were given. Wait a little, then try again."
        return problem_response(Code.RATE_LIMITED, detail, retry_after_ms=int(wait_s * 1000))
    if desk.tokens.kind(given.token.strip()) != "admin":
        desk.sessions.failed(now)
        detail = "This is not the admin token of this sidecar. It is in the file admin.token in the data folder."
        return problem_response(Code.UNAUTHENTICATED, detail)
    desk.sessions.close(request.cookies.get(_cookie(request), ""))  # nobody would hold its secret any more
    name = given.name.strip()[:MAX_ACTOR_CHARS]
    secret = desk.sessions.open(name if name.isprintable() else "", now)
    answer = _private(json_response({"signed_in": True}, status=201))
    answer.set_cookie(_cookie(request), secret, httponly=True, samesite="Strict", secure=request.secure, path="/")
    return answer


async def _sign_out(services: Services, request: web.Request) -> web.Response:
    name = _cookie(request)
    request.app[DESK].sessions.close(request.cookies.get(name, ""))
    answer = _private(json_response({"signed_in": False}))
    answer.del_cookie(name, httponly=True, samesite="Strict", secure=request.secure, path="/")
    return answer


def _private(response: web.Response) -> web.Response:
    response.headers["Cache-Control"] = "no-store"
    return response


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _page(services: Services, request: web.Request) -> web.Response:
    return _answer(request, files.PAGE)


async def _file(services: Services, request: web.Request) -> web.Response:
    return _answer(request, request.match_info["file"])


def _answer(request: web.Request, name: str) -> web.Response:
    file = request.app[DESK].files.get(name)
    if file is None:
        return problem_response(Code.NOT_FOUND, f"The console has no file '{name[:80]}'.")
    headers = SAFE | {"ETag": file.tag}
    if request.headers.get("If-None-Match") == file.tag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.body, content_type=file.content_type, charset="utf-8", headers=headers)


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _events(services: Services, request: web.Request) -> web.StreamResponse:
    refuse_unknown(request.query)
    session = session_of(request) if CREDENTIAL in request else None
    live = request.app[DESK].live
    try:
        reader = live.reader()
    except TooMany:
        detail = "Too many pages are open at this sidecar. Close one, then load this one again."
        return problem_response(Code.OVERLOADED, detail)
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    with reader, contextlib.suppress(ConnectionError):
        await response.prepare(request)
        while (told := await reader.next()) is not None:
            if session is not None and session_of(request) is not session:
                await response.write(_end("signed_out"))
                return response
            if not await _taken(request, response, told):
                return response
        await response.write(_end("stopping"))
    return response


async def _taken(request: web.Request, response: web.StreamResponse, told: bytes) -> bool:
    """Whether the page took it. One that does not read is cut off: what it missed is not kept for it."""
    try:
        async with asyncio.timeout(SLOW_S):
            await response.write(told)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        return False
    return True


def _end(reason: str) -> bytes:
    return b'event: end\ndata: {"reason": "%s"}\n\n' % reason.encode()


async def _board(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    sheet = await request.app[DESK].reading.sheet()
    return json_response({"who": services.fleet.lines.own.as_dict(), "board": [sheet.as_dict()]})


ROUTES: Routes = (
    ("GET", "/", _page),
    ("GET", "/console/{file}", _file),
    ("GET", "/v1/console/session", _session),
    ("POST", "/v1/console/session", _sign_in),
    ("DELETE", "/v1/console/session", _sign_out),
    ("GET", "/v1/events", _events),
    ("GET", "/v1/peer/board", _board),
)

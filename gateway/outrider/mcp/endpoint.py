"""The routes ``/mcp`` and ``/mcp/{upstream}``: a message comes in, an answer goes out, in the era that it is of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from outrider.errors import Code
from outrider.http_common import problem_response
from outrider.mcp import listing, streams
from outrider.mcp.answering import Answer, json_error, json_result
from outrider.mcp.inbound import Inbound, Rejected, argument_error, read
from outrider.mcp.replies import status_of
from outrider.mcp.sessions import Session, Sessions
from outrider.mcp.work import Asked, Asker, Desk
from outrider.mcp_wire import (
    INVALID_REQUEST,
    LEGACY,
    SESSION_HEADER,
    Message,
    RpcError,
)
from outrider.policy.plans import Upstream
from outrider.upstreams.mcp.session import OURSELVES
from outrider.upstreams.mcp.transport import McpFailure

CATALOG_S = 5.0
"""How long a call waits for a server's list before its way through the pipeline begins."""
UNKNOWN_SESSION = -31002

ReadBody = Callable[[web.Request], Awaitable[bytes | None]]
AskerOf = Callable[[web.Request], Asker]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the routes need. ``asker`` raises ValueError for a request under a name that is another's, or with headers
    that cannot be understood."""

    desk: Desk
    sessions: Sessions
    read_body: ReadBody
    asker: AskerOf
    streams: set[Answer]


async def post(endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
    """One message."""
    upstream = _upstream(endpoint, request)
    if isinstance(upstream, web.Response):
        return upstream
    body = await endpoint.read_body(request)
    if body is None:
        return problem_response(Code.TOO_LARGE, "The message is larger than limits.maxBody.")
    found = read(body, request.headers)
    if isinstance(found, Rejected):
        return _error(found.id, found.error, found.status)
    try:
        asker = endpoint.asker(request)
    except ValueError as wrong:
        return problem_response(Code.FORBIDDEN, str(wrong))
    answer = Answer(request, streams="text/event-stream" in request.headers.get("Accept", ""))
    try:
        handle = _modern if found.modern else _legacy
        return await handle(endpoint, request, found, asker, upstream, answer)
    finally:
        await answer.close()


def _upstream(endpoint: Endpoint, request: web.Request) -> Upstream | web.Response | None:
    """The upstream that the path names, None for all, or the refusal of a name that is none."""
    name = request.match_info.get("upstream")
    if name is None:
        return None
    found = endpoint.desk.policies.current.upstreams.get(name)
    if found is None or found.mcp is None:
        known = [one.name for one in endpoint.desk.policies.current.upstreams.values() if one.mcp is not None]
        detail = f"The policy has no MCP server '{name[:80]}'. It has: {', '.join(known) or 'none'}."
        return problem_response(Code.NOT_FOUND, detail)
    return found


def _error(id_: Any, error: RpcError, status: int) -> web.Response:
    return web.json_response(json_error(id_, error.as_dict()), status=status)


# ── the modern era ───────────────────────────────────────────────────────────────────────────────────────────────


async def _modern(
    endpoint: Endpoint, request: web.Request, found: Inbound, asker: Asker, upstream: Upstream | None, answer: Answer
) -> web.StreamResponse:
    if not found.wants_answer:
        return web.Response(status=202)
    asked = Asked(found, asker, upstream, found.version, found.capabilities, answer)
    wrong = await _arguments_error(endpoint, request, asked)
    if wrong is not None:
        return _error(found.id, wrong, status_of(wrong, modern=True))
    if found.method == "subscriptions/listen":
        return await _subscription(endpoint, asked)
    return await _answered(endpoint, asked, lambda flight: None)


async def _answered(
    endpoint: Endpoint, asked: Asked, started: Any, done: Callable[[], None] = lambda: None
) -> web.StreamResponse:
    """``done`` is called where there is a result."""
    id_ = asked.inbound.id
    try:
        result = await endpoint.desk.handle(asked, started)
    except RpcError as error:
        status = status_of(error, modern=asked.inbound.modern)
        return await asked.answer.finish(json_error(id_, error.as_dict()), status)
    done()
    return await asked.answer.finish(json_result(id_, result))


async def _arguments_error(endpoint: Endpoint, request: web.Request, asked: Asked) -> RpcError | None:
    """Arguments that a tool wants in headers must stand there as in the body, before anything is decided by either."""
    if asked.inbound.method != "tools/call":
        return None
    name, upstream = str(asked.inbound.params.get("name")), asked.upstream
    if upstream is None:
        group, name = listing.split(name)
        upstream = endpoint.desk.policies.current.upstreams.get(group)
    driver = endpoint.desk.drivers.mcp(upstream) if upstream is not None else None
    if driver is None:
        return None  # no such tool: the call itself will tell
    try:
        async with asyncio.timeout(CATALOG_S):
            catalog = await driver.catalog()
    except (McpFailure, RpcError, ValueError, TimeoutError):
        return None  # so will it here
    tool = catalog.tools.get(name)
    return None if tool is None else argument_error(
        tool.get("inputSchema"), asked.inbound.params.get("arguments"), request.headers
    )  # fmt: skip


async def _subscription(endpoint: Endpoint, asked: Asked) -> web.StreamResponse:
    id_ = asked.inbound.id
    try:
        wanted = await streams.agreed(endpoint.desk, asked)
    except RpcError as error:
        return _error(id_, error, status_of(error, modern=True))
    if len(endpoint.streams) >= streams.MAX_STREAMS:
        return _error(id_, RpcError(streams.TOO_MANY, f"no more than {streams.MAX_STREAMS} streams may be open"), 200)
    endpoint.streams.add(asked.answer)
    try:
        return await streams.subscription(endpoint.desk, asked, wanted)
    finally:
        endpoint.streams.discard(asked.answer)


# ── the legacy era ───────────────────────────────────────────────────────────────────────────────────────────────


async def _legacy(
    endpoint: Endpoint, request: web.Request, found: Inbound, asker: Asker, upstream: Upstream | None, answer: Answer
) -> web.StreamResponse:
    if found.method == "initialize":
        return await _initialize(endpoint, request, found, asker, upstream)
    session = _session(endpoint, request, asker, found.id)
    if isinstance(session, web.Response):
        return session
    if not found.wants_answer:
        _heard(endpoint, session, found)
        return web.Response(status=202)
    asked = Asked(found, asker, upstream, session.version, dict(session.capabilities), answer, session.questions)

    def started(flight: Any) -> None:
        session.flights[found.id] = flight

    try:
        return await _answered(
            endpoint, asked, started, lambda: endpoint.sessions.followed(session, found.method, found.params)
        )
    finally:
        session.flights.pop(found.id, None)


def _owner(asker: Asker) -> str:
    """Whose session it is: another's token of the same issuer is another's."""
    return f"{asker.credential.principal.name} {asker.credential.agent.name}"


def _session(endpoint: Endpoint, request: web.Request, asker: Asker, id_: Any) -> Session | web.Response:
    given = request.headers.get(SESSION_HEADER)
    if given is None:
        error = RpcError(INVALID_REQUEST, f"the header {SESSION_HEADER} is missing; begin with initialize")
        return _error(id_, error, 400)
    session = endpoint.sessions.find(given, _owner(asker), request.path)
    if session is None:
        return _error(id_, RpcError(UNKNOWN_SESSION, "this session is not known here any more; begin anew"), 404)
    return session


def _heard(endpoint: Endpoint, session: Session, found: Inbound) -> None:
    """A notification of the client, or its answer to a question."""
    if "method" not in found.message:
        session.questions.answered(found.message)
    elif found.method == "notifications/cancelled":
        id_ = found.params.get("requestId")
        flight = session.flights.get(id_) if isinstance(id_, str | int) else None
        if flight is not None:
            endpoint.desk.supervisor.caller_gone(flight)


async def _initialize(
    endpoint: Endpoint, request: web.Request, found: Inbound, asker: Asker, upstream: Upstream | None
) -> web.StreamResponse:
    wanted = found.params.get("protocolVersion")
    capabilities = found.params.get("capabilities")
    if not isinstance(wanted, str) or not isinstance(capabilities, dict) or not found.wants_answer:
        error = RpcError(-32602, "'params.protocolVersion' must be a text and 'params.capabilities' an object")
        return _error(found.id, error, 200)
    version = wanted if wanted in LEGACY else LEGACY[0]
    try:
        server = await endpoint.desk.server(upstream, modern=False)
    except RpcError as error:
        return _error(found.id, error, 200)
    session = endpoint.sessions.open(_owner(asker), request.path, version, capabilities)
    result: Message = {
        "protocolVersion": version,
        "capabilities": dict(server.capabilities),
        "serverInfo": OURSELVES,
    }
    if server.instructions:
        result["instructions"] = server.instructions
    return web.json_response(json_result(found.id, result), headers={SESSION_HEADER: session.id})


async def get(endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
    """The stream of a legacy session, on which a client hears of changes."""
    upstream = _upstream(endpoint, request)
    if isinstance(upstream, web.Response):
        return upstream
    if SESSION_HEADER not in request.headers:
        return web.Response(status=405, headers={"Allow": "POST"})
    asker = endpoint.asker(request)
    session = _session(endpoint, request, asker, None)
    if isinstance(session, web.Response):
        return session
    if session.stream is not None or len(endpoint.streams) >= streams.MAX_STREAMS:
        return _error(None, RpcError(streams.TOO_MANY, "this session has a stream, or too many are open"), 409)
    answer = session.stream = Answer(request, streams=True)
    endpoint.streams.add(answer)
    asked = Asked(Inbound({}, session.version), asker, upstream, session.version, {}, answer)
    try:
        return await streams.session_stream(endpoint.desk, asked, session)
    finally:
        session.stream = None
        endpoint.streams.discard(answer)
        await answer.close()


async def delete(endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
    """A legacy client says that its session is over."""
    upstream = _upstream(endpoint, request)
    if isinstance(upstream, web.Response):
        return upstream
    if SESSION_HEADER not in request.headers:
        return web.Response(status=405, headers={"Allow": "POST"})
    session = _session(endpoint, request, endpoint.asker(request), None)
    if isinstance(session, web.Response):
        return session
    endpoint.sessions.close(session)
    return web.Response(status=204)

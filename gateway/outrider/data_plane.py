"""Routes for agents: ``POST /v1/call``, the adapters' channel, and the probes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from outrider import clock
from outrider.calls import Agent, Call, Effect, Outcome
from outrider.errors import Code, Refused
from outrider.flight import Flight
from outrider.http_common import (
    CREDENTIAL,
    TOKEN_HEADER,
    AnothersName,
    cross_origin,
    guarded,
    in_authorization,
    no_tunnel,
    own_host_only,
    problem_response,
    respond_problem,
    shown,
)
from outrider.identity import Authenticator, Credential, Denial
from outrider.mcp import metadata
from outrider.mcp.routes import mount as mount_mcp
from outrider.mcp.work import Asker, Desk
from outrider.policy.current import CurrentPolicy
from outrider.raw.endpoint import Place
from outrider.raw.mount import mount as mount_raw
from outrider.supervisor import Supervisor
from outrider.telemetry import traceparent_from, tracestate_from
from outrider.upstreams.drivers import Drivers
from outrider.upstreams.unpack import TooLarge, Unreadable, unpack
from outrider.wire import CallAnswer, CallBody

DEADLINE_HEADER = "Gateway-Timeout-Ms"
MAX_DEADLINE_MS = 86_400_000
MAX_NAME_CHARS = 200
NAMED = frozenset({"agent", "run"})
"""What people may stop by its name."""
BODY_S = 30.0
"""How long a request's body may take to arrive."""
KEYS_S = 3.0
"""How long a call waits for an issuer's keys that are being fetched."""
OPEN_PATHS = frozenset({"/livez", "/readyz"})
_decode_body = msgspec.json.Decoder(CallBody).decode
_encode_answer = msgspec.json.Encoder(enc_hook=str).encode


class BadRequest(ValueError):
    """A request that cannot be understood; the sentence says what and how to mend it."""


@dataclass(frozen=True, slots=True)
class DataPlane:
    """What the routes need. ``ready`` says why this sidecar is not ready, None when it is."""

    supervisor: Supervisor
    policies: CurrentPolicy
    authenticator: Authenticator
    channel: Callable[[web.Request, Credential], Awaitable[web.StreamResponse]]
    ready: Callable[[], str | None]
    drivers: Drivers


def data_app(plane: DataPlane) -> web.Application:
    """The agents' listener."""
    app = web.Application(
        middlewares=[guarded(no_tunnel, cross_origin, own_host_only, partial(_agents_only, plane.authenticator))],
        client_max_size=64 * 1024 * 1024,  # the policy's own, smaller limit is applied while reading
    )

    async def call(request: web.Request) -> web.StreamResponse:
        return await _call(plane, request)

    async def channel(request: web.Request) -> web.StreamResponse:
        return await plane.channel(request, request[CREDENTIAL])

    async def resource(request: web.Request) -> web.StreamResponse:
        return metadata.document(request, plane.policies.current)

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        why = plane.ready()
        return web.Response(text="ok\n") if why is None else web.Response(text=f"not ready: {why}\n", status=503)

    app.router.add_post("/v1/call", call)
    app.router.add_get("/v1/channel", channel)
    mount_mcp(app, Desk(plane.supervisor, plane.policies, plane.drivers), partial(_message, plane), _asker)
    authorization = partial(_own_authorization, plane.authenticator)
    mount_raw(app, Place(plane.supervisor, plane.policies, _raw_call, authorization))
    app.router.add_get(f"{metadata.PREFIX}{{endpoint:(/mcp(/[^/]+)?)?}}", resource)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    return app


def _agents_only(
    authenticator: Authenticator, request: web.Request
) -> web.Response | Awaitable[web.Response | None] | None:
    if request.path in OPEN_PATHS or metadata.is_metadata(request.path):
        return None
    found = authenticator.check(shown(request))
    if isinstance(found, Denial) and found.until is not None:
        return _when_keys_are_read(found, authenticator, request)
    return _let_in(found, request)


async def _when_keys_are_read(
    found: Credential | Denial, authenticator: Authenticator, request: web.Request
) -> web.Response | None:
    """Keys that were rotated a moment ago are being fetched: who came first waits for them. A fetch that was under way
    may have begun before the rotation, so the next one is waited for too; the keyring never begins a third."""
    give_up = clock.monotonic() + KEYS_S
    while isinstance(found, Denial) and found.until is not None and (left_s := give_up - clock.monotonic()) > 0:
        await asyncio.wait({found.until}, timeout=left_s)
        found = authenticator.check(shown(request))
    return _let_in(found, request)


def _let_in(found: Credential | Denial, request: web.Request) -> web.Response | None:
    if isinstance(found, Denial):
        refusal = problem_response(found.code, found.detail)
        if metadata.is_endpoint(request.path) and "WWW-Authenticate" in refusal.headers:
            refusal.headers["WWW-Authenticate"] += f", {metadata.challenge(request)}"
        return refusal
    request[CREDENTIAL] = found
    return None


async def _call(plane: DataPlane, request: web.Request) -> web.Response:
    limit = plane.policies.current.limits.max_body_bytes
    try:
        body = await _body(request, limit)
        if body is None:
            return problem_response(Code.TOO_LARGE, f"The body is larger than {limit} bytes (limits.maxBody).")
        call = to_call(body, request, request[CREDENTIAL])
    except BadRequest as wrong:
        return problem_response(Code.INVALID_REQUEST, str(wrong))
    except AnothersName as wrong:
        return problem_response(Code.FORBIDDEN, str(wrong))
    flight = plane.supervisor.submit(call)
    assert flight.answer is not None
    try:
        outcome = await asyncio.shield(flight.answer)
    except asyncio.CancelledError:
        plane.supervisor.caller_gone(flight)
        raise
    return _answer(flight, outcome, plane.supervisor)


async def _body(request: web.Request, limit: int) -> bytes | None:
    """The body, or None where it is larger than ``limit`` bytes. Raises BadRequest."""
    try:
        if request.content.is_eof():  # it came with the headers, as small ones do
            return await _read(request, limit)
        async with asyncio.timeout(BODY_S):
            return await _read(request, limit)
    except TimeoutError:
        raise BadRequest(f"The body did not arrive within {BODY_S:g} s.") from None
    except web.RequestPayloadError as error:
        raise BadRequest(f"The body cannot be read: {error}") from None


async def _read(request: web.Request, limit: int) -> bytes | None:
    """Compressed or not; what counts is what it unpacks to. Raises BadRequest."""
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding:
        packed = await _gathered(request, limit)
        try:
            return None if packed is None else unpack(packed, encoding, limit)
        except TooLarge:
            return None
        except Unreadable as wrong:
            raise BadRequest(f"The body cannot be unpacked: {wrong}.") from None
    declared = request.content_length
    if declared is not None:
        return await request.read() if declared <= limit else None
    return await _gathered(request, limit)


async def _gathered(request: web.Request, limit: int) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            return None
        parts.append(chunk)
    return b"".join(parts)


def to_call(body: bytes, request: web.Request, credential: Credential) -> Call:
    """The call that a request asks for. Raises BadRequest and AnothersName."""
    try:
        asked = _decode_body(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not what POST /v1/call takes: {error}. {EXAMPLE}") from None
    name = _one_of(request, "Outrider-Agent", asked.agent, "agent")
    traceparent, tracestate = _trace_context(request)
    return Call(
        id=clock.new_id(),
        tool=_name(asked.tool, "tool"),
        args=asked.args,
        agent=_agent(credential, name),
        principal=credential.principal,
        run=_one_of(request, "Outrider-Run", asked.run, "run"),
        session=_name(asked.session or "", "session"),
        parent=_name(asked.parent or "", "parent"),
        caller_ref=_name(asked.caller_ref or "", "caller_ref"),
        deadline_ms=_deadline_ms(request),
        traceparent=traceparent,
        tracestate=tracestate,
    )


def _raw_call(request: web.Request, tool: str, args: dict[str, Any], caller_ref: str, assumed: Effect) -> Call:
    """The call that a raw request is. Raises BadRequest and AnothersName."""
    credential = request[CREDENTIAL]
    traceparent, tracestate = _trace_context(request)
    return Call(
        id=clock.new_id(),
        tool=tool,
        args=args,
        agent=_agent(credential, _name(request.headers.get("Outrider-Agent", ""), "agent")),
        principal=credential.principal,
        run=_name(request.headers.get("Outrider-Run", ""), "run"),
        session=_name(request.headers.get("Outrider-Session", ""), "session"),
        parent=_name(request.headers.get("Outrider-Parent", ""), "parent"),
        caller_ref=caller_ref,
        deadline_ms=_deadline_ms(request),
        traceparent=traceparent,
        tracestate=tracestate,
        assumed=assumed,
    )


def _own_authorization(authenticator: Authenticator, request: web.Request) -> bytes | None:
    """A client's word for the upstream, where the credential for us came in another way; never what opens our doors."""
    own = request.headers.get("Authorization")
    if own is None or TOKEN_HEADER not in request.headers:
        return None
    if isinstance(authenticator.check(in_authorization(own)), Credential):
        return None
    return own.encode("utf-8", "surrogateescape")


async def _message(plane: DataPlane, request: web.Request) -> bytes | None:
    """The body of an MCP message; None where it is larger than the policy allows. Raises BadRequest."""
    return await _body(request, plane.policies.current.limits.max_body_bytes)


def _asker(request: web.Request) -> Asker:
    """Who sends an MCP message. Raises BadRequest and AnothersName."""
    credential = request[CREDENTIAL]
    traceparent, tracestate = _trace_context(request)
    return Asker(
        credential,
        _agent(credential, _name(request.headers.get("Outrider-Agent", ""), "agent")),
        run=_name(request.headers.get("Outrider-Run", ""), "run"),
        session=_name(request.headers.get("Outrider-Session", ""), "session"),
        deadline_ms=_deadline_ms(request),
        traceparent=traceparent,
        tracestate=tracestate,
    )


def _agent(credential: Credential, name: str) -> Agent:
    """Who calls. Raises AnothersName, and Refused where the credential came to be worth nothing since it was shown: the
    body may have taken its time."""
    denial = credential.refusal()
    if denial is not None:
        raise Refused(denial.detail, {"code": denial.code.value})
    agent = credential.agent_named(name)
    if agent is None:
        raise AnothersName(credential.foreign(name))
    return agent


EXAMPLE = 'For example: {"tool": "ledger.get_balance", "args": {"id": "42"}, "agent": "researcher"}'


def _one_of(request: web.Request, header: str, in_body: str | None, field: str) -> str:
    """A value that may come by header or body; both may not disagree."""
    in_header = request.headers.get(header)
    if in_header is not None and in_body is not None and in_header != in_body:
        raise BadRequest(f"The header {header} and the body's '{field}' disagree; send one of them.")
    return _name(in_header if in_header is not None else in_body or "", field)


def _name(text: str, field: str) -> str:
    if len(text) > MAX_NAME_CHARS:
        raise BadRequest(f"'{field}' is longer than {MAX_NAME_CHARS} characters.")
    if not text.isprintable():
        raise BadRequest(f"'{field}' holds characters that cannot be printed.")
    if field in NAMED and text != text.strip():  # what people name to stop it must be what they see
        raise BadRequest(f"'{field}' has blanks around it; leave them out.")
    return text


def _trace_context(request: web.Request) -> tuple[str, str]:
    traceparent = traceparent_from(request.headers.get("traceparent", ""))
    if not traceparent:
        return "", ""
    return traceparent, tracestate_from(traceparent, ",".join(request.headers.getall("tracestate", ())))


def _deadline_ms(request: web.Request) -> int | None:
    text = request.headers.get(DEADLINE_HEADER)
    if text is None:
        return None
    digits = text.lstrip("0") if text.isascii() and text.isdigit() else ""
    if not digits or len(digits) > 8 or int(digits) > MAX_DEADLINE_MS:
        raise BadRequest(f"{DEADLINE_HEADER} is whole milliseconds from 1 to {MAX_DEADLINE_MS}, not {text[:40]!a}.")
    return int(digits)


def _answer(flight: Flight, outcome: Outcome, supervisor: Supervisor) -> web.Response:
    if not outcome.ok:
        return respond_problem(supervisor.problem(flight, outcome))
    answer = CallAnswer(flight.call.id, "ok", outcome.value, flight.attempts, outcome.degraded)
    return web.Response(body=_encode_answer(answer), content_type="application/json")

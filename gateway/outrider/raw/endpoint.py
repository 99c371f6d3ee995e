"""The route ``/http/{upstream}/{path}``: from a raw request to a call, and from the call's end to an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from outrider.calls import Call, Effect, Outcome
from outrider.errors import Code
from outrider.flight import Flight
from outrider.http_common import AnothersName, json_response, problem_response, respond_problem
from outrider.policy.current import CurrentPolicy
from outrider.policy.load import Policy
from outrider.policy.patterns import raw_tool
from outrider.policy.plans import HttpUpstream, Plan
from outrider.raw import headers as sifting
from outrider.raw.arguments import is_form, is_json, of_request, of_tool
from outrider.raw.exchange import Body, Exchange, ask_for_body, more_of
from outrider.raw.routes import Found, Routes
from outrider.raw.target import Target, read_target
from outrider.supervisor import Supervisor
from outrider.upstreams.raw_caller import CallerGone, Upload

REPLAYED_BYTES: Final = 64 * 1024
"""A body of at most so many bytes is kept, so that it can be sent again."""
BODY_S: Final = 30.0
"""How long what is kept of a body may take to arrive."""
EFFECTS: Final[Mapping[str, Effect]] = {
    "GET": Effect.READ,
    "HEAD": Effect.READ,
    "OPTIONS": Effect.READ,
    "PUT": Effect.IDEMPOTENT,
    "DELETE": Effect.IDEMPOTENT,
}
"""What a method promises (RFC 9110, section 9.2); any other may change something each time."""
PASSED_ON: Final = frozenset({Code.UPSTREAM_FAILED, Code.OUTCOME_UNKNOWN})
"""Ends by which the upstream's own answer, where there is one, says more than ours."""


class Refused(Exception):
    """A request that goes no further; ``answer`` says why."""

    def __init__(self, answer: web.Response) -> None:
        super().__init__()
        self.answer = answer


@dataclass(slots=True)
class Place:
    """What the route needs. ``to_call(request, tool, args, caller_ref, assumed)`` names the caller, and raises
    ValueError; ``authorization`` is the client's own word for the upstream, None where it has none."""

    supervisor: Supervisor
    policies: CurrentPolicy
    to_call: Callable[[web.Request, str, dict[str, Any], str, Effect], Call]
    authorization: Callable[[web.Request], bytes | None]
    _routes: dict[str, Routes] = field(default_factory=dict)
    _of: Policy | None = None

    def routes(self, upstream: str) -> Routes:
        """Of the policy in force."""
        if self._of is not self.policies.current:
            self._of, self._routes = self.policies.current, {}
        if upstream not in self._routes:
            self._routes[upstream] = Routes(self.policies.current, upstream)
        return self._routes[upstream]


async def handle(place: Place, request: web.Request) -> web.StreamResponse:
    """Any raw request."""
    try:
        call, exchange = await _asked(place, request)
    except Refused as refused:
        return refused.answer
    flight = place.supervisor.submit(call, exchange)
    assert flight.answer is not None
    try:
        outcome = await asyncio.shield(flight.answer)
    except asyncio.CancelledError:
        place.supervisor.caller_gone(flight)
        raise
    return await _answered(place, flight, outcome, exchange)


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────


async def _asked(place: Place, request: web.Request) -> tuple[Call, Exchange]:
    """Raises Refused."""
    _refuse_other_protocols(request)
    try:
        target = read_target(request.raw_path)
        settings = _settings(place, target.upstream)
        policy = place.policies.current
        found = place.routes(target.upstream).find(request.method, target)
        body, readable = await _body(place, request, found is not None)
        if policy is not place.policies.current:  # a newer one decides, so it says which tool it is
            settings = _settings(place, target.upstream)
            found = place.routes(target.upstream).find(request.method, target)
        tool = found.tool if found is not None else raw_tool(target.upstream)
        args = _arguments(request, target, found, body, readable)
        call = place.to_call(
            request, tool, args, _caller_ref(request, found), EFFECTS.get(request.method, Effect.WRITE)
        )
    except AnothersName as wrong:
        raise _refused(Code.FORBIDDEN, str(wrong)) from None
    except ValueError as wrong:
        raise _refused(Code.INVALID_REQUEST, str(wrong)) from None
    if found is not None:
        _refuse_unread(place, call, readable)
    own = place.authorization(request) if settings.forwards_authorization else None
    kept = sifting.of_request(request.raw_headers, own)
    return call, Exchange(request, call.id, tool, target.text, kept, body)


def _refuse_other_protocols(request: web.Request) -> None:
    """Raises Refused."""
    if request.method == "TRACE":
        raise _refused(Code.INVALID_REQUEST, "TRACE is not offered: its answer would show what only we know.", 501)
    if "websocket" in request.headers.get("Upgrade", "").lower():
        detail = "WebSockets are not offered through /http: what passes over one cannot be governed call by call."
        raise _refused(Code.INVALID_REQUEST, detail, 501)
    if name := sifting.overriding(request.raw_headers):
        detail = f"The header {name} would make it another request than the one that the rules see. Leave it out."
        raise _refused(Code.INVALID_REQUEST, detail)


def _settings(place: Place, name: str) -> HttpUpstream:
    """Raises Refused."""
    upstreams = place.policies.current.upstreams
    found = upstreams.get(name)
    if found is not None and found.http is not None:
        return found.http
    known = ", ".join(sorted(one.name for one in upstreams.values() if one.http is not None)) or "none"
    raise _refused(Code.NOT_FOUND, f"The policy has no HTTP upstream '{name[:80]}'. It has: {known}.")


async def _body(place: Place, request: web.Request, is_declared: bool) -> tuple[bytes | Upload | None, bool]:
    """The body, kept where it is short or holds arguments, and whether all of it can be read. Raises Refused."""
    if not request.can_read_body:
        return (b"" if "Content-Length" in request.headers else None), True
    await ask_for_body(request)
    content_type = request.headers.get("Content-Type", "")
    holds_arguments = (is_json(content_type) or is_form(content_type)) and "Content-Encoding" not in request.headers
    limit = REPLAYED_BYTES
    if is_declared and holds_arguments:
        limit = max(limit, place.policies.current.limits.max_body_bytes)
    declared = request.content_length
    if declared is not None and declared > limit:
        return Body(request, b""), False
    try:
        if request.content.is_eof():  # it came with the headers, as short ones do
            kept = await _first(request, limit)
        else:
            async with asyncio.timeout(BODY_S):
                kept = await _first(request, limit)
    except TimeoutError:
        raise _refused(Code.INVALID_REQUEST, f"The body did not arrive within {BODY_S:g} s.") from None
    except CallerGone:
        raise _refused(Code.INVALID_REQUEST, "The body ended before its end.") from None
    if len(kept) > limit:
        return Body(request, kept), False
    return kept, holds_arguments or not kept


async def _first(request: web.Request, limit: int) -> bytes:
    """The whole body, or a little more than ``limit`` of it."""
    parts: list[bytes] = []
    size = 0
    while size <= limit and (part := await more_of(request)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _arguments(
    request: web.Request, target: Target, found: Found | None, body: bytes | Upload | None, readable: bool
) -> dict[str, Any]:
    kept = body if isinstance(body, bytes) else None
    content_type = request.headers.get("Content-Type", "") if readable else ""
    if found is None:
        return of_request(request.method, target, kept, content_type)
    return of_tool(found, target, request.headers, kept if readable else None, content_type)


def _refuse_unread(place: Place, call: Call, readable: bool) -> None:
    """A rule that asks for arguments must see all of them. Raises Refused."""
    policy = place.policies.current
    if not readable and policy.rules.asks_args(call.tool, call.agent.name):
        detail = (
            f"A rule of {call.tool} asks for its arguments, and this body cannot be read as such: send JSON or a form "
            "of at most limits.maxBody, not compressed."
        )
        raise _refused(Code.INVALID_REQUEST, detail)
    plan = policy.plan(call.tool)
    if plan is not None and not _key_is_there(plan, call):
        detail = f"{call.tool} needs the argument '{plan.idempotency_argument}', by which its upstream deduplicates."
        raise _refused(Code.INVALID_REQUEST, detail)


def _key_is_there(plan: Plan, call: Call) -> bool:
    """A raw request is sent as it came: its key must be in it."""
    return plan.effect is not Effect.KEYED or not plan.idempotency_argument or plan.idempotency_argument in call.args


def _caller_ref(request: web.Request, found: Found | None) -> str:
    """What people read in the ledger: no value of an argument, those are redacted elsewhere."""
    return (
        f"{request.method} {found.template.path or '/' + found.tool.partition('.')[2]}"[:200]
        if found
        else request.method
    )


def _refused(code: Code, detail: str, status: int | None = None) -> Refused:
    return Refused(problem_response(code, detail, status=status))


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────


async def _answered(place: Place, flight: Flight, outcome: Outcome, exchange: Exchange) -> web.StreamResponse:
    """Of an answer that was begun, the end, or a broken connection; else what was kept, or what we say."""
    theirs = outcome.ok or outcome.code in PASSED_ON
    if exchange.response is not None:
        return await _ended(exchange, exchange.response, theirs)
    if theirs and exchange.whole is not None and not outcome.degraded:
        return exchange.kept()
    if outcome.ok:
        return _degraded(flight, outcome)
    return respond_problem(place.supervisor.problem(flight, outcome))


async def _ended(exchange: Exchange, begun: web.StreamResponse, theirs: bool) -> web.StreamResponse:
    if theirs and not exchange.is_broken:
        with contextlib.suppress(CallerGone):
            return await exchange.finish()
    exchange.reset()
    return begun


def _degraded(flight: Flight, outcome: Outcome) -> web.Response:
    """The value of a fallback."""
    answer = json_response(outcome.value)
    answer.headers.update({"Outrider-Call": flight.call.id, "Outrider-Outcome": "ok", "Outrider-Degraded": "true"})
    return answer

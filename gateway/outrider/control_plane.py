"""Routes for people, on a listener of their own with credentials of their own.

GET    /v1/agents                 who is here
GET    /v1/calls?state=in_flight  the calls under way
GET    /v1/calls/{id}             everything the ledger holds of one call
POST   /v1/calls/{id}/settle      what became of an unknown call
GET    /v1/kills                  what is stopped; ?history=true: what was
POST   /v1/kills                  stop; answers with a receipt
DELETE /v1/kills/{id}             release
GET    /v1/upstreams              health, breakers, queues
GET    /v1/ledger                 search
POST   /v1/ledger/{id}/erase      forget the arguments and results of a call
GET    /v1/policy                 the policy in force
POST   /v1/policy/reload          read it again
GET    /metrics                   for Prometheus
GET    /livez, /readyz            for probes; they need no token
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from outrider import clock, gauges
from outrider.control_bodies import KillBody, LedgerQuery, NoBody, ReasonBody, SettleBody, read_body, refuse_unknown
from outrider.errors import Code, Misconfigured, Refused
from outrider.flight import Flight
from outrider.http_common import (
    Handler,
    Tokens,
    bearer,
    cross_origin,
    guarded,
    json_response,
    problem_response,
)
from outrider.ledger import query
from outrider.ledger.writer import LedgerUnavailable
from outrider.services import Services
from outrider.telemetry import CONTENT_TYPE

MAX_BODY_BYTES = 64 * 1024
OPEN_PATHS = frozenset({"/livez", "/readyz"})
ACTOR_HEADER = "Outrider-Actor"
MAX_ACTOR_CHARS = 100
FLUSH_S = 1.0
"""How long a reader of the ledger waits for what is on its way into it."""

T = TypeVar("T")
Route = Callable[[Services, web.Request], Awaitable[web.StreamResponse]]


def control_app(services: Services, tokens: Tokens) -> web.Application:
    """The people's listener."""
    app = web.Application(
        middlewares=[guarded(cross_origin, _own_host_only, partial(_people_only, tokens)), _refusals],
        client_max_size=MAX_BODY_BYTES,
    )
    for method, path, route in ROUTES:
        app.router.add_route(method, path, partial(route, services))
    gauges.declare(services, partial(unready, services))
    return app


# ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _people_only(tokens: Tokens, request: web.Request) -> web.Response | None:
    if request.path in OPEN_PATHS:
        return None
    kind = tokens.kind(bearer(request))
    reads_metrics = request.path == "/metrics" and request.method == "GET"
    if kind == "admin" or (kind == "metrics" and reads_metrics):
        return None
    return _refused_credential(kind, bool(bearer(request)))


def _refused_credential(kind: str | None, given: bool) -> web.Response:
    if kind == "agent":
        return problem_response(Code.FORBIDDEN, "This is the agents' token; the control plane is for people.")
    if kind == "metrics":
        return problem_response(Code.FORBIDDEN, "This token may read GET /metrics and nothing else.")
    if given:
        return problem_response(Code.UNAUTHENTICATED, "This is not the admin token of this sidecar.")
    detail = "Send 'Authorization: Bearer TOKEN' with the admin token (the file admin.token in the data folder)."
    return problem_response(Code.UNAUTHENTICATED, detail)


def _own_host_only(request: web.Request) -> web.Response | None:
    """A page whose name was pointed at this machine is of the same origin to a browser, so a browser must have asked
    for an address or for localhost. Programs may use any name."""
    browser = "Sec-Fetch-Site" in request.headers or "Origin" in request.headers
    if browser and not _is_own(request.url.host or ""):
        return problem_response(Code.FORBIDDEN, "Browsers reach this listener by its address or as localhost only.")
    return None


def _is_own(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What the parts refuse, as problems."""
    try:
        return await handler(request)
    except Refused as refusal:
        return problem_response(Code(refusal.code), str(refusal), errors=refusal.problem.get("errors"))
    except (LedgerUnavailable, Misconfigured) as fault:
        return problem_response(Code.LEDGER_UNAVAILABLE, str(fault))


def _by(request: web.Request) -> str:
    """Who did it, for the ledger: the token, and the name that its holder gives."""
    name = request.headers.get(ACTOR_HEADER, "").strip()[:MAX_ACTOR_CHARS]
    return f"token:admin ({name})" if name and name.isprintable() else "token:admin"


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """A person who closes the window must not leave a kill half done: only the waiting is cancelled."""
    task = asyncio.get_running_loop().create_task(work)
    _UNDER_WAY.add(task)
    task.add_done_callback(_UNDER_WAY.discard)
    return await asyncio.shield(task)


_UNDER_WAY: set[asyncio.Task[Any]] = set()


# ── calls and agents ─────────────────────────────────────────────────────────────────────────────────────────────


async def _agents(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    return json_response({"agents": services.agents.snapshot()})


async def _calls(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query, "state")
    if request.query.get("state", "in_flight") != "in_flight":
        return problem_response(Code.INVALID_REQUEST, "'state' can be in_flight; ended calls are in GET /v1/ledger.")
    now = clock.monotonic()
    return json_response({"calls": [_flight(flight, now) for flight in services.supervisor.flights.values()]})


def _flight(flight: Flight, now: float) -> dict[str, Any]:
    call, remaining_s = flight.call, flight.remaining_s(now)
    return {
        "call_id": call.id,
        "tool": call.tool,
        "agent": call.agent.name,
        "run": call.run,
        "session": call.session,
        "parent": call.parent,
        "caller_ref": call.caller_ref,
        "in_process": bool(call.origin),
        "attempts": flight.attempts,
        "sent": flight.attempt is not None and flight.attempt.sent,
        "received_at": clock.stamp(flight.started_wall),
        "took_ms": round((now - flight.received) * 1000, 3),
        "deadline_in_ms": None if remaining_s is None else round(remaining_s * 1000, 3),
        "stopping": None if flight.verdict is None else flight.verdict.cause.value,
    }


async def _call(services: Services, request: web.Request) -> web.Response:
    call_id = request.match_info["id"]
    await _written(services)
    records = await asyncio.to_thread(query.show, services.settings.data, call_id)
    if not records:
        return problem_response(Code.NOT_FOUND, f"The ledger holds no call '{call_id[:80]}'.")
    return json_response({"call_id": call_id, "records": records})


async def _settle(services: Services, request: web.Request) -> web.Response:
    call_id = request.match_info["id"]
    body = read_body(await request.read(), SettleBody)
    try:
        settled = await _to_its_end(services.supervisor.settle(call_id, body.as_, body.reason, _by(request)))
    except KeyError:
        detail = f"No call '{call_id[:80]}' waits to be settled: it is not known, its outcome is, or its time is over."
        return problem_response(Code.NOT_FOUND, detail)
    return json_response(settled)


# ── kills ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _kills(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query, "history")
    shown: dict[str, Any] = {"kills": [kill.as_dict() for kill in services.kills.all()]}
    if request.query.get("history") == "true":
        shown["lifted"] = [kill.as_dict() for kill in services.kills.history()]
    return json_response(shown)


async def _kill(services: Services, request: web.Request) -> web.Response:
    body = read_body(await request.read(), KillBody)
    receipt = await _to_its_end(services.supervisor.kill(body.scope, body.reason, body.ttl_s(), _by(request)))
    return json_response(receipt.as_dict(), status=201)


async def _revive(services: Services, request: web.Request) -> web.Response:
    kill_id = request.match_info["id"]
    body = read_body(await request.read(), ReasonBody)
    try:
        kill = services.kills.get(kill_id)
        await _to_its_end(services.supervisor.revive(kill_id, body.reason, _by(request)))
    except KeyError:
        return problem_response(Code.NOT_FOUND, f"No kill '{kill_id[:80]}' is engaged; GET /v1/kills lists them.")
    return json_response({"id": kill.id, "scope": kill.scope, "lifted": True, "reason": body.reason})


# ── upstreams, ledger, policy ────────────────────────────────────────────────────────────────────────────────────


async def _upstreams(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    health, domains = services.health.snapshot(), services.domains.snapshot(clock.monotonic())
    upstreams = [
        {
            "name": name,
            "kind": "http" if upstream.http is not None else "local",
            "url": upstream.http.url if upstream.http is not None else None,
            "probed": upstream.startup is not None or upstream.readiness is not None,
            "health": health.get(name, {"ready": True}),
            "domains": [domain for domain in domains if domain["upstream"] == name],
        }
        for name, upstream in services.policies.current.upstreams.items()
    ]
    return json_response({"upstreams": upstreams})


async def _ledger(services: Services, request: web.Request) -> web.Response:
    asked = LedgerQuery.read(request.query)
    folder = services.settings.data
    await _written(services)
    if asked.after is not None:
        records = await asyncio.to_thread(query.tail, folder, asked.limit, after_seq=asked.after)
        return json_response({"records": records, "next_before": None})
    page = await asyncio.to_thread(query.search, folder, asked.wanted, limit=asked.limit, before_seq=asked.before)
    return json_response({"records": page.records, "next_before": page.next_before_seq})


async def _written(services: Services) -> None:
    """Let what was acknowledged reach the database, some milliseconds away; a disk in trouble is not waited for."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(services.ledger.flush(), FLUSH_S)


async def _erase(services: Services, request: web.Request) -> web.Response:
    call_id, by = request.match_info["id"], _by(request)
    body = read_body(await request.read(), ReasonBody)
    if call_id in services.supervisor.flights:
        detail = "This call is still under way, and its result is yet to be stored. Erase it once it has ended."
        return problem_response(Code.CONFLICT, detail)
    await _written(services)
    if not await asyncio.to_thread(query.show, services.settings.data, call_id):
        return problem_response(Code.NOT_FOUND, f"The ledger holds no call '{call_id[:80]}'.")
    seq = await _to_its_end(services.ledger.erase(call_id, reason=body.reason, by=by))
    return json_response({"call_id": call_id, "erased": True, "seq": seq, "reason": body.reason, "by": by})


async def _policy(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    policies = services.policies
    return json_response(
        policies.current.summary()
        | {
            "loaded_at": clock.stamp(policies.loaded_at_wall),
            "rejected": [str(fault) for fault in policies.rejected],
        }
    )


async def _reload(services: Services, request: web.Request) -> web.Response:
    read_body(await request.read(), NoBody)
    before = services.policies.current.digest
    try:
        policy = await _to_its_end(services.policies.reload())
    except Misconfigured as bad:
        detail = f"The policy has {len(bad.faults)} fault(s); the one before stays in force."
        faults = [str(fault) for fault in bad.faults]
        return problem_response(Code.INVALID_REQUEST, detail, status=422, faults=faults)
    warnings = [str(fault) for fault in policy.warnings]
    return json_response({"digest": policy.digest, "changed": policy.digest != before, "warnings": warnings})


# ── for machines ─────────────────────────────────────────────────────────────────────────────────────────────────


def unready(services: Services) -> str | None:
    """Why this sidecar takes no calls, None when it does. A broken upstream is no reason: the others work."""
    if services.supervisor.draining:
        return "shutting down"
    return None if services.ledger.healthy else "the ledger cannot be written"


async def _metrics(services: Services, request: web.Request) -> web.Response:
    return web.Response(body=services.telemetry.render_metrics(), headers={"Content-Type": CONTENT_TYPE})


async def _livez(services: Services, request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _readyz(services: Services, request: web.Request) -> web.Response:
    why = unready(services)
    return web.Response(text="ok\n") if why is None else web.Response(text=f"not ready: {why}\n", status=503)


ROUTES: tuple[tuple[str, str, Route], ...] = (
    ("GET", "/v1/agents", _agents),
    ("GET", "/v1/calls", _calls),
    ("GET", "/v1/calls/{id}", _call),
    ("POST", "/v1/calls/{id}/settle", _settle),
    ("GET", "/v1/kills", _kills),
    ("POST", "/v1/kills", _kill),
    ("DELETE", "/v1/kills/{id}", _revive),
    ("GET", "/v1/upstreams", _upstreams),
    ("GET", "/v1/ledger", _ledger),
    ("POST", "/v1/ledger/{id}/erase", _erase),
    ("GET", "/v1/policy", _policy),
    ("POST", "/v1/policy/reload", _reload),
    ("GET", "/metrics", _metrics),
    ("GET", "/livez", _livez),
    ("GET", "/readyz", _readyz),
)

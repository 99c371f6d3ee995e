"""Routes for people, on a listener of their own with credentials of their own. The routes are in ``control/``, one
file a group; the head of each file lists what it offers."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from outrider import gauges
from outrider.control import (
    agents,
    calls,
    console,
    kills,
    ledger,
    peers,
    policy,
    probes,
    runs,
    tokens,
    upstreams,
)
from outrider.control.probes import unready
from outrider.control.routes import Routes
from outrider.errors import Code, Misconfigured
from outrider.http_common import Handler, Tokens, bearer, cross_origin, guarded, own_host_only, problem_response
from outrider.identity.tokens import PREFIX as AGENTS_PREFIX
from outrider.ledger.writer import LedgerUnavailable
from outrider.services import Services

MAX_BODY_BYTES = 64 * 1024
OPEN_PATHS = frozenset({"/livez", "/readyz"})
ANYTHING = ":[^/]+}"
"""What a variable part of a path may be. Agents choose their names, and one with braces is to be stopped too."""
ROUTES: Routes = (
    *agents.ROUTES,
    *calls.ROUTES,
    *runs.ROUTES,
    *kills.ROUTES,
    *peers.ROUTES,
    *tokens.ROUTES,
    *upstreams.ROUTES,
    *ledger.ROUTES,
    *policy.ROUTES,
    *probes.ROUTES,
    *console.ROUTES,
)


def control_app(services: Services, tokens: Tokens) -> web.Application:
    """The people's listener."""
    app = web.Application(
        middlewares=[guarded(_foreign_page, own_host_only, partial(_people_only, tokens)), _refusals],
        client_max_size=MAX_BODY_BYTES,
    )
    app[console.DESK] = console.Desk(services, tokens)
    app.on_shutdown.append(console.on_shutdown)
    for method, path, route in ROUTES:
        app.router.add_route(method, path.replace("}", ANYTHING), partial(route, services))
    gauges.declare(services, partial(unready, services))
    return app


# ── who may ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _people_only(tokens: Tokens, request: web.Request) -> web.Response | None:
    if request.path in OPEN_PATHS or console.is_open(request):
        return None
    if "Authorization" not in request.headers and console.signed_in(request):
        return None
    given = bearer(request)
    kind = "agent" if given.startswith(AGENTS_PREFIX) else tokens.kind(given)
    reads_metrics = request.path == "/metrics" and request.method == "GET"
    if kind == "admin" or (kind == "metrics" and reads_metrics):
        return None
    if kind == "peer" and request.path.startswith("/v1/peer/"):
        return None
    return _refused_credential(kind, bool(given))


def _refused_credential(kind: str | None, given: bool) -> web.Response:
    if kind == "agent":
        return problem_response(Code.FORBIDDEN, "This is the agents' token; the control plane is for people.")
    if kind == "metrics":
        return problem_response(Code.FORBIDDEN, "This token may read GET /metrics and nothing else.")
    if kind == "peer":
        return problem_response(Code.FORBIDDEN, "This is the peers' credential; it opens /v1/peer/ and nothing else.")
    if given:
        return problem_response(Code.UNAUTHENTICATED, "This is not the admin token of this sidecar.")
    detail = "Send 'Authorization: Bearer TOKEN' with the admin token (the file admin.token in the data folder)."
    return problem_response(Code.UNAUTHENTICATED, detail)


def _foreign_page(request: web.Request) -> web.Response | None:
    """A page of another site may link to ours, and nothing else."""
    return None if console.is_arrival(request) else cross_origin(request)


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What the disk or the settings refuse, as problems."""
    try:
        return await handler(request)
    except (LedgerUnavailable, Misconfigured) as fault:
        return problem_response(Code.LEDGER_UNAVAILABLE, str(fault))

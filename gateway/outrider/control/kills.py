"""Stop, and release.

GET    /v1/kills                  what is stopped; ?history=true: what was
POST   /v1/kills                  stop; answers with a receipt
DELETE /v1/kills/{id}             release
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from outrider.control.routes import Routes, by, to_its_end
from outrider.control_bodies import KillBody, ReasonBody, read_body, refuse_unknown
from outrider.errors import Code
from outrider.http_common import json_response, problem_response
from outrider.services import Services


def local_kills(services: Services) -> list[dict[str, Any]]:
    """Those engaged in this sidecar, oldest first."""
    return [kill.as_dict() for kill in services.kills.all()]


async def _kills(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query, "history")
    shown: dict[str, Any] = {"kills": local_kills(services)}
    if request.query.get("history") == "true":
        shown["lifted"] = [kill.as_dict() for kill in services.kills.history()]
    return json_response(shown)


async def _kill(services: Services, request: web.Request) -> web.Response:
    body = read_body(await request.read(), KillBody)
    receipt = await to_its_end(services.supervisor.kill(body.scope, body.reason, body.ttl_s(), by(request)))
    return json_response(receipt.as_dict(), status=201)


async def _revive(services: Services, request: web.Request) -> web.Response:
    kill_id = request.match_info["id"]
    body = read_body(await request.read(), ReasonBody)
    try:
        kill = services.kills.get(kill_id)
        await to_its_end(services.supervisor.revive(kill_id, body.reason, by(request)))
    except KeyError:
        return problem_response(Code.NOT_FOUND, f"No kill '{kill_id[:80]}' is engaged; GET /v1/kills lists them.")
    return json_response({"id": kill.id, "scope": kill.scope, "lifted": True, "reason": body.reason})


ROUTES: Routes = (
    ("GET", "/v1/kills", _kills),
    ("POST", "/v1/kills", _kill),
    ("DELETE", "/v1/kills/{id}", _revive),
)

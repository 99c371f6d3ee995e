"""Stop, and release.

GET    /v1/kills                  what is stopped; ?history=true: what was
POST   /v1/kills                  stop, on all sidecars; answers with a receipt
DELETE /v1/kills/{id}             release, on all sidecars
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from outrider.control.merged import mine, told
from outrider.control.routes import Routes, by, to_its_end
from outrider.control_bodies import KillBody, ReasonBody, read_body, refuse_unknown
from outrider.errors import Code
from outrider.http_common import json_response, problem_response
from outrider.peers.lines import Heard
from outrider.services import Services
from outrider.supervisor import Receipt


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
    heard = await services.fleet.reach(receipt.id)
    return json_response(_receipt(services, receipt, heard), status=201)


def _receipt(services: Services, ours: Receipt, heard: list[Heard]) -> dict[str, Any]:
    """One receipt for all sidecars: sums, every call with its sidecar, and what each peer said."""
    receipt = ours.as_dict() | {"calls": mine(services, ours.calls), "complete": services.fleet.complete(heard)}
    peers = []
    for one in heard:
        said = {word: one.body.get(word) for word in ("counts", "took_ms", "durable") if word in one.body}
        peers.append(told(one) | said)
        receipt["calls"] += [call | {"sidecar": one.name} for call in one.body.get("calls", ())]
    receipt["counts"] = {
        word: count + sum(one.body.get("counts", {}).get(word, 0) for one in heard)
        for word, count in ours.counts.items()
    }
    return receipt | {"sidecar": services.fleet.lines.own.sidecar, "peers": peers}


async def _revive(services: Services, request: web.Request) -> web.Response:
    kill_id = request.match_info["id"]
    body = read_body(await request.read(), ReasonBody)
    try:
        kill = services.kills.get(kill_id)
        await to_its_end(services.supervisor.revive(kill_id, body.reason, by(request)))
    except KeyError:
        return problem_response(Code.NOT_FOUND, f"No kill '{kill_id[:80]}' is engaged; GET /v1/kills lists them.")
    heard = await services.fleet.reach(kill_id)
    return json_response(
        {
            "id": kill.id,
            "scope": kill.scope,
            "lifted": True,
            "reason": body.reason,
            "still": [other.id for other in services.kills.all() if other.target == kill.target],
            "complete": services.fleet.complete(heard),
            "peers": [told(one) for one in heard],
        }
    )


ROUTES: Routes = (
    ("GET", "/v1/kills", _kills),
    ("POST", "/v1/kills", _kill),
    ("DELETE", "/v1/kills/{id}", _revive),
)

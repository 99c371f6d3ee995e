"""Other sidecars.

GET    /v1/peers                  who they are, and whether they answer
GET    /v1/peer/kills             for peers: the kills known here; ?digest=: nothing, where they are the same
PUT    /v1/peer/kills/{id}        for peers: a kill, or its end, takes effect here too
GET    /v1/peer/agents            for peers: what is here
GET    /v1/peer/calls             for peers: what is here
GET    /v1/peer/runs              for peers: what is here

What a peer asks is answered from what is here, and nobody else is asked for it: no request goes in circles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from outrider.control.agents import local_agents
from outrider.control.calls import local_calls
from outrider.control.merged import mine
from outrider.control.routes import Routes, to_its_end
from outrider.control.runs import local_runs
from outrider.control_bodies import read_body, refuse_unknown
from outrider.errors import Code
from outrider.http_common import json_response, problem_response
from outrider.kills.scopes import shown
from outrider.peers import records
from outrider.services import Services

MAX_WAIT_MS = 60_000
LOCAL: dict[str, Callable[[Services], list[dict[str, Any]]]] = {
    "agents": local_agents,
    "calls": local_calls,
    "runs": local_runs,
}


class ToldBody(msgspec.Struct, frozen=True):
    """``PUT /v1/peer/kills/{id}``: a kill as a peer knows it, the peer's name, how long it waits for calls to end."""

    kill: dict[str, Any]
    sidecar: str
    wait_ms: int = 0


async def _peers(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    fleet = services.fleet
    dns = fleet.settings.dns
    return json_response(
        {
            "sidecar": fleet.lines.own.sidecar,
            "name": None if dns is None else str(dns),
            "caught_up": fleet.caught_up,
            "left_out": fleet.lines.book.left_out,
            "peers": [peer.as_dict() for peer in fleet.lines.book],
        }
    )


async def _kills(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query, "digest")
    same = request.query.get("digest") == services.kills.digest()
    kills = None if same else [records.told(kill) for kill in services.kills.shared()]
    return _answer(services, {"kills": kills})


async def _told(services: Services, request: web.Request) -> web.Response:
    body = read_body(await request.read(), ToldBody)
    kill = records.read(body.kill, via=shown(body.sidecar))
    if kill.id != request.match_info["id"]:
        return problem_response(Code.INVALID_REQUEST, "The kill in the body is not the one in the path.")
    patience_s = min(max(0, body.wait_ms), MAX_WAIT_MS) / 1000
    receipt = await to_its_end(services.supervisor.obey(kill, patience_s))
    return _answer(services, receipt.as_dict())


async def _list(what: str, services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    return _answer(services, {what: mine(services, LOCAL[what](services))})


def _answer(services: Services, body: dict[str, Any]) -> web.Response:
    return json_response({"who": services.fleet.lines.own.as_dict(), **body})


ROUTES: Routes = (
    ("GET", "/v1/peers", _peers),
    ("GET", "/v1/peer/kills", _kills),
    ("PUT", "/v1/peer/kills/{id}", _told),
    *(("GET", f"/v1/peer/{what}", partial(_list, what)) for what in LOCAL),
)

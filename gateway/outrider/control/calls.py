"""Calls: under way, ended, unknown.

GET    /v1/calls?state=in_flight  the calls under way, on all sidecars
GET    /v1/calls/{id}             everything the ledger holds of one call
POST   /v1/calls/{id}/settle      what became of an unknown call
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from outrider import clock
from outrider.control.merged import everywhere
from outrider.control.routes import Routes, by, to_its_end, written
from outrider.control_bodies import SettleBody, read_body, refuse_unknown
from outrider.errors import Code
from outrider.flight import Flight
from outrider.http_common import json_response, problem_response
from outrider.ledger import query
from outrider.services import Services


def local_calls(services: Services) -> list[dict[str, Any]]:
    """Those under way in this sidecar, oldest first."""
    now = clock.monotonic()
    return [_flight(flight, now) for flight in services.supervisor.flights.values()]


async def _calls(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query, "state")
    if request.query.get("state", "in_flight") != "in_flight":
        return problem_response(Code.INVALID_REQUEST, "'state' can be in_flight; ended calls are in GET /v1/ledger.")
    return json_response(await everywhere(services, "calls", local_calls(services)))


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
    await written(services)
    records = await asyncio.to_thread(query.show, services.settings.data, call_id)
    if not records:
        return problem_response(Code.NOT_FOUND, f"The ledger holds no call '{call_id[:80]}'.")
    return json_response({"call_id": call_id, "records": records})


async def _settle(services: Services, request: web.Request) -> web.Response:
    call_id = request.match_info["id"]
    body = read_body(await request.read(), SettleBody)
    try:
        settled = await to_its_end(services.supervisor.settle(call_id, body.as_, body.reason, by(request)))
    except KeyError:
        detail = f"No call '{call_id[:80]}' waits to be settled: it is not known, its outcome is, or its time is over."
        return problem_response(Code.NOT_FOUND, detail)
    return json_response(settled)


ROUTES: Routes = (
    ("GET", "/v1/calls", _calls),
    ("GET", "/v1/calls/{id}", _call),
    ("POST", "/v1/calls/{id}/settle", _settle),
)

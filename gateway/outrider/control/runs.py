"""Runs: what each did, and what stops it. To kill one: POST /v1/kills with scope run:ID.

GET    /v1/runs                   the runs that are known, on all sidecars; ?agent= ?state= ?limit=
GET    /v1/runs/{id}              the runs of this id, and their calls
POST   /v1/runs/{id}/resume       lift what the policy's guards stopped; the limits count anew
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from outrider.control.merged import everywhere
from outrider.control.routes import Routes, by, to_its_end, written
from outrider.control_bodies import ReasonBody, read_body, refuse_unknown, whole_number
from outrider.errors import Code
from outrider.http_common import json_response, problem_response
from outrider.ledger.run_calls import calls_of_run
from outrider.runs import Run
from outrider.runs.book import NothingToResume
from outrider.runs.run import State
from outrider.services import Services

DEFAULT_LIMIT = 100


def local_runs(services: Services) -> list[dict[str, Any]]:
    """Those of this sidecar, the one that made a call last first."""
    killed = _killed(services)
    return [_row(run, killed) for run in services.runs.all()]


def _row(run: Run, killed: dict[str, str]) -> dict[str, Any]:
    """A kill is a person's word, and outranks what the run is by itself."""
    row = run.as_dict()
    return row | {"state": State.KILLED.value, "why": killed[run.id]} if run.id in killed else row


def _killed(services: Services) -> dict[str, str]:
    """The runs that a kill names."""
    return {kill.target.name: kill.reason for kill in services.kills.all() if kill.target.kind == "run"}


async def _runs(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query, "agent", "state", "limit")
    state, agent = request.query.get("state", ""), request.query.get("agent", "")
    if state and state not in list(State):
        return problem_response(Code.INVALID_REQUEST, f"'state' is one of {', '.join(State)}; got '{state[:40]}'.")
    limit = whole_number("limit", request.query, DEFAULT_LIMIT)
    found = await everywhere(services, "runs", local_runs(services))
    rows = [row for row in found["runs"] if _wanted(row, agent, state)]
    if found["peers"]:
        rows.sort(key=lambda row: str(row.get("last_call")), reverse=True)
    return json_response({"runs": rows[:limit], "more": max(0, len(rows) - limit), "peers": found["peers"]})


def _wanted(row: dict[str, Any], agent: str, state: str) -> bool:
    return (not agent or agent in row.get("agents", ())) and (not state or row.get("state") == state)


async def _run(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    run_id = request.match_info["id"]
    await written(services)
    killed = _killed(services)
    rows = [_row(run, killed) for run in services.runs.named(run_id)]
    calls = await asyncio.to_thread(calls_of_run, services.settings.data, run_id)
    if not rows and not calls:
        return problem_response(Code.NOT_FOUND, f"No run '{run_id[:80]}' is known, and no recent record names it.")
    return json_response({"run": run_id, "runs": rows, "calls": calls})


async def _resume(services: Services, request: web.Request) -> web.Response:
    run_id = request.match_info["id"]
    body = read_body(await request.read(), ReasonBody)
    try:
        resumed = await to_its_end(services.runs.resume(run_id, body.reason, by(request)))
    except KeyError:
        return problem_response(Code.NOT_FOUND, f"No run '{run_id[:80]}' is known; GET /v1/runs lists them.")
    except NothingToResume:
        detail = f"Nothing stops the run '{run_id[:80]}' but perhaps a kill, which is lifted with DELETE /v1/kills."
        return problem_response(Code.CONFLICT, detail)
    killed = _killed(services)
    return json_response({"run": run_id, "runs": [_row(run, killed) for run in resumed]})


ROUTES: Routes = (
    ("GET", "/v1/runs", _runs),
    ("GET", "/v1/runs/{id}", _run),
    ("POST", "/v1/runs/{id}/resume", _resume),
)

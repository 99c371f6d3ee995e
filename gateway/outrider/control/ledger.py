"""What happened.

GET    /v1/ledger                 search
POST   /v1/ledger/{id}/erase      forget the arguments and results of a call
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from outrider.control.routes import Routes, by, to_its_end, written
from outrider.control_bodies import LedgerQuery, ReasonBody, read_body
from outrider.errors import Code
from outrider.http_common import json_response, problem_response
from outrider.ledger import query
from outrider.services import Services


async def _ledger(services: Services, request: web.Request) -> web.Response:
    asked = LedgerQuery.read(request.query)
    folder = services.settings.data
    await written(services)
    if asked.after is not None:
        records = await asyncio.to_thread(query.tail, folder, asked.limit, after_seq=asked.after)
        return json_response({"records": records, "next_before": None})
    page = await asyncio.to_thread(query.search, folder, asked.wanted, limit=asked.limit, before_seq=asked.before)
    return json_response({"records": page.records, "next_before": page.next_before_seq})


async def _erase(services: Services, request: web.Request) -> web.Response:
    call_id, actor = request.match_info["id"], by(request)
    body = read_body(await request.read(), ReasonBody)
    if call_id in services.supervisor.flights:
        detail = "This call is still under way, and its result is yet to be stored. Erase it once it has ended."
        return problem_response(Code.CONFLICT, detail)
    await written(services)
    if not await asyncio.to_thread(query.show, services.settings.data, call_id):
        return problem_response(Code.NOT_FOUND, f"The ledger holds no call '{call_id[:80]}'.")
    seq = await to_its_end(services.ledger.erase(call_id, reason=body.reason, by=actor))
    return json_response({"call_id": call_id, "erased": True, "seq": seq, "reason": body.reason, "by": actor})


ROUTES: Routes = (
    ("GET", "/v1/ledger", _ledger),
    ("POST", "/v1/ledger/{id}/erase", _erase),
)

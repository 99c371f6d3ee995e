"""Where tools live.

GET    /v1/upstreams              health, breakers, queues
"""

from __future__ import annotations

from aiohttp import web

from outrider import clock
from outrider.control.routes import Routes
from outrider.control_bodies import refuse_unknown
from outrider.http_common import json_response
from outrider.services import Services


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


ROUTES: Routes = (("GET", "/v1/upstreams", _upstreams),)

"""Where tools live.

GET    /v1/upstreams              health, breakers, queues, MCP sessions and children
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from outrider import clock
from outrider.control.routes import Routes
from outrider.control_bodies import refuse_unknown
from outrider.errors import Misconfigured
from outrider.http_common import json_response
from outrider.policy.plans import Upstream
from outrider.services import Services


def local_upstreams(services: Services) -> list[dict[str, Any]]:
    """Those of this sidecar's policy, as this sidecar finds them."""
    health, domains = services.health.snapshot(), services.domains.snapshot(clock.monotonic())
    return [
        {
            "name": name,
            "kind": upstream.kind,
            "url": _url(upstream),
            "probed": upstream.startup is not None or upstream.readiness is not None,
            "health": health.get(name, {"ready": True}),
            "domains": [domain for domain in domains if domain["upstream"] == name],
            "mcp": _mcp(services, upstream),
        }
        for name, upstream in services.policies.current.upstreams.items()
    ]


def _url(upstream: Upstream) -> str | None:
    http = upstream.http or (upstream.mcp.http if upstream.mcp is not None else None)
    return http.url if http is not None else None


def _mcp(services: Services, upstream: Upstream) -> dict[str, Any] | None:
    """Sessions with an MCP server, and the child that it may be; None for what is none."""
    try:
        driver = services.drivers.mcp(upstream)
    except Misconfigured:
        return None  # the log has it, from when the policy was loaded
    return driver.snapshot() if driver is not None else None


async def _upstreams(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    return json_response({"upstreams": local_upstreams(services)})


ROUTES: Routes = (("GET", "/v1/upstreams", _upstreams),)

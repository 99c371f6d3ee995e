"""Where tools live.

GET    /v1/upstreams              health, breakers, queues, MCP sessions and children
POST   /v1/upstreams/{name}/accept   trust what the drifted tools of an MCP server are now, or one of them
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from outrider import clock
from outrider.control.routes import Routes, by, to_its_end
from outrider.control_bodies import AcceptToolsBody, read_body, refuse_unknown
from outrider.errors import Code, Misconfigured
from outrider.http_common import json_response, problem_response
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
    return {**driver.snapshot(), **services.pins.snapshot(upstream.name)} if driver is not None else None


async def _accept(services: Services, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    body = read_body(await request.read(), AcceptToolsBody)
    try:
        tools = await to_its_end(services.pins.accept(name, body.tool, body.reason, by(request)))
    except KeyError:
        which = f"No tool '{body.tool[:80]}'" if body.tool else "No tool"
        detail = f"{which} of upstream '{name[:80]}' has drifted; GET /v1/upstreams shows those that have."
        return problem_response(Code.NOT_FOUND, detail)
    return json_response({"name": name, "tools": tools})


async def _upstreams(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    return json_response({"upstreams": local_upstreams(services)})


ROUTES: Routes = (
    ("GET", "/v1/upstreams", _upstreams),
    ("POST", "/v1/upstreams/{name}/accept", _accept),
)

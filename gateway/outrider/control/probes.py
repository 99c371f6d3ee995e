"""For machines.

GET    /metrics                   for Prometheus
GET    /livez, /readyz            for probes; they need no token
"""

from __future__ import annotations

from aiohttp import web

from outrider.control.routes import Routes
from outrider.services import Services
from outrider.telemetry import CONTENT_TYPE


def unready(services: Services) -> str | None:
    """Why this sidecar takes no calls, None when it does. A broken upstream is no reason: the others work."""
    if services.supervisor.draining:
        return "shutting down"
    if services.fleet.taking_over:
        return "taking over the kills of peers"
    return None if services.ledger.healthy else "the ledger cannot be written"


async def _metrics(services: Services, request: web.Request) -> web.Response:
    return web.Response(body=services.telemetry.render_metrics(), headers={"Content-Type": CONTENT_TYPE})


async def _livez(services: Services, request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _readyz(services: Services, request: web.Request) -> web.Response:
    why = unready(services)
    return web.Response(text="ok\n") if why is None else web.Response(text=f"not ready: {why}\n", status=503)


ROUTES: Routes = (
    ("GET", "/metrics", _metrics),
    ("GET", "/livez", _livez),
    ("GET", "/readyz", _readyz),
)

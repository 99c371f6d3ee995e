"""Who is here.

GET    /v1/agents                 the agents, their processes, what they did, on all sidecars
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from outrider.control.merged import everywhere
from outrider.control.routes import Routes
from outrider.control_bodies import refuse_unknown
from outrider.http_common import json_response
from outrider.services import Services


def local_agents(services: Services) -> list[dict[str, Any]]:
    """Those of this sidecar."""
    return services.agents.snapshot()


async def _agents(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    return json_response(await everywhere(services, "agents", local_agents(services)))


ROUTES: Routes = (("GET", "/v1/agents", _agents),)

"""``/mcp`` and ``/mcp/{upstream}`` on the agents' listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from outrider.errors import Code
from outrider.http_common import problem_response
from outrider.mcp import endpoint
from outrider.mcp.endpoint import AskerOf, Endpoint, ReadBody
from outrider.mcp.sessions import Sessions
from outrider.mcp.work import Desk

PATHS = ("/mcp", "/mcp/{upstream}")
Handle = Callable[[Endpoint, web.Request], Awaitable[web.StreamResponse]]


def mount(app: web.Application, desk: Desk, read_body: ReadBody, asker: AskerOf) -> None:
    """Add the routes. What cannot be understood is answered with a problem."""
    place = Endpoint(desk, Sessions(), read_body, asker, set())
    for path in PATHS:
        for method, handle in (("POST", endpoint.post), ("GET", endpoint.get), ("DELETE", endpoint.delete)):
            app.router.add_route(method, path, _safely(place, handle))


def _safely(place: Endpoint, handle: Handle) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await handle(place, request)
        except ValueError as wrong:
            return problem_response(Code.INVALID_REQUEST, str(wrong))

    return handler

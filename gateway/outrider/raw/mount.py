"""``/http/{upstream}/{path}`` on the agents' listener."""

from __future__ import annotations

from aiohttp import web

from outrider.raw.endpoint import Place, handle
from outrider.raw.exchange import unsigned

PATH = "/http/{rest:.*}"


def mount(app: web.Application, place: Place) -> None:
    """Add the route for every method."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await handle(place, request)

    async def expect(request: web.Request) -> None:
        """Whether a body is wanted is known later."""

    app.router.add_route("*", PATH, handler, expect_handler=expect)
    app.on_response_prepare.append(unsigned)

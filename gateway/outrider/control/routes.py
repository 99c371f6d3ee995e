"""What the groups of routes share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

from outrider.services import Services

ACTOR_HEADER = "Outrider-Actor"
CREDENTIAL = web.RequestKey("credential", str)
"""Where a request says on whose credential it came, if not on the admin token."""
MAX_ACTOR_CHARS = 100
FLUSH_S = 1.0
"""How long a reader of the ledger waits for what is on its way into it."""

T = TypeVar("T")
Route = Callable[[Services, web.Request], Awaitable[web.StreamResponse]]
Routes = tuple[tuple[str, str, Route], ...]
"""Method, path, handler."""


def by(request: web.Request) -> str:
    """Who did it, for the ledger: the credential, and the name that its holder gives."""
    if CREDENTIAL in request:
        return request[CREDENTIAL]
    name = request.headers.get(ACTOR_HEADER, "").strip()[:MAX_ACTOR_CHARS]
    return f"token:admin ({name})" if name and name.isprintable() else "token:admin"


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """A person who closes the window must not leave a kill half done: only the waiting is cancelled."""
    task = asyncio.get_running_loop().create_task(work)
    _UNDER_WAY.add(task)
    task.add_done_callback(_UNDER_WAY.discard)
    return await asyncio.shield(task)


_UNDER_WAY: set[asyncio.Task[Any]] = set()


async def written(services: Services) -> None:
    """Let what was acknowledged reach the database, some milliseconds away; a disk in trouble is not waited for."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(services.ledger.flush(), FLUSH_S)

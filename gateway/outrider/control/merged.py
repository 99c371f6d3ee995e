"""What is here and what the peers have, as one list. Each row says whose it is: ``sidecar``."""

from __future__ import annotations

from typing import Any

from outrider.peers.lines import Heard
from outrider.services import Services

Row = dict[str, Any]


def mine(services: Services, rows: list[Row]) -> list[Row]:
    """Rows of this sidecar."""
    own = services.fleet.lines.own.sidecar
    return [row | {"sidecar": own} for row in rows]


async def everywhere(services: Services, what: str, rows: list[Row]) -> dict[str, Any]:
    """``{what: [...], "peers": [...]}``: these rows of ours and what every peer that answers has, ours first."""
    merged = mine(services, rows)
    heard = await services.fleet.lines.gather(what) if services.fleet.settings else []
    for one in heard:
        merged += [row | {"sidecar": one.name} for row in one.body.get(what, ())]
    return {what: merged, "peers": [told(one) for one in heard]}


def told(one: Heard) -> Row:
    """Whether this peer answered."""
    return {"peer": one.peer, "sidecar": one.sidecar, "answered": one.answered, "error": one.error}

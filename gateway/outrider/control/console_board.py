"""What the page shows, read from the parts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from outrider import __version__
from outrider.console import rows
from outrider.console.board import Board
from outrider.control.agents import local_agents
from outrider.control.calls import local_calls
from outrider.control.kills import local_kills
from outrider.control.probes import unready
from outrider.control.upstreams import local_upstreams
from outrider.ledger import query
from outrider.services import Services

EVENTS = 60
"""Of the ledger's last records."""


@dataclass(slots=True)
class _Events:
    """The last records, and how many were committed when they were read."""

    committed: int = -1
    table: rows.Table | None = None


class Reading:
    """Reads the board; between its tables calls go on."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._events = _Events()

    async def board(self) -> Board:
        services = self._services
        found: dict[str, list[dict[str, Any]]] = {}
        tables: dict[str, rows.Table] = {}
        for name, listed, shown in (
            ("agents", local_agents, rows.agents),
            ("calls", local_calls, rows.calls),
            ("upstreams", local_upstreams, rows.upstreams),
            ("kills", local_kills, rows.kills),
        ):
            found[name] = listed(services)
            tables[name] = shown(found[name])
            await asyncio.sleep(0)
        tables["events"] = await self._last_events()
        return Board(_head(services) | {"counts": {name: len(rows) for name, rows in found.items()}}, tables)

    async def _last_events(self) -> rows.Table:
        """Read again only when something was committed."""
        committed = self._services.ledger.lag()["records"]
        if self._events.table is None or committed != self._events.committed:
            records = await asyncio.to_thread(query.latest, self._services.settings.data, EVENTS)
            self._events = _Events(committed, rows.events(records))
        return self._events.table or {}


def _head(services: Services) -> dict[str, Any]:
    policies, ledger = services.policies, services.ledger
    return {
        "version": __version__,
        "unready": unready(services),
        "policy": {
            "name": rows.text(policies.current.name),
            "digest": policies.current.digest[:12],
            "rejected": [rows.text(fault) for fault in policies.rejected[:5]],
        },
        "ledger": {"healthy": ledger.healthy, "trouble": rows.text(ledger.trouble)},
        "trouble": "",
    }

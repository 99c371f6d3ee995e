"""What the page shows, read from the parts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from outrider import __version__, clock
from outrider.console import rows
from outrider.console.board import Board
from outrider.console.fleet import HEAD, Merger, Sheet, added, fit, sheet
from outrider.control.agents import local_agents
from outrider.control.calls import local_calls
from outrider.control.kills import local_kills
from outrider.control.probes import unready
from outrider.control.upstreams import local_upstreams
from outrider.errors import Misconfigured
from outrider.ledger import query
from outrider.peers.lines import Heard
from outrider.pulse import Counts
from outrider.services import Services

Listed = Callable[[Services], list[dict[str, Any]]]
log = logging.getLogger("outrider.console")

EVENTS = 60
"""Of the ledger's last records."""
EVENTS_WAIT_S = 0.5
"""A database that is busy for longer keeps the rest of the board from nobody."""
GATHER_EVERY_S = 2.0
FRESH_S = 0.9
"""A board this young is not read again: peers with open pages ask for it too."""
SHARE = 1 / 300
MAX_REST_S = 5.0
"""A table is left alone for so long that reading it takes no more than this share of the time: with a thousand agents
some seconds, and the calls that go on meanwhile do not notice."""


class Reading:
    """Reads the board; between its tables calls go on. Peers are asked in the background: one that hangs keeps nobody's
    page from going on."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._events: rows.Table = {}
        self._events_of = -1  # how many records were committed when they were asked for
        self._fetching: asyncio.Task[None] | None = None
        self._own: tuple[float, Board] | None = None
        self._tables: dict[str, _Table] = {}
        self._merger = Merger()
        self._others: list[Sheet] = []
        self._counted: dict[int, Counts] = {}
        self._peers: rows.Table = {}
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = -GATHER_EVERY_S

    async def board(self) -> Board:
        """Everybody's."""
        own = await self.local()
        if not self._services.fleet.settings:
            return own
        self._ask_soon()
        return added(self._merger.boards(own, self._others, self._peers), self._counted)

    async def close(self) -> None:
        tasks = [task for task in (self._asking, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def sheet(self) -> Sheet:
        """Ours, for a peer."""
        return Sheet(self._home, self._services.store.incarnation, await self.local())

    # ── ours ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _home(self) -> str:
        """Empty where there are no others to tell it from."""
        fleet = self._services.fleet
        return rows.text(fleet.lines.own.sidecar) if fleet.settings else ""

    async def local(self) -> Board:
        """Of this sidecar."""
        if self._own is not None and clock.monotonic() - self._own[0] < FRESH_S:
            return self._own[1]
        board = await self._look()
        self._own = (clock.monotonic(), board)
        return board

    async def _look(self) -> Board:
        services = self._services
        counts: dict[str, int] = {}
        tables: dict[str, rows.Table] = {}
        for name, listed, shown in (
            ("agents", local_agents, rows.agents),
            ("calls", local_calls, rows.calls),
            ("upstreams", local_upstreams, rows.upstreams),
            ("kills", local_kills, rows.kills),
        ):
            known = self._tables.get(name)
            if known is None or clock.monotonic() >= known.due:
                known = self._tables[name] = _read(listed, shown, services, self._home)
                await asyncio.sleep(0)
            counts[name], tables[name] = known.count, known.rows
        tables["events"] = await self._last_events()
        now = clock.monotonic()
        head = _head(services) | {"counts": counts}
        return Board(head, tables, services.pulse.ended_before(now), services.pulse.history(now))

    async def _last_events(self) -> rows.Table:
        """Read again only when something was committed, and one reading at a time."""
        committed = self._services.ledger.lag()["records"]
        if committed != self._events_of and (self._fetching is None or self._fetching.done()):
            self._events_of = committed
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        if self._fetching is not None:
            await asyncio.wait({self._fetching}, timeout=EVENTS_WAIT_S)
        return self._events

    async def _fetch(self) -> None:
        try:
            records = await asyncio.to_thread(query.latest, self._services.settings.data, EVENTS)
        except Misconfigured as fault:
            log.warning("the console cannot read the ledger's last records: %s", fault)
        else:
            self._events = rows.events(records, self._home)

    # ── theirs ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask_soon(self) -> None:
        now = clock.monotonic()
        busy = self._asking is not None and not self._asking.done()
        if not busy and now - self._asked_at >= GATHER_EVERY_S:
            self._asked_at = now
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        heard = await self._services.fleet.lines.gather("board")
        self._others = [sheet(one.name, said) for one in heard for said in one.body.get("board", ())[:1]]
        self._counted = self._merger.pulse(self._services.pulse.ended_before(clock.monotonic()), self._others)
        known = {one.sidecar: one for one in self._others}
        self._peers = rows.table((_peer(one, known.get(rows.text(one.name))) for one in heard), "peer")


@dataclass(frozen=True, slots=True)
class _Table:
    """``count`` rows there are, those in ``rows`` are shown; read again when it is ``due``."""

    count: int
    rows: rows.Table
    due: float


def _read(listed: Listed, shown: Callable[[list[rows.Row], str], rows.Table], services: Services, home: str) -> _Table:
    began = time.perf_counter()
    found = listed(services)
    table = shown(found, home)
    took_s = time.perf_counter() - began
    return _Table(len(found), table, clock.monotonic() + min(MAX_REST_S, took_s / SHARE))


def _peer(heard: Heard, told: Sheet | None) -> rows.Row:
    head = fit({}, HEAD) if told is None else told.board.head
    return {
        "sidecar": rows.text(heard.name),
        "peer": rows.text(heard.peer),
        "answered": heard.answered,
        "error": rows.text(heard.error),
        "version": head["version"],
        "unready": head["unready"],
    }


def _head(services: Services) -> dict[str, Any]:
    policies, ledger = services.policies, services.ledger
    return {
        "version": __version__,
        "sidecar": rows.text(services.fleet.lines.own.sidecar),
        "fleet": bool(services.fleet.settings),
        "unready": unready(services),
        "policy": {
            "name": rows.text(policies.current.name),
            "digest": policies.current.digest[:12],
            "observes": policies.current.observes,
            "rejected": [rows.text(fault) for fault in policies.rejected[:5]],
        },
        "ledger": {"healthy": ledger.healthy, "trouble": rows.text(ledger.trouble)},
        "trouble": "",
    }

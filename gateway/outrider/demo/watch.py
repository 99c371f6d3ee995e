"""Follows the sidecar while it works: its ledger, record by record, and its breakers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from outrider import clock
from outrider.demo.narrator import Narrator, Teller
from outrider.demo.processes import Unexpected
from outrider.demo.view import View

EVERY_S = 0.05
PAGE = 1000
CONTROL_TIMEOUT_S = 10.0

Record = Mapping[str, Any]


class Control:
    """The control plane, as a person with the admin token sees it."""

    def __init__(self, url: str, data: Path) -> None:
        token = (data / "admin.token").read_text().strip()
        self._session = aiohttp.ClientSession(
            url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=CONTROL_TIMEOUT_S),
        )

    async def __aenter__(self) -> Control:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> Any:
        """Raises Unexpected for anything but success."""
        return await self._ask("GET", path)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Raises Unexpected for anything but success."""
        return await self._ask("POST", path, dict(body))

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with self._session.request(method, path, json=body) as response:
            if response.status >= 300:
                raise Unexpected(f"{method} {path} was answered with {response.status}: {await response.text()}")
            return await response.json()


class Watch:
    """Shows each new record, in the words of ``teller``. ``records`` are all so far; ``breakers`` the states of each
    breaker, in order."""

    def __init__(self, control: Control, view: View) -> None:
        self.records: list[Record] = []
        self.breakers: dict[str, list[str]] = {}
        self._control = control
        self._view = view
        self.teller: Teller = Narrator()
        self._looking = asyncio.Lock()
        self._following: asyncio.Task[None]

    async def __aenter__(self) -> Watch:
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await self.catch_up()
            await asyncio.sleep(EVERY_S)

    async def catch_up(self) -> None:
        """Everything that has happened is shown."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        shown = await self._control.get("/v1/upstreams")  # first, so that a breaker moves after what moved it
        page = await self._control.get(f"/v1/ledger?after={len(self.records)}&limit={PAGE}")
        for record in page["records"]:
            self.records.append(record)
            line = self.teller.hear(record)
            if line is not None:
                self._view.line(line)
        self._look_at_breakers(shown)
        self._view.foot(self._state())

    def _look_at_breakers(self, shown: Mapping[str, Any]) -> None:
        """Those of services. A function has one for each agent, which would tell the same again and again."""
        upstreams = [upstream for upstream in shown["upstreams"] if upstream["name"] != "local"]
        domains = [domain for upstream in upstreams for domain in upstream["domains"]]
        for key, state in ((domain["key"], domain["breaker"]["state"]) for domain in domains):
            states = self.breakers.setdefault(key, ["closed"])
            if states[-1] != state:
                states.append(state)
                self._view.breaker(key, state)

    def _state(self) -> str:
        ended = [record for record in self.records if record["type"] in {"call.finished", "call.refused"}]
        attempts = sum(record["type"] == "attempt.started" for record in self.records)
        not_closed = [f"{key} {states[-1]}" for key, states in self.breakers.items() if states[-1] != "closed"]
        breakers = ", ".join(not_closed) or "all closed"
        return f"calls {len(ended)} · attempts {attempts} · breakers: {breakers} · ledger {len(self.records)} records"

    async def until(self, true: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until the records say so. Raises Unexpected when they do not in time."""
        deadline = clock.monotonic() + timeout_s
        while not true():
            if clock.monotonic() > deadline:
                raise Unexpected(f"The ledger did not tell of {what} within {timeout_s:g} s.")
            await asyncio.sleep(EVERY_S)

    def of(self, kind: str, **fields: Any) -> list[Record]:
        """The records of a type that have these fields."""
        return [
            record
            for record in self.records
            if record["type"] == kind and all(record.get(name) == value for name, value in fields.items())
        ]

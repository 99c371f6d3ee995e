"""The drivers in use: one for each upstream of the policy, made anew when its settings change."""

from __future__ import annotations

import asyncio

from outrider.policy.load import Policy
from outrider.policy.plans import HttpUpstream, Upstream
from outrider.upstreams.base import UpstreamDriver
from outrider.upstreams.http import HttpDriver

RETIRED_FOR_S = 300.0
"""How long a driver whose settings changed lives on for calls that are pinned to the older policy. One that needs it
longer gets a new one with those settings."""


class Drivers:
    """Finds the driver for a plan's upstream. ``local`` is the one in-process upstream."""

    def __init__(self, local: UpstreamDriver) -> None:
        self._local = local
        self._http: dict[str, list[tuple[HttpUpstream, HttpDriver]]] = {}

    def get(self, upstream: Upstream) -> UpstreamDriver:
        """The driver with exactly these settings. Raises Misconfigured when a certificate cannot be read."""
        if upstream.http is None:
            return self._local
        made = self._http.setdefault(upstream.name, [])
        for settings, driver in made:
            if settings is upstream.http or settings == upstream.http:
                return driver
        driver = HttpDriver(upstream.http)
        made.append((upstream.http, driver))
        return driver

    def apply(self, policy: Policy) -> None:
        """Make what is new, retire what changed. Raises Misconfigured."""
        wanted = {name: upstream.http for name, upstream in policy.upstreams.items() if upstream.http is not None}
        for name in wanted:
            self.get(policy.upstreams[name])
        for name, made in self._http.items():
            self._http[name] = [entry for entry in made if entry[0] == wanted.get(name)]
            for settings, driver in made:
                if settings != wanted.get(name):
                    self._retire(driver)

    def _retire(self, driver: HttpDriver) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(RETIRED_FOR_S, lambda: loop.create_task(driver.close()))

    async def close(self) -> None:
        for made in self._http.values():
            for _, driver in made:
                await driver.close()
        await self._local.close()

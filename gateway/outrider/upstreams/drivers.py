"""The drivers in use: one for each upstream of the policy, made anew when its settings change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from outrider.policy.load import Policy
from outrider.policy.plans import HttpUpstream, McpUpstream, Upstream
from outrider.upstreams.base import UpstreamDriver
from outrider.upstreams.http import HttpDriver
from outrider.upstreams.mcp.catalog import Watch
from outrider.upstreams.mcp.child_driver import ChildDriver
from outrider.upstreams.mcp.driver import NOBODY, McpDriver
from outrider.upstreams.mcp.http import HttpTransport

RETIRED_FOR_S = 300.0
"""How long a driver whose settings changed lives on for calls that are pinned to the older policy. One that needs it
longer gets a new one with those settings."""

Settings = HttpUpstream | McpUpstream
WatchOf = Callable[[str, McpUpstream], Watch]


class Drivers:
    """Finds the driver for a plan's upstream. ``local`` is the one in-process upstream."""

    def __init__(self, local: UpstreamDriver, watch: WatchOf = lambda name, settings: NOBODY) -> None:
        """``watch`` gives who minds what an MCP server says of its tools."""
        self._local = local
        self._watch = watch
        self._made: dict[str, list[tuple[Settings, UpstreamDriver]]] = {}

    def get(self, upstream: Upstream) -> UpstreamDriver:
        """The driver with exactly these settings. Raises Misconfigured when a certificate cannot be read."""
        wanted = upstream.http or upstream.mcp
        if wanted is None:
            return self._local
        made = self._made.setdefault(upstream.name, [])
        for settings, driver in made:
            if settings is wanted or settings == wanted:
                return driver
        driver = make(upstream.name, wanted, self.watch_of(upstream))
        made.append((wanted, driver))
        return driver

    def mcp(self, upstream: Upstream) -> McpDriver | None:
        """The driver of an MCP server; None for another kind. Raises Misconfigured."""
        driver = self.get(upstream)
        return driver if isinstance(driver, McpDriver) else None

    def watch_of(self, upstream: Upstream) -> Watch:
        """Who minds what this MCP server says of its tools."""
        return self._watch(upstream.name, upstream.mcp) if upstream.mcp is not None else NOBODY

    def apply(self, policy: Policy) -> None:
        """Make what is new, retire what changed. Raises Misconfigured."""
        wanted = {name: upstream.http or upstream.mcp for name, upstream in policy.upstreams.items()}
        for upstream in policy.upstreams.values():
            self.get(upstream)
        for name, made in self._made.items():
            self._made[name] = [entry for entry in made if entry[0] == wanted.get(name)]
            for settings, driver in made:
                if settings != wanted.get(name):
                    self._retire(driver)

    def _retire(self, driver: UpstreamDriver) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(RETIRED_FOR_S, lambda: loop.create_task(driver.close()))

    async def close(self) -> None:
        drivers = [driver for made in self._made.values() for _, driver in made]
        await asyncio.gather(*(driver.close() for driver in drivers))
        await self._local.close()


def make(upstream: str, settings: Settings, watch: Watch = NOBODY) -> UpstreamDriver:
    """A driver with these settings. Raises Misconfigured when a certificate cannot be read."""
    if isinstance(settings, HttpUpstream):
        return HttpDriver(settings)
    over_http = settings.http
    if over_http is None:
        return ChildDriver(upstream, settings, watch)
    return McpDriver(settings, lambda: HttpTransport(over_http), watch)

"""The driver of a server that is a child: one process, shared by all calls, started again after it crashed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from outrider.policy.plans import McpUpstream
from outrider.upstreams.mcp.catalog import Watch
from outrider.upstreams.mcp.driver import NOBODY, McpDriver
from outrider.upstreams.mcp.keeper import Keeper
from outrider.upstreams.mcp.stdio import StdioTransport
from outrider.upstreams.mcp.transport import McpFailure, Sending

START_S = 60.0
"""How long a child may take from its start to its first answer: some fetch themselves first."""
AGAIN_S = 1.0
"""The least time between two starts that nobody asked for."""

log = logging.getLogger("outrider.mcp.child")


class ChildDriver(McpDriver):
    """Starts the child with the first call, or at once and for ever with ``start: atStart``."""

    def __init__(self, upstream: str, settings: McpUpstream, watch: Watch = NOBODY) -> None:
        self._keeper = Keeper(upstream, settings)
        super().__init__(settings, self._transport, watch, one_era=True, open_s=START_S)
        self._keeping_up: asyncio.Task[None] | None = None
        if settings.start == "atStart":
            self._keeping_up = asyncio.get_running_loop().create_task(self._keep_up())

    def _transport(self) -> StdioTransport:
        return StdioTransport(self._keeper, self._settings.max_response_bytes)

    async def _keep_up(self) -> None:
        while True:
            try:
                await self.session(True, Sending(connect_s=START_S))
            except McpFailure:
                pass  # the keeper has told the log, and the control plane
            except Exception:
                log.exception("a child could not be started")
            await self._keeper.is_down()
            await asyncio.sleep(max(AGAIN_S, self._keeper.left_s()))

    def snapshot(self) -> dict[str, Any]:
        """For the control plane; JSON types only."""
        return {**super().snapshot(), "child": self._keeper.snapshot()}

    async def close(self) -> None:
        if self._keeping_up is not None:
            self._keeping_up.cancel()
            await asyncio.gather(self._keeping_up, return_exceptions=True)
        self._keeper.close()
        await super().close()

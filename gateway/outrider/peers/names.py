"""The peers behind a DNS name: every address that it has now."""

from __future__ import annotations

import asyncio
import logging
import socket

from outrider.settings import Address

LOOKUP_S = 5.0

log = logging.getLogger("outrider.peers")


class Names:
    """Looks a name up. A look-up that hangs holds one thread of the system's, so there is never a second one."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self._port = port
        self._why = ""
        self._pending: asyncio.Future[list[Address]] | None = None

    async def look_up(self, patience_s: float = LOOKUP_S) -> list[Address] | None:
        """Sorted, so that all sidecars see the same list. None: nothing was learnt, so what was known stays."""
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._ask())
        done, _ = await asyncio.wait({self._pending}, timeout=patience_s)
        if not done:
            self._tell("no answer yet")
            return None
        pending, self._pending = self._pending, None
        try:
            found = pending.result()
        except (OSError, UnicodeError) as fault:
            self._tell(str(fault))
            return None
        self._why = ""
        return found

    def _tell(self, why: str) -> None:
        """Logged once, and not at every look-up."""
        if why != self._why:
            log.warning("the peers' name %s cannot be looked up: %s", self.name, why)
        self._why = why

    async def _ask(self) -> list[Address]:
        found = await asyncio.get_running_loop().getaddrinfo(self.name, self._port, type=socket.SOCK_STREAM)
        return [Address(host, self._port) for host in sorted({str(entry[4][0]) for entry in found})]

"""The policy in force, and its replacement: whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from outrider import clock
from outrider.errors import Fault, Misconfigured
from outrider.policy.load import Policy, load

CHECK_EVERY_S = 0.5
"""How often the folder's files are looked at; a change is in force within 2 s."""

Fingerprint = tuple[tuple[str, int, int, int], ...]


class CurrentPolicy:
    """Holds the newest good policy. A bad change leaves the old one in force and is visible in ``rejected``."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.folder = folder
        self.current = policy
        self.loaded_at_wall = clock.wall()
        self.rejected: tuple[Fault, ...] = ()
        self._listeners: list[Callable[[Policy | None, tuple[Fault, ...]], None]] = []
        self._seen = self._fingerprint()

    def subscribe(self, listener: Callable[[Policy | None, tuple[Fault, ...]], None]) -> Callable[[], None]:
        """``listener(policy, ())`` after a change, ``listener(None, faults)`` after one that was refused; until what is
        returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def reload(self) -> Policy:
        """Read the folder again. Raises Misconfigured with every fault; the old policy then stays in force."""
        self._seen = self._fingerprint()
        try:
            policy = await asyncio.to_thread(load, self.folder)
        except Misconfigured as bad:
            self.rejected = bad.faults
            self._tell(None, bad.faults)
            raise
        self.rejected = ()
        changed = policy.digest != self.current.digest or policy.upstreams != self.current.upstreams  # a secret's value
        if changed:
            self.current = policy
            self.loaded_at_wall = clock.wall()
            self._tell(policy, ())
        return policy

    def _tell(self, policy: Policy | None, faults: tuple[Fault, ...]) -> None:
        for listener in tuple(self._listeners):
            listener(policy, faults)

    def _fingerprint(self) -> Fingerprint:
        """Names, times and sizes of the folder's files; secrets named by ``{file:…}`` are read at reload only."""
        found = []
        for path in sorted(self.folder.glob("*.y*ml")):
            try:
                stat = path.stat()
            except OSError:
                continue
            found.append((path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)

    async def watch(self) -> None:
        """Reload when a file changed. Runs until cancelled; a half-written file is refused, then read again."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            if self._fingerprint() == self._seen:
                continue
            try:
                await self.reload()
            except Misconfigured:
                continue  # told to the listeners; the old policy stays

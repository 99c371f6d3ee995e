"""An issuer's keys, kept current in the background: a check never waits for a file or a provider that is down.

A key set that was read once is kept until a newer one was read whole. A token with an unknown key id may mean that the
keys were rotated a moment ago: it has them fetched at once, but not more often than ``AT_ONCE_EVERY_S``, whoever sends
what.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp

from outrider import __version__, clock
from outrider.identity.keys import KeySet, read_keys
from outrider.policy.identity import JwtIssuer, KeysFrom

FETCH_S: Final = 5.0
MAX_BYTES: Final = 256 * 1024
LOOK_S: Final = 1.0
"""How often a file is looked at."""
AGAIN_S: Final = 5.0
"""How soon a fetch that failed is tried again, at the latest after the usual time."""
AT_ONCE_EVERY_S: Final = 10.0

log = logging.getLogger("outrider.identity")


class Keyring:
    """The keys of one issuer. ``changed`` is called after another set came into force."""

    def __init__(self, issuer: JwtIssuer, changed: Callable[[], None]) -> None:
        self.issuer = issuer
        self.keys: KeySet | None = None
        self.trouble = "they were not read yet"
        self._changed = changed
        self._fetching: asyncio.Task[None] | None = None
        self._asked_at: float | None = None
        self._seen: tuple[int, int, int] | None = None
        self._task = asyncio.get_running_loop().create_task(self._live())

    async def close(self) -> None:
        tasks = [task for task in (self._task, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def at_once(self) -> asyncio.Future[None] | None:
        """A fetch that is under way, or begun now; None where there was one too short a time ago."""
        if self._fetching is not None:
            return self._fetching
        now = clock.monotonic()
        if self._asked_at is not None and now - self._asked_at < AT_ONCE_EVERY_S:
            return None
        self._asked_at = now
        return self._begin()

    def _begin(self) -> asyncio.Task[None]:
        if self._fetching is None:
            task = self._fetching = asyncio.get_running_loop().create_task(self._fetch())
            task.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _live(self) -> None:
        source = self.issuer.keys
        while True:
            await asyncio.wait({self._begin()})
            if source.file:
                await self._until_the_file_changes(Path(source.file))
            else:
                await asyncio.sleep(min(AGAIN_S, source.refresh_s) if self.trouble else source.refresh_s)

    async def _until_the_file_changes(self, path: Path) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self.trouble or await asyncio.to_thread(_mark, path) != self._seen:
                return

    async def _fetch(self) -> None:
        """Read the set and put it in force. Never raises: what went wrong is ``trouble``."""
        try:
            source = self.issuer.keys
            text = await (self._from_file(source) if source.file else _from_url(source))
            keys = await asyncio.to_thread(read_keys, text, self.issuer.algorithms)
        except (OSError, ValueError, TimeoutError, aiohttp.ClientError) as error:
            self._in_trouble(str(error) or type(error).__name__)
            return
        before, self.keys = self.keys, keys
        if self.trouble:
            log.info("the keys of %s are read: %d", self.issuer.who, len(keys))
        self.trouble = ""
        if before is None or before.prints != keys.prints:
            self._changed()

    async def _from_file(self, source: KeysFrom) -> bytes:
        path = Path(source.file)
        self._seen = await asyncio.to_thread(_mark, path)
        return await asyncio.to_thread(_read, path)

    def _in_trouble(self, why: str) -> None:
        if why != self.trouble:
            kept = "those read before stay in force" if self.keys is not None else "its tokens are refused until then"
            log.error("the keys of %s cannot be read (%s); %s", self.issuer.who, why, kept)
        self.trouble = why


def _mark(path: Path) -> tuple[int, int, int] | None:
    with contextlib.suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
    return None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES} bytes")
    return text


async def _from_url(source: KeysFrom) -> bytes:
    headers = {"User-Agent": f"outrider/{__version__}", "Accept": "application/json"}
    if source.token_file:
        token = (await asyncio.to_thread(_read, Path(source.token_file))).decode().strip()
        headers["Authorization"] = f"Bearer {token}"
    trusted = await asyncio.to_thread(ssl.create_default_context, cafile=source.ca_file or None)
    connector = aiohttp.TCPConnector(ssl=trusted, force_close=True)
    async with (
        asyncio.timeout(FETCH_S),
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.get(source.url, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise ValueError(f"{source.url} answered {response.status}")
        text = b""
        while len(text) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES + 1 - len(text))):
            text += more
    if len(text) > MAX_BYTES:
        raise ValueError(f"{source.url} answered more than {MAX_BYTES} bytes")
    return text

"""Asks one peer. Bounded in time and in size, and every way to fail is a sentence: a peer may hang, talk nonsense, talk
without end, or be somebody else altogether, and none of that is an exception."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from outrider import __version__
from outrider.peers.book import Who
from outrider.settings import Address

MAX_NAME = 300
AT_ONCE = 4
"""Connections to one peer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``who`` None: there was no sensible answer, and ``error`` says why. With ``who`` and an ``error`` the peer is
    there and said no."""

    who: Who | None
    body: dict[str, Any]
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error


def credential(secret: str) -> str:
    """What peers show each other. Made from the secret, so that the secret itself, which may be the people's token, is
    never sent: whoever pretends to be a peer learns what opens the peers' routes and nothing else."""
    return hmac.new(secret.encode(), b"outrider peers, v1", hashlib.sha256).hexdigest()


class PeerClient:
    """HTTP to the control listeners of the peers. ``server_name`` is what their certificates must name where addresses
    were looked up; empty: each address's own host."""

    def __init__(self, token: str, tls: ssl.SSLContext | None, server_name: str = "") -> None:
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": f"outrider/{__version__}"}
        self._headers["Accept-Encoding"] = "identity"
        self._tls = tls
        self._server_name = server_name or None
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, address: Address, method: str, path: str, body: Any = None, *, timeout_s: float, max_bytes: int
    ) -> Answer:
        """One request. Never raises but when it is cancelled."""
        try:
            async with asyncio.timeout(timeout_s):
                status, raw = await self._exchange(address, method, path, body, max_bytes)
        except TimeoutError:
            return Answer(None, {}, f"no answer within {timeout_s:g} s")
        except aiohttp.ClientConnectorCertificateError as fault:
            return Answer(None, {}, f"its certificate is not trusted ({fault.certificate_error}); see --peer-ca")
        except aiohttp.ClientSSLError:
            return Answer(None, {}, "TLS fails: either all control listeners have TLS or none")
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            return Answer(None, {}, _told(fault))
        if len(raw) > max_bytes:
            return Answer(None, {}, f"its answer is longer than {max_bytes} bytes")
        return _read(status, raw)

    async def _exchange(self, address: Address, method: str, path: str, body: Any, max_bytes: int) -> tuple[int, bytes]:
        """At most one byte more than ``max_bytes``."""
        data = None if body is None else msgspec.json.encode(body)
        scheme = "http" if self._tls is None else "https"
        url = f"{scheme}://{address}{path}"
        async with self._open().request(
            method, url, data=data, headers=self._headers, allow_redirects=False, server_hostname=self._server_name
        ) as response:
            raw = bytearray()
            async for chunk in response.content.iter_chunked(64 * 1024):
                raw += chunk
                if len(raw) > max_bytes:
                    break
            return response.status, bytes(raw[: max_bytes + 1])

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0, limit_per_host=AT_ONCE, ssl=self._tls if self._tls is not None else True
            )
            # No answer of ours is packed, so a packed one is somebody else's; unpacking it could fill the memory.
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _told(fault: Exception) -> str:
    os_error = getattr(fault, "os_error", None) or fault
    why = getattr(os_error, "strerror", None) or str(os_error) or type(fault).__name__
    return f"no answer: {why}"[:300]


def _read(status: int, raw: bytes) -> Answer:
    if status in (401, 403):
        return Answer(None, {}, f"it refuses our secret ({status}); give all sidecars the same --peer-secret")
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return Answer(None, {}, f"its answer ({status}) is not a sidecar's")
    if status != 200:
        return Answer(None, {}, f"it answered {status}: {str(body.get('detail', ''))[:200]}")
    who = _who(body.get("who"))
    return Answer(who, body, "" if who is not None else "its answer does not say which sidecar it is")


def _who(given: Any) -> Who | None:
    if not isinstance(given, dict):
        return None
    sidecar, incarnation = given.get("sidecar"), given.get("incarnation")
    good = all(isinstance(text, str) and 0 < len(text) <= MAX_NAME for text in (sidecar, incarnation))
    return Who(str(sidecar), str(incarnation)) if good else None

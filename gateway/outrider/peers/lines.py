"""What is asked of peers, each time with its bounds: of one in a round, of all of them at once for a person.

One slow peer delays nobody beyond its own bound: everybody is asked at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from outrider.errors import Refused
from outrider.kills import Kill
from outrider.peers import records
from outrider.peers.book import Book, Peer, State, Who
from outrider.peers.client import Answer, PeerClient
from outrider.peers.takeover import Known
from outrider.settings import Address

SILENT_LIST_S = 0.5
"""How long a list waits for a peer that did not answer the last time; a kill gives everybody the whole time."""
TELLING_SHARE = 0.8
"""Of the time for a peer's answer, what it may spend on waiting for its calls to end."""
MAX_KILLS_BYTES = 16 * 1024 * 1024
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_LISTS_BYTES = 64 * 1024 * 1024
"""Of the answers of all peers together."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One peer's answer to what was asked of all. ``answered`` False: whether it heard is not known."""

    peer: str
    sidecar: str | None
    answered: bool
    body: dict[str, Any]
    error: str = ""

    @property
    def name(self) -> str:
        return self.sidecar or self.peer


class Lines:
    """Asks the peers of a book, and keeps the book."""

    def __init__(self, own: Who, book: Book, client: PeerClient, timeout_s: float) -> None:
        self.own = own
        self.book = book
        self.timeout_s = timeout_s
        self._client = client

    async def close(self) -> None:
        await self._client.close()

    # ── one of them ──────────────────────────────────────────────────────────────────────────────────────────────

    async def known(self, address: Address, digest: str) -> Known | None:
        """Which kills it knows; None: no sensible answer."""
        path = f"/v1/peer/kills?digest={digest}"
        answer = await self._ask(address, "GET", path, timeout_s=self.timeout_s, max_bytes=MAX_KILLS_BYTES)
        if not answer.ok or answer.who is None:
            return None
        given = answer.body.get("kills")
        if given is None:
            return Known(None)
        if not isinstance(given, list):
            self.book.failed(address, "its answer holds no kills")
            return None
        return _known(given, answer.who.sidecar)

    async def tell(self, address: Address, kill: Kill, wait_s: float = 0.0) -> Answer:
        """Tell it of a kill, or of its end. It may wait so long for its calls to end before it answers."""
        body = {"kill": records.told(kill), "sidecar": self.own.sidecar, "wait_ms": round(wait_s * 1000)}
        path = f"/v1/peer/kills/{kill.id}"
        answer = await self._ask(address, "PUT", path, body, timeout_s=self.timeout_s, max_bytes=MAX_ANSWER_BYTES)
        if answer.ok and not _is_receipt(answer.body):
            answer = Answer(answer.who, {}, "its answer is no receipt")
        if not answer.ok:
            self.book.missed(address, kill.id)
        return answer

    # ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────

    async def tell_all(self, kill: Kill) -> list[Heard]:
        """Tell everybody at once."""
        peers, wait_s = self.book.told(), self.timeout_s * TELLING_SHARE
        answers = await asyncio.gather(*(self.tell(peer.address, kill, wait_s) for peer in peers))
        return self._each_once(zip(peers, answers, strict=True))

    async def gather(self, what: str) -> list[Heard]:
        """What everybody has itself: ``agents``, ``calls`` …, a list under that name in ``body``."""
        peers = self.book.told()
        bound = min(MAX_ANSWER_BYTES, MAX_LISTS_BYTES // max(1, len(peers)))
        answers = await asyncio.gather(*(self._list(peer, what, bound) for peer in peers))
        return self._each_once(zip(peers, answers, strict=True))

    async def _list(self, peer: Peer, what: str, max_bytes: int) -> Answer:
        patience_s = min(SILENT_LIST_S, self.timeout_s) if peer.state is State.SILENT else self.timeout_s
        answer = await self._ask(peer.address, "GET", f"/v1/peer/{what}", timeout_s=patience_s, max_bytes=max_bytes)
        rows = answer.body.get(what)
        if not answer.ok or (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            return answer
        return Answer(answer.who, {}, f"its answer holds no {what}")

    def _each_once(self, said: Iterable[tuple[Peer, Answer]]) -> list[Heard]:
        """Without ourselves, and each sidecar once, however many of its addresses were asked."""
        said = list(said)
        heard: list[Heard] = []
        seen = {self.own.incarnation}
        good = {answer.who.incarnation for _, answer in said if answer.ok and answer.who is not None}
        for peer, answer in said:
            incarnation = "" if answer.who is None else answer.who.incarnation
            if incarnation in seen or (not answer.ok and incarnation in good):
                continue
            if incarnation:
                seen.add(incarnation)
            who = answer.who or peer.who
            sidecar = None if who is None else who.sidecar
            heard.append(Heard(str(peer.address), sidecar, answer.ok, answer.body, answer.error))
        return heard

    async def _ask(self, address: Address, method: str, path: str, body: Any = None, **bounds: Any) -> Answer:
        """Every answer tells who is there, and every silence that nobody is."""
        answer = await self._client.ask(address, method, path, body, **bounds)
        if answer.who is None:
            self.book.failed(address, answer.error)
        else:
            self.book.answered(address, answer.who)
        return answer


def _is_receipt(body: dict[str, Any]) -> bool:
    counts, calls = body.get("counts"), body.get("calls")
    if not (isinstance(counts, dict) and isinstance(calls, list)):
        return False
    return all(isinstance(count, int) for count in counts.values()) and all(isinstance(call, dict) for call in calls)


def _known(given: list[Any], via: str) -> Known:
    kills: list[Kill] = []
    for one in given:
        try:
            kills.append(records.read(one, via))
        except Refused:
            continue
    return Known(tuple(kills), unreadable=len(given) - len(kills))

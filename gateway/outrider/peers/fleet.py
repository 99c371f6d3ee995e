"""The peers at work: what is stopped here is told to all of them at once, and there is a round with each for ever.

    a kill or a lift made here ──► told to every peer at once, each bounded ──► the receipt says who heard
    a peer that did not hear   ──► the next round with it brings it up to date (takeover)
    at a start                 ──► a round with everybody, before agents are served

A peer's silence never delays a kill here: that one is in force before anybody else is told of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from outrider.kills import Kill, KillBoard
from outrider.ledger.record import Event, EventType
from outrider.peers.book import State
from outrider.peers.lines import Heard, Lines
from outrider.peers.names import Names
from outrider.peers.takeover import Known, Round, round_with
from outrider.settings import MAX_PEERS, Address, Peers

ROUND_EVERY_S = 2.0
"""Between two rounds with one peer, ±25 %, so that sidecars started together do not stay in step."""
PEERS_AT_THAT_PACE = 50
"""With more of them rounds are rarer, so that what a sidecar spends on them does not grow with their number."""
LOOK_UP_EVERY_S = 5.0
MAX_TELLINGS = 64

log = logging.getLogger("outrider.peers")
Obey = Callable[[Kill, float], Awaitable[object]]
Record = Callable[[Event], object]


class Fleet:
    """The other sidecars. Without any it is there all the same, and has nothing to do.

    ``obey(kill, patience_s)`` makes another sidecar's kill take effect here.
    """

    def __init__(self, settings: Peers, lines: Lines, board: KillBoard, *, obey: Obey, record: Record) -> None:
        self.settings = settings
        self.lines = lines
        self.caught_up = not settings
        self.taking_over = bool(settings)
        self._board = board
        self._obey = obey
        self._record = record
        self._names = None if settings.dns is None else Names(settings.dns.host, settings.dns.port)
        self._loops: dict[Address, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tellings: dict[tuple[str, bool], asyncio.Task[list[Heard]]] = {}
        board.subscribe(self._changed)

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def catch_up(self) -> None:
        """A round with everybody, bounded: what was stopped while this sidecar was away is stopped before it serves.

        Where nobody answers it serves with the kills it knows, which its last run left on disk, and says so: sidecars
        that all wait for each other would never start."""
        if not self.settings:
            return
        try:
            async with asyncio.timeout(2 * self.settings.timeout_s):
                await self._look_up()
                await asyncio.gather(*(self._round(peer.address) for peer in self.lines.book))
        except TimeoutError:
            log.warning("the kills of the peers were not all taken over in time; it goes on in the background")
        self.taking_over = False
        others = self.lines.book.told()
        self.caught_up = any(peer.state is State.ANSWERING for peer in others) or not others
        if not self.caught_up:
            silent = {str(peer.address): peer.error for peer in others}
            log.warning("no peer answers: serving with the kills that are known here", extra={"peers": silent})

    def start(self) -> None:
        """Rounds with everybody, from now on."""
        if self.settings:
            self._spawn(self._tend())

    async def close(self) -> None:
        tasks = (*self._loops.values(), *self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.lines.close()

    async def _tend(self) -> None:
        """Keep the list of peers, and one loop for each of them."""
        while True:
            try:
                await self._look_up()
                self._keep_loops()
            except Exception:  # the next look-up tries again; who is known stays known
                log.exception("looking after the peers failed")
            await asyncio.sleep(LOOK_UP_EVERY_S * random.uniform(0.75, 1.25))

    async def _look_up(self) -> None:
        found = list(self.settings.addresses)
        if self._names is not None:
            named = await self._names.look_up(self.settings.timeout_s)
            if named is None:
                return
            found += named
        book = self.lines.book
        before = book.left_out
        book.relist(found)
        if book.left_out > before:
            log.error("%d peers beyond the first %d are not told of kills", book.left_out, MAX_PEERS)

    def _keep_loops(self) -> None:
        there = {peer.address for peer in self.lines.book}
        for address in set(self._loops) - there:
            self._loops.pop(address).cancel()
        for address in there - set(self._loops):
            self._loops[address] = asyncio.get_running_loop().create_task(self._rounds(address))

    async def _rounds(self, address: Address) -> None:
        while self.lines.book.get(address) is not None:
            await asyncio.sleep(self._pause_s() * random.uniform(0.75, 1.25))
            try:
                await self._round(address)
            except Exception:  # a fault of ours must not end the rounds with this peer
                log.exception("a round with a peer failed", extra={"peer": str(address)})

    def _pause_s(self) -> float:
        return ROUND_EVERY_S * max(1.0, len(self._loops) / PEERS_AT_THAT_PACE)

    async def _round(self, address: Address) -> None:
        before = self.lines.book.get(address)
        was = None if before is None else before.state
        done = await round_with(_One(self.lines, address), self._board, lambda kill: self._obey(kill, 0.0))
        if done.answered:
            self.lines.book.in_step(address, done.in_step)
            self.caught_up = True
        self._log_change(address, was, done)

    def _log_change(self, address: Address, was: State | None, done: Round) -> None:
        peer = self.lines.book.get(address)
        if peer is None:
            return
        if done.taken or done.given:
            facts = {"peer": str(address), "taken_over": done.taken, "told": done.given}
            log.warning("kills were brought together with %s", peer.name, extra=facts)
        if peer.state is not was:
            level = logging.WARNING if peer.state is State.SILENT else logging.INFO
            log.log(level, "peer %s is %s", peer.name, peer.state, extra={"peer": str(address), "error": peer.error})

    # ── telling everybody ────────────────────────────────────────────────────────────────────────────────────────

    def _changed(self, kill: Kill, engaged: bool) -> None:
        """What was stopped or released here is told. What a peer told us it tells the others itself, and a time that is
        over is over everywhere; the rounds bring what got lost."""
        if not self.settings or kill.row is not None:
            return
        by_itself = kill.lifted is not None and kill.lifted.by == "expiry"
        if not kill.told_by and not by_itself:
            self._telling(kill)

    async def reach(self, kill_id: str) -> list[Heard]:
        """What every peer said to this kill, or to its end. Each had its time from the moment it took effect here."""
        kill = self._board.known(kill_id)
        if not self.settings or kill is None or kill.row is not None:
            return []
        return await asyncio.shield(self._telling(kill))

    def _telling(self, kill: Kill) -> asyncio.Task[list[Heard]]:
        """One for each kill and one for its end, kept a while for who asks how it went."""
        key = (kill.id, kill.lifted is None)
        if key not in self._tellings:
            self._tellings[key] = self._spawn(self._tell_all(kill))
            while len(self._tellings) > MAX_TELLINGS:
                del self._tellings[next(iter(self._tellings))]
        return self._tellings[key]

    async def _tell_all(self, kill: Kill) -> list[Heard]:
        heard = await self.lines.tell_all(kill)
        lifted = kill.lifted
        data = {
            "id": kill.id,
            "scope": kill.scope,
            "change": "engaged" if lifted is None else "lifted",
            "complete": self.complete(heard),
            "peers": [{"peer": one.name, "answered": one.answered, "error": one.error} for one in heard],
        }
        actor, reason = (kill.by, kill.reason) if lifted is None else (lifted.by, lifted.reason)
        try:
            self._record(Event(type=EventType.KILL_REACHED, actor=actor, reason=reason, data=data))
        except Exception:  # what was heard is heard, and whoever asked is told
            log.exception("what the peers answered could not be recorded")
        return heard

    def complete(self, heard: list[Heard]) -> bool:
        """Whether everybody is known to have heard."""
        return all(one.answered for one in heard) and not self.lines.book.left_out

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _One:
    """One peer, as a round sees it."""

    def __init__(self, lines: Lines, address: Address) -> None:
        self._lines = lines
        self._address = address

    async def known(self, digest: str) -> Known | None:
        return await self._lines.known(self._address, digest)

    async def tell(self, kill: Kill) -> bool:
        return (await self._lines.tell(self._address, kill)).ok

"""A round with one peer: afterwards both know of all kills what either knew.

    ask it, with our digest ──► the same: in step
                            └─► its kills ──► what we lack is taken over ──► what it lacks is told to it, one by one

The board itself is the queue of what a silent peer has yet to hear: a round finds it, however long the peer was away,
and however it was lost. So nothing is kept of deliveries that failed, and nothing can overflow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from outrider.errors import Refused
from outrider.kills import Kill, KillBoard
from outrider.kills.merge import Step, decide

log = logging.getLogger("outrider.peers")

Obey = Callable[[Kill], Awaitable[object]]
AT_ONCE = 100
"""So many kills are taken over together: the ledger writes them as one batch."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a peer knows. ``kills`` None: the same as we do. ``unreadable`` records of it are not among them."""

    kills: tuple[Kill, ...] | None
    unreadable: int = 0


class Far(Protocol):
    """One peer."""

    async def known(self, digest: str) -> Known | None:
        """What it knows; None: no sensible answer."""
        ...

    async def tell(self, kill: Kill) -> bool:
        """Whether it has heard, and acted."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did. ``in_step``: nothing is left that one knows and the other does not."""

    answered: bool
    in_step: bool
    taken: int = 0
    given: int = 0


async def round_with(far: Far, board: KillBoard, obey: Obey) -> Round:
    """One round. Stopping comes first: the kills of the peer that are engaged, then ours that it lacks, then ends."""
    known = await far.known(board.digest())
    if known is None:
        return Round(answered=False, in_step=False)
    if known.kills is None:
        return Round(answered=True, in_step=True)
    taken, left = await _take(known.kills, board, obey)
    given, owed = await _give(known.kills, board, far)
    return Round(True, not (left or owed or known.unreadable), taken, given)


async def _take(theirs: Iterable[Kill], board: KillBoard, obey: Obey) -> tuple[int, int]:
    """How many records were taken over, and how many could not be."""
    wanted = [(decide(board.known(kill.id), kill), kill) for kill in theirs]
    taken = left = 0
    for steps in ((Step.ENGAGE, Step.OUTLAST), (Step.LIFT,)):
        todo = [kill for step, kill in wanted if step in steps]
        for at in range(0, len(todo), AT_ONCE):
            heard = await asyncio.gather(*(_taken(kill, obey) for kill in todo[at : at + AT_ONCE]))
            taken += sum(heard)
            left += len(heard) - sum(heard)
    past = [kill for step, kill in wanted if step is Step.REMEMBER]
    try:
        await board.remember(past)
    except Refused as fault:
        log.error("%d lifted kills of a peer cannot be remembered now: %s", len(past), fault)
        return taken, left + len(past)
    return taken + len(past), left


async def _taken(kill: Kill, obey: Obey) -> bool:
    try:
        await obey(kill)
    except Refused as fault:
        log.error("a peer's kill cannot be taken over now: %s", fault, extra={"kill": kill.id})
        return False
    return True


async def _give(theirs: Iterable[Kill], board: KillBoard, far: Far) -> tuple[int, int]:
    """How many records were told to it, and how many it is still owed. The end of a kill that it never heard of is not
    pressed on it: it asks for that itself."""
    there = {kill.id: kill for kill in theirs}
    owed = [(decide(there.get(kill.id), kill), kill) for kill in board.shared()]
    owed = [(step, kill) for step, kill in owed if step is not Step.NOTHING]
    given = 0
    for step, kill in sorted(owed, key=lambda one: one[0] is not Step.ENGAGE):
        if step is not Step.REMEMBER and not await far.tell(kill):
            break
        given += step is not Step.REMEMBER
    return given, len(owed) - given

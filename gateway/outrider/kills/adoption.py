"""What other sidecars know of kills, merged into this board: the board's other half, which it hands the work to.

``merge`` decides, and this acts on it: stopping first and then telling the disk, releasing the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from outrider import clock
from outrider.errors import Code, Refused
from outrider.kills import merge, stored
from outrider.kills.file import author, reason_in
from outrider.kills.merge import Step
from outrider.kills.scopes import Kill, Scope, new, stays
from outrider.ledger.record import Event, EventType

if TYPE_CHECKING:
    from outrider.kills.board import KillBoard

MAX_SHARED = 5000
"""Kills engaged at once where peers' kills are taken over: what a person stopped elsewhere is not refused for a lower
bound here."""


async def adopt(board: KillBoard, told: Kill) -> Kill:
    """As ``KillBoard.adopt``."""
    while (other := board._engaging.get(told.target)) is not None:
        await other.wait()
    mine = board.known(told.id)
    match merge.decide(mine, told):
        case Step.ENGAGE:
            _refuse_too_many(board, told.target)
            return await board._put_in_force(replace(told, mono=clock.monotonic(), durable=False, row=None))
        case Step.OUTLAST if mine is not None:
            ends_later = None if told.ttl_s is None else told.at + told.ttl_s - mine.at
            return await board._put_in_force(replace(mine, ttl_s=ends_later))
        case Step.LIFT if told.lifted is not None:
            await _file_stays_obeyed(board, told.id)
            return await board._lifted_in_time(told.id, told.lifted)
        case Step.REMEMBER:
            await board.remember((told,))
    return board.known(told.id) or told


async def remember(board: KillBoard, told: Sequence[Kill]) -> None:
    """Kills of elsewhere that were lifted before they were heard of here: durable first, then what is on its way to
    engage one of them is too late. Raises Refused when the ledger cannot be written."""
    news = [kill for kill in told if kill.lifted is not None and board.known(kill.id) is None]
    if not news:
        return
    mutations = [
        mutation
        for kill in news
        for mutation in (*stored.engaged(kill, board._boot), *stored.lifted(kill), *board._along.along(kill))
    ]
    data = {"count": len(news), "ids": [kill.id for kill in news[:20]], "via": news[0].told_by}
    try:
        await board._append(Event(type=EventType.KILLS_REMEMBERED, data=data), mutations)
    except Exception as fault:
        raise stays(f"The ledger cannot be written ({fault}).") from fault
    board._keep_lifted(*(kill for kill in news if kill.id not in board._kills))
    for kill in news:
        board._along.in_force(kill)
    for kill in news:
        if kill.id in board._kills and kill.lifted is not None:
            await board._lifted_in_time(kill.id, kill.lifted)


def _refuse_too_many(board: KillBoard, scope: Scope) -> None:
    first_global = scope.kind == "global" and board._present(scope) is None
    if len(board._kills) >= MAX_SHARED and not first_global:
        raise Refused(f"{MAX_SHARED} kills are engaged here, which is the limit.", {"code": Code.CONFLICT.value})


async def _file_stays_obeyed(board: KillBoard, kill_id: str) -> None:
    """Elsewhere this kill was lifted, and here a file says to stop everything: it gets a kill of its own first."""
    path = board._file_there()
    if path is None or board._kills[kill_id].target.kind != "global":
        return
    if any(kill.target.kind == "global" for kill in board.all() if kill.id not in {kill_id, *board._lifting}):
        return
    await board._put_in_force(new(Scope("global"), reason_in(path), author(path)))

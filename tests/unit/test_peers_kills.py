"""Kills that other sidecars tell of: taken over, outlasted, lifted, remembered; clocks that disagree; bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider.errors import Refused
from outrider.kills import Kill, KillBoard, Lift, Scope
from outrider.kills.board import MAX_SAME, TEND_EVERY_S
from outrider.kills.merge import KEPT_LIFTED
from outrider.ledger.record import EventType
from outrider.peers.takeover import Known, round_with
from tests.support.kill_kit import ScriptedLedger, Wall, a_call

pytestmark = pytest.mark.looptime
OVER = Lift(1_800_000_100.0, "eve", "over", "pod-b")


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    fake = Wall()
    monkeypatch.setattr(clock, "wall", fake)
    return fake


@pytest.fixture
def ledger() -> ScriptedLedger:
    return ScriptedLedger()


async def board_on(ledger: Any, file: Path | None = None) -> KillBoard:
    return await KillBoard.load(ledger, ledger, file=lambda: file, boot="boot", shared=True)


def told(scope: str = "agent:researcher", kill_id: str = "k-1", **changed: Any) -> Kill:
    """As a peer told it."""
    known: dict[str, Any] = {"reason": "why", "by": "bob", "at": 1_800_000_000.0, "mono": 0.0, "via": "pod-b"}
    return Kill(id=kill_id, target=Scope.parse(scope), **known | changed)


async def test_a_kill_that_is_told_is_in_force_on_disk_and_in_the_ledger(ledger: ScriptedLedger, wall: Wall) -> None:
    """With its id, its author and who told; told again it is the same one, recorded once."""
    board = await board_on(ledger)
    for _ in range(3):
        kill = await board.adopt(told())
        assert (kill.id, kill.by, kill.durable, kill.via) == ("k-1", "bob", True, "pod-b")
    assert board.match(a_call()) is not None
    (event,) = ledger.events
    assert (event.type, event.actor, event.data["via"]) == (EventType.KILL_ENGAGED, "bob", "pod-b")
    assert [one.id for one in (await board_on(ledger)).all()] == ["k-1"]


async def test_told_many_times_at_once_it_is_recorded_once(ledger: ScriptedLedger, wall: Wall) -> None:
    """Several peers tell at the same moment."""
    board = await board_on(ledger)
    await asyncio.gather(*(board.adopt(told()) for _ in range(5)))
    assert len(ledger.events) == len(board.all()) == 1


async def test_a_kill_is_in_force_even_while_the_disk_does_not_answer(ledger: ScriptedLedger, wall: Wall) -> None:
    """As one asked for here: written as soon as that is possible."""
    board = await board_on(ledger)
    ledger.mode = "hang"
    assert (await board.adopt(told())).durable is False
    assert board.match(a_call()) is not None


async def test_an_end_that_is_told_before_its_kill_is_remembered(ledger: ScriptedLedger, wall: Wall) -> None:
    """Reordered messages: the kill that arrives late stops nothing, after a restart neither."""
    board = await board_on(ledger)
    assert (await board.adopt(told(lifted=OVER))).lifted is not None
    again = await board_on(ledger)
    for one in (board, again):
        assert (await one.adopt(told())).lifted is not None
        assert one.match(a_call()) is None and one.all() == ()
    assert [event.type for event in ledger.events] == [EventType.KILLS_REMEMBERED]


async def test_an_end_is_durable_before_it_takes_effect(ledger: ScriptedLedger, wall: Wall) -> None:
    """Loosening waits for the disk; the one who told is told no."""
    board = await board_on(ledger)
    await board.adopt(told())
    ledger.mode = "fail"
    with pytest.raises(Refused, match="The kill stays"):
        await board.adopt(told(lifted=OVER))
    with pytest.raises(Refused, match="cannot be written"):
        await board.adopt(told(kill_id="k-2", lifted=OVER))
    assert board.match(a_call()) is not None and board.known("k-2") is None
    ledger.mode = "ok"
    lifted = (await board.adopt(told(lifted=OVER))).lifted
    assert lifted == OVER and board.all() == ()


async def test_the_longer_time_wins(ledger: ScriptedLedger, wall: Wall) -> None:
    """In any order; for good is the longest."""
    for order in ((5.0, 60.0, 20.0), (60.0, 20.0, 5.0)):
        board = await board_on(ScriptedLedger())
        for ttl_s in order:
            await board.adopt(told(ttl_s=ttl_s))
        assert board.get("k-1").ttl_s == 60.0
        await board.adopt(told(ttl_s=None))
        await board.adopt(told(ttl_s=5.0))
        assert board.get("k-1").ttl_s is None


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
async def test_an_author_whose_clock_is_wrong_frees_nobody_early(
    ledger: ScriptedLedger, wall: Wall, ahead_s: float
) -> None:
    """A kill of five seconds from a clock an hour off: five seconds of ours pass at least, whatever it says. One from
    the future stays until somebody who knew it longer tells that it is over."""
    board = await board_on(ledger)
    tending = asyncio.create_task(board.tend())
    await board.adopt(told(at=wall.now + ahead_s, ttl_s=5.0))
    for _ in range(4):
        await asyncio.sleep(1)
        wall.now += 1
        assert board.match(a_call()) is not None
    await asyncio.sleep(2)
    wall.now += 2
    await asyncio.sleep(2 * TEND_EVERY_S + 0.1)
    if ahead_s > 0:
        assert board.match(a_call()) is not None
        await board.adopt(told(at=wall.now + ahead_s, ttl_s=5.0, lifted=replace(OVER, by="expiry")))
    assert board.match(a_call()) is None
    tending.cancel()


async def test_asking_again_is_a_kill_of_its_own_so_often(ledger: ScriptedLedger, wall: Wall) -> None:
    """A lift that is on its way from elsewhere must not lift what is asked for now; and there is a bound."""
    board = await board_on(ledger)
    first = await board.engage("global", "a")
    second = await board.engage("global", "b")
    assert first.id != second.id
    await board.adopt(replace(first, lifted=OVER))
    assert [kill.id for kill in board.all()] == [second.id]
    assert board.match(a_call()) is not None
    for _ in range(3 * MAX_SAME):
        await board.engage("global", "again")
    assert len(board.all()) == MAX_SAME


async def test_a_file_here_outlives_an_end_from_elsewhere(ledger: ScriptedLedger, wall: Wall, tmp_path: Path) -> None:
    """Without a gap: the file's own kill is in force before the other one is not."""
    file = tmp_path / "KILL"
    board = await board_on(ledger, file)
    await board.adopt(told("global"))
    file.touch()
    gaps: list[bool] = []
    board.subscribe(lambda kill, engaged: gaps.append(board.match(a_call()) is None))
    await board.adopt(told("global", lifted=OVER))
    (stays,) = board.all()
    assert (stays.by, stays.scope, stays.via) == ("file KILL", "global", "")
    assert not any(gaps)


async def test_what_is_taken_over_is_bounded(
    ledger: ScriptedLedger, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the bound a peer is told no; the first global kill is taken in any case."""
    monkeypatch.setattr("outrider.kills.adoption.MAX_SHARED", 3)
    board = await board_on(ledger)
    for n in range(3):
        await board.adopt(told(f"agent:a{n}", f"k-{n}"))
    with pytest.raises(Refused, match="which is the limit"):
        await board.adopt(told("agent:a9", "k-9"))
    await board.adopt(told("global", "g-1"))
    with pytest.raises(Refused, match="which is the limit"):
        await board.adopt(told("global", "g-2"))


async def test_the_last_ends_are_remembered_in_memory_as_on_disk(
    ledger: ScriptedLedger, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that all sidecars end up with the same ones."""
    many = [told(f"agent:a{n}", f"k-{n:04}", lifted=replace(OVER, at=OVER.at + n % 7)) for n in range(KEPT_LIFTED + 50)]
    board = await board_on(ledger)
    await board.remember(many)
    again = await board_on(ledger)
    assert len(board.shared()) == len(again.shared()) == KEPT_LIFTED
    assert board.digest() == again.digest()


async def test_a_disk_that_hangs_holds_up_no_round_for_ever(ledger: ScriptedLedger, wall: Wall) -> None:
    """What a peer's round cannot write now it is refused, however often it is asked; nothing piles up meanwhile."""
    board = await board_on(ledger)
    ledger.mode = "hang"
    for _ in range(5):
        with pytest.raises(Refused):
            await asyncio.wait_for(board.remember([told(kill_id="k-1", lifted=OVER)]), 10)
        with pytest.raises(Refused):
            await asyncio.wait_for(board.adopt(told(kill_id="k-2", lifted=OVER)), 10)
    assert len(ledger._held) == 1
    ledger.mend()
    await board.remember([told(kill_id="k-1", lifted=OVER)])
    assert [event.type for event in ledger.events] == [EventType.KILLS_REMEMBERED]


async def test_a_kill_that_stands_for_damage_here_is_nobody_elses(ledger: ScriptedLedger, wall: Wall) -> None:
    """One sidecar's broken database must not stop all."""
    board = await board_on(ledger)
    await board.adopt(told())
    ledger.connection.execute("UPDATE kills SET scope = 'nonsense'")
    damaged = await board_on(ledger)
    assert damaged.match(a_call(agent="anybody")) is not None
    assert damaged.shared() == ()


class Elsewhere:
    """A peer that knows these kills, and hears or does not."""

    def __init__(self, *kills: Kill, hears: bool = True, unreadable: int = 0) -> None:
        self.kills, self.hears, self.unreadable = kills, hears, unreadable
        self.told: list[str] = []

    async def known(self, digest: str) -> Known | None:
        return Known(self.kills, self.unreadable)

    async def tell(self, kill: Kill) -> bool:
        self.told.append(kill.id)
        return self.hears


async def test_a_round_brings_both_up_to_date(ledger: ScriptedLedger, wall: Wall) -> None:
    """What it has and we lack, what we have and it lacks, ends in both directions; ends it never needs are not sent."""
    board = await board_on(ledger)
    both = await board.engage("agent:both", "x")
    ours = await board.engage("agent:ours", "x")
    over = await board.engage("agent:over", "x")
    await board.lift(over.id, "done")
    past = await board.engage("agent:past", "x")
    await board.lift(past.id, "done")
    peer = Elsewhere(replace(both, lifted=OVER), replace(over, lifted=None), told(kill_id="theirs"))
    done = await round_with(peer, board, board.adopt)
    assert {kill.id for kill in board.all()} == {ours.id, "theirs"}
    assert peer.told == [ours.id, over.id]
    assert (done.answered, done.in_step, done.taken, done.given) == (True, False, 2, 2)


async def test_a_round_says_when_something_is_left(ledger: ScriptedLedger, wall: Wall) -> None:
    """It did not hear, or told what we cannot read: not in step."""
    board = await board_on(ledger)
    kill = await board.engage("global", "x")
    assert not (await round_with(Elsewhere(hears=False), board, board.adopt)).in_step
    assert not (await round_with(Elsewhere(kill, unreadable=1), board, board.adopt)).in_step
    assert (await round_with(Elsewhere(kill), board, board.adopt)).in_step

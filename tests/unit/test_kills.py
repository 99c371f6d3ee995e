"""The kill board: what a scope covers, and that stopping is easy, releasing hard, and every doubt stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider.errors import Refused
from outrider.kills import Kill, KillBoard, Scope
from outrider.kills.board import DURABLE_WAIT_S, MAX_KILLS
from outrider.kills.scopes import HOW_TO_WRITE
from tests.support.kill_kit import ScriptedLedger, Wall, a_call

pytestmark = pytest.mark.looptime


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    fake = Wall()
    monkeypatch.setattr(clock, "wall", fake)
    return fake


@pytest.fixture
def ledger() -> ScriptedLedger:
    return ScriptedLedger()


async def board_on(ledger: ScriptedLedger, file: Path | None = None, boot: str = "boot-1") -> KillBoard:
    return await KillBoard.load(ledger, ledger, file=lambda: file, boot=boot)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def tended(board: KillBoard, engage: Any = None) -> AsyncIterator[None]:
    task = asyncio.create_task(board.tend(engage))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


# ── scopes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("scope", "covered", "free"),
    [
        ("global", a_call(), None),
        ("agent:researcher", a_call(), a_call(agent="researcher2")),
        ("agent:res*", a_call(), a_call(agent="writer")),
        ("agent:*", a_call(agent=""), None),
        ("run:r1", a_call(), a_call(run="r10")),
        ("tool:ledger.pay", a_call(), a_call(tool="ledger.pay_all")),
        ("tool:ledger.*", a_call(), a_call(tool="ledgers.pay")),
        ("upstream:ledger", a_call(), a_call(tool="ledger2.pay")),
    ],
)
async def test_a_scope_covers_what_it_names_and_nothing_else(
    ledger: ScriptedLedger, scope: str, covered: Any, free: Any
) -> None:
    """Exact names, or a prefix with a last star; tools belong to the upstream before their first dot."""
    board = await board_on(ledger)
    kill = await board.engage(scope, "test")
    assert board.match(covered) == kill
    assert board.covers(kill.id, covered)
    if free is not None:
        assert board.match(free) is None
        assert not board.covers(kill.id, free)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "The scope '' is none that exists."),
        ("everything", "The scope 'everything' is none that exists."),
        ("global:now", "The scope 'global:now' is none that exists."),
        ("agnt:x", "The scope 'agnt:x' is none that exists."),
        ("agent", "The scope 'agent' names no agent."),
        ("tool: ", "The scope 'tool: ' names no tool."),
        ("agent: x", "The scope 'agent: x' has blanks around its name."),
        ("tool:*.pay", "The scope 'tool:*.pay' has a '*' before its end; only a last one makes a prefix."),
        ("run:r*", "The scope 'run:r*' has a '*'; runs are named exactly."),
        ("upstream:*", "The scope 'upstream:*' has a '*'; upstreams are named exactly."),
        (
            "agent:\x1b[2Jx",
            "The scope 'agent:\\x1b[2Jx' has a name that is longer than 500 characters or holds control characters.",
        ),
        (
            "agent:" + "x" * 600,
            f"The scope 'agent:{'x' * 71}...' has a name that is longer than 500 characters "
            "or holds control characters.",
        ),
    ],
)
def test_a_scope_that_cannot_be_understood_says_what_and_how(text: str, fault: str) -> None:
    """One sentence on what is wrong, one on what may be written."""
    with pytest.raises(Refused) as refusal:
        Scope.parse(text)
    assert str(refusal.value) == f"{fault} {HOW_TO_WRITE}"
    assert refusal.value.code == "invalid_request"


def test_a_role_may_be_named_with_blanks_inside() -> None:
    """Frameworks name agents by their role."""
    assert str(Scope.parse(" agent:Senior Researcher ")) == "agent:Senior Researcher"


async def test_a_fallback_to_another_tool_is_covered_by_kills_of_either(ledger: ScriptedLedger) -> None:
    """A kill of the first tool stops its fallback, and a kill of the fallback's tool stops that."""
    board = await board_on(ledger)
    first = await board.engage("tool:ledger.pay", "test")
    assert board.match(a_call(), "backup.pay") == first
    await board.lift(first.id, "over")
    assert board.match(a_call(), "backup.pay") is None
    second = await board.engage("upstream:backup", "test")
    assert board.match(a_call(), "backup.pay") == second
    assert board.match(a_call(), "backup.pay", "backup") == second
    assert board.match(a_call()) is None


# ── engaging ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_kill_is_on_disk_before_it_is_acknowledged(ledger: ScriptedLedger) -> None:
    """The event and the row, in one append."""
    board = await board_on(ledger)
    kill = await board.engage("agent:researcher", "it loops", by="token:admin")
    assert kill.durable
    (event,) = ledger.events
    assert (event.type, event.actor, event.reason) == ("kill.engaged", "token:admin", "it loops")
    assert event.data["scope"] == "agent:researcher"
    assert [row["id"] for row in ledger.read("SELECT * FROM kills")] == [kill.id]


async def test_listeners_hear_of_a_kill_once_it_is_in_force(ledger: ScriptedLedger) -> None:
    """Whoever wakes waiters must find the board already closed; a listener that fails spoils nothing."""
    board = await board_on(ledger)
    heard: list[tuple[str, bool, bool]] = []
    board.subscribe(lambda kill, engaged: 1 / 0)  # type: ignore[arg-type, return-value]
    board.subscribe(lambda kill, engaged: heard.append((kill.scope, engaged, board.match(a_call()) is not None)))
    kill = await board.engage("global", "test")
    await board.lift(kill.id, "over")
    assert heard == [("global", True, True), ("global", False, False)]


@pytest.mark.parametrize("mode", ["fail", "raise", "hang"])
async def test_a_kill_takes_effect_even_when_the_ledger_cannot_be_written(ledger: ScriptedLedger, mode: str) -> None:
    """Stopping is safer than waiting; the answer says honestly that it is not on disk, and it is written later."""
    board = await board_on(ledger)
    ledger.mode = mode
    began = clock.monotonic()
    kill = await board.engage("global", "disk trouble")
    assert clock.monotonic() - began <= DURABLE_WAIT_S + 0.01
    assert not kill.durable
    assert kill.as_dict()["durable"] is False
    assert board.match(a_call()) is not None
    async with tended(board):
        await asyncio.sleep(3)
        assert not board.get(kill.id).durable
        ledger.mend()
        await asyncio.sleep(2)
    assert board.get(kill.id).durable
    assert [event.type for event in ledger.events] == ["kill.engaged"]
    again = await board_on(ledger)
    assert again.match(a_call()) is not None


async def test_engaging_the_same_scope_twice_is_one_kill(ledger: ScriptedLedger) -> None:
    """Two people press the button at once; there is one kill to lift."""
    board = await board_on(ledger)
    kills = await asyncio.gather(*(board.engage("agent:x", f"person {n}") for n in range(5)))
    assert {kill.id for kill in kills} == {board.all()[0].id}
    assert len(ledger.events) == 1


async def test_the_same_scope_again_lasts_as_long_as_the_longer_of_the_two(ledger: ScriptedLedger, wall: Wall) -> None:
    """A permanent stop asked for over one that would end soon must not end soon."""
    board = await board_on(ledger)
    short = await board.engage("agent:x", "a minute", ttl_s=60)
    longer = await board.engage("agent:x", "an hour", ttl_s=3600)
    assert (longer.id, longer.ttl_s) == (short.id, pytest.approx(3600, abs=1))
    shorter = await board.engage("agent:x", "a second", ttl_s=1)
    assert shorter == longer
    forever = await board.engage("agent:x", "for good")
    assert (forever.id, forever.ttl_s) == (short.id, None)
    assert ledger.read("SELECT expires_at FROM kills") == [{"expires_at": None}]


async def test_a_caller_that_leaves_does_not_undo_a_kill(ledger: ScriptedLedger) -> None:
    """The browser tab closes while the disk works: the row is there, so the kill must be in force."""
    board = await board_on(ledger)
    ledger.mode = "hang"
    asking = asyncio.create_task(board.engage("global", "test"))
    await asyncio.sleep(0.01)
    asking.cancel()
    ledger.mend()
    await asyncio.sleep(0.1)
    assert board.match(a_call()) is not None


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
async def test_a_time_that_is_none_is_refused(ledger: ScriptedLedger, ttl_s: float) -> None:
    """Zero, less, and what is no number."""
    board = await board_on(ledger)
    with pytest.raises(Refused, match="Leave it out: the kill then lasts until it is lifted"):
        await board.engage("global", "test", ttl_s=ttl_s)


async def test_kills_are_bounded_but_a_global_one_is_always_accepted(ledger: ScriptedLedger) -> None:
    """A loop that engages kills by the thousand fills no memory, and never takes the big switch away."""
    board = await board_on(ledger)
    await asyncio.gather(*(board.engage(f"run:{n}", "test") for n in range(MAX_KILLS)))
    with pytest.raises(Refused, match="1000 kills are engaged, which is the limit"):
        await board.engage("run:more", "test")
    assert (await board.engage("run:7", "again")).scope == "run:7"
    assert (await board.engage("global", "test")).durable
    assert board.match(a_call(run="more")) is not None


async def test_what_people_type_is_kept_short(ledger: ScriptedLedger) -> None:
    """Reasons are cut; none at all is said so."""
    board = await board_on(ledger)
    assert len((await board.engage("run:1", "x" * 9000)).reason) == 500
    assert (await board.engage("run:2", "  ")).reason == "no reason given"


# ── lifting ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_lifting_needs_a_reason_and_is_recorded(ledger: ScriptedLedger, wall: Wall) -> None:
    """Who, why, when: in the ledger, in the row and in the history."""
    board = await board_on(ledger)
    kill = await board.engage("global", "test", by="a")
    with pytest.raises(Refused, match="Lifting a kill needs a reason"):
        await board.lift(kill.id, "  ", "b")
    await board.lift(kill.id, "the loop is mended", "b")
    assert board.match(a_call()) is None
    assert board.all() == ()
    (past,) = board.history()
    assert past.lifted is not None
    assert (past.lifted.by, past.lifted.reason) == ("b", "the loop is mended")
    assert past.as_dict()["lifted_by"] == "b"
    assert [event.type for event in ledger.events] == ["kill.engaged", "kill.lifted"]
    assert (await board_on(ledger)).history()[0].lifted == past.lifted


async def test_a_kill_that_is_not_engaged_cannot_be_lifted(ledger: ScriptedLedger) -> None:
    """KeyError, for the planes' 404."""
    board = await board_on(ledger)
    with pytest.raises(KeyError):
        await board.lift("nothing", "because")


@pytest.mark.parametrize("mode", ["fail", "raise"])
async def test_a_kill_that_cannot_be_lifted_durably_stays(ledger: ScriptedLedger, mode: str) -> None:
    """A release that a restart would undo is none."""
    board = await board_on(ledger)
    kill = await board.engage("global", "test")
    ledger.mode = mode
    with pytest.raises(Refused, match="The ledger cannot be written"):
        await board.lift(kill.id, "over")
    assert board.match(a_call()) is not None
    ledger.mend()
    await board.lift(kill.id, "over")
    assert board.match(a_call()) is None


async def test_a_lift_on_a_disk_that_hangs_answers_in_time_and_happens_when_it_is_written(
    ledger: ScriptedLedger,
) -> None:
    """Memory and disk agree at every moment."""
    board = await board_on(ledger)
    kill = await board.engage("global", "test")
    ledger.mode = "hang"
    with pytest.raises(Refused, match="The kill stays until its end is written"):
        await board.lift(kill.id, "over")
    assert board.match(a_call()) is not None
    ledger.mend()
    await asyncio.sleep(0.1)
    assert board.match(a_call()) is None


async def test_a_kill_that_is_engaged_while_another_of_its_scope_is_being_lifted_stands(
    ledger: ScriptedLedger,
) -> None:
    """Lift and engage cross: the later wish is to stop."""
    board = await board_on(ledger)
    kill = await board.engage("global", "test")
    ledger.mode = "hang"
    lifting = asyncio.create_task(board.lift(kill.id, "over"))
    await asyncio.sleep(0.01)
    again = await board.engage("global", "no, wait")
    assert again.id != kill.id
    ledger.mend()
    await lifting
    assert board.match(a_call()) is not None
    assert [kept.id for kept in board.all()] == [again.id]
    assert (await board_on(ledger)).match(a_call()) is not None


async def test_two_people_who_lift_at_once_lift_once(ledger: ScriptedLedger) -> None:
    """One event, two good answers."""
    board = await board_on(ledger)
    kill = await board.engage("global", "test")
    await asyncio.gather(board.lift(kill.id, "over", "a"), board.lift(kill.id, "over", "b"))
    assert [event.type for event in ledger.events] == ["kill.engaged", "kill.lifted"]


async def test_a_kill_that_is_not_on_disk_yet_cannot_be_lifted(ledger: ScriptedLedger) -> None:
    """Else its late row would engage it again at the next start."""
    board = await board_on(ledger)
    ledger.mode = "hang"
    kill = await board.engage("global", "test")
    with pytest.raises(Refused, match="not on disk yet"):
        await board.lift(kill.id, "over")
    ledger.mend()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await board.lift(kill.id, "over")
    assert board.match(a_call()) is None


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wall_s", "mono_s", "over"), [(59, 59, False), (61, 59, False), (59, 61, False), (61, 61, True), (-100, 99, False)]
)
def test_a_kill_is_over_only_when_both_clocks_say_so(wall_s: float, mono_s: float, over: bool) -> None:
    """Setting one clock forward frees nobody."""
    kill = Kill("k", Scope("global"), "r", "b", at=1000.0, mono=50.0, ttl_s=60)
    assert kill.expired(1000.0 + wall_s, 50.0 + mono_s) is over


async def test_an_expired_kill_is_lifted_and_recorded_as_lifted_by_expiry(ledger: ScriptedLedger, wall: Wall) -> None:
    """It ends within a moment of its time, not before."""
    board = await board_on(ledger)
    kill = await board.engage("global", "for a minute", ttl_s=60)
    async with tended(board):
        wall.now += 3600
        await asyncio.sleep(59)
        assert board.match(a_call()) == kill
        await asyncio.sleep(2)
    assert board.match(a_call()) is None
    assert (ledger.events[-1].type, ledger.events[-1].actor) == ("kill.lifted", "expiry")


async def test_a_kill_that_is_over_stays_while_its_end_cannot_be_recorded(ledger: ScriptedLedger, wall: Wall) -> None:
    """And ends once it can."""
    board = await board_on(ledger)
    await board.engage("global", "for a minute", ttl_s=60)
    ledger.mode = "fail"
    async with tended(board):
        wall.now += 100
        await asyncio.sleep(100)
        assert board.match(a_call()) is not None
        ledger.mend()
        await asyncio.sleep(1)
        assert board.match(a_call()) is None


async def test_a_restart_on_the_same_boot_shortens_no_kill_and_stretches_none(
    ledger: ScriptedLedger, wall: Wall
) -> None:
    """The monotonic clock goes on over a restart of the process, so its share of the time counts."""
    board = await board_on(ledger)
    await board.engage("global", "for a minute", ttl_s=60)
    await asyncio.sleep(50)
    wall.now += 50
    again = await board_on(ledger)
    async with tended(again):
        await asyncio.sleep(9)
        wall.now += 9
        assert again.match(a_call()) is not None
        wall.now += 2
        await asyncio.sleep(2)
        assert again.match(a_call()) is None


@pytest.mark.parametrize("boot", ["boot-2", ""])
async def test_after_another_boot_the_whole_time_counts_again(ledger: ScriptedLedger, wall: Wall, boot: str) -> None:
    """What the wall clock says of the time between is not trusted alone: longer, never shorter."""
    board = await board_on(ledger)
    await board.engage("global", "for a minute", ttl_s=60)
    wall.now += 50_000
    again = await board_on(ledger, boot=boot)
    async with tended(again):
        await asyncio.sleep(58)
        assert again.match(a_call()) is not None
        await asyncio.sleep(3)
        assert again.match(a_call()) is None


# ── restart ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "damage",
    [
        "scope = 'tenant:acme'",  # of a newer Outrider, perhaps
        "scope = ''",
        "scope = x'ff00'",
        "reason = NULL",
        "id = NULL",
        "engaged_at = 'yesterday'",
        "expires_at = 'soon'",
        "expires_at = 1e999",
    ],
)
async def test_a_stored_kill_that_cannot_be_read_stops_everything(ledger: ScriptedLedger, damage: str) -> None:
    """It may have stopped anything. A person lifts it with a reason, and then it is gone for good."""
    board = await board_on(ledger)
    await board.engage("agent:x", "test")
    ledger.connection.execute(f"UPDATE kills SET {damage}")
    again = await board_on(ledger)
    kill = again.match(a_call())
    assert kill is not None
    assert kill.scope == "global"
    assert kill.reason.startswith("a stored kill cannot be read (")
    assert kill.reason.endswith("everything is stopped until a person lifts this")
    await again.lift(kill.id, "looked at the row: it was a test")
    assert again.match(a_call()) is None
    assert (await board_on(ledger)).match(a_call()) is None


async def test_kills_that_cannot_be_read_at_all_stop_everything(ledger: ScriptedLedger) -> None:
    """Not knowing what is stopped stops everything, until a person says otherwise."""
    ledger.connection.execute("ALTER TABLE kills RENAME TO elsewhere")
    board = await board_on(ledger)
    kill = board.match(a_call())
    assert kill is not None
    assert "the stored kills cannot be read (no such table: kills)" in kill.reason
    ledger.connection.execute("ALTER TABLE elsewhere RENAME TO kills")
    await board.lift(kill.id, "restored the table")
    assert board.match(a_call()) is None


async def test_a_lifted_row_that_cannot_be_read_stops_nothing(ledger: ScriptedLedger) -> None:
    """What was lifted was lifted."""
    board = await board_on(ledger)
    kill = await board.engage("agent:x", "test")
    await board.lift(kill.id, "over")
    ledger.connection.execute("UPDATE kills SET scope = 'nonsense'")
    assert (await board_on(ledger)).match(a_call()) is None


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "KILL"


async def test_the_file_stops_everything_within_a_second(ledger: ScriptedLedger, file: Path) -> None:
    """Durably, with the file's words as the reason."""
    board = await board_on(ledger, file)
    async with tended(board):
        assert board.match(a_call()) is None
        file.write_text("agents are buying lamps\n")
        await asyncio.sleep(1)
        kill = board.match(a_call())
    assert kill is not None
    assert (kill.scope, kill.reason, kill.by, kill.durable) == (
        "global", "agents are buying lamps", "file KILL", True,
    )  # fmt: skip


async def test_a_file_that_lies_there_at_the_start_stops_everything_before_anything_is_served(
    ledger: ScriptedLedger, file: Path
) -> None:
    """Loading looks at it."""
    file.touch()
    board = await board_on(ledger, file)
    kill = board.match(a_call())
    assert kill is not None
    assert kill.reason == "the file KILL lies in the data folder"


async def test_removing_the_file_lifts_nothing_and_lifting_needs_it_removed(ledger: ScriptedLedger, file: Path) -> None:
    """Whoever laid it there may have no other way to speak."""
    file.touch()
    board = await board_on(ledger, file)
    (kill,) = board.all()
    async with tended(board):
        with pytest.raises(Refused, match="stops everything while it is there"):
            await board.lift(kill.id, "over")
        file.unlink()
        await asyncio.sleep(5)
        assert board.match(a_call()) is not None
        await board.lift(kill.id, "over")
        await asyncio.sleep(5)
        assert board.match(a_call()) is None
        file.touch()
        await asyncio.sleep(1)
        assert board.match(a_call()) is not None


async def test_a_global_kill_does_not_expire_while_the_file_lies_there(
    ledger: ScriptedLedger, file: Path, wall: Wall
) -> None:
    """No gap between a kill that ends and the file that stops."""
    board = await board_on(ledger, file)
    kill = await board.engage("global", "for a minute", ttl_s=60)
    file.touch()
    async with tended(board):
        wall.now += 100
        await asyncio.sleep(100)
        assert board.match(a_call()) == kill
        assert len(ledger.events) == 1
        file.unlink()
        await asyncio.sleep(1)
        assert board.match(a_call()) is None


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "binary", "long", "escape"])
async def test_whatever_has_the_files_name_stops_everything_and_blocks_nothing(
    ledger: ScriptedLedger, file: Path, kind: str
) -> None:
    """A pipe would block whoever opens it; a link may name any file of this machine, whose text is not shown."""
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link":
        secret = file.with_name("secret")
        secret.write_text("a short secret")
        file.symlink_to(secret)
    else:
        file.write_bytes({"binary": b"\xff\xfe\x00", "long": b"x" * 5000, "escape": b"\x1b[2Jgone"}[kind])
    board = await board_on(ledger, file)
    kill = board.match(a_call())
    assert kill is not None
    assert kill.reason == "the file KILL lies in the data folder"


async def test_the_file_stops_everything_when_the_disk_is_full(ledger: ScriptedLedger, file: Path) -> None:
    """In memory at once, on disk when that is possible."""
    board = await board_on(ledger, file)
    ledger.mode = "fail"
    file.touch()
    async with tended(board):
        await asyncio.sleep(1)
        kill = board.match(a_call())
    assert kill is not None
    assert not kill.durable


async def test_whoever_engages_for_the_file_may_fail_and_the_kill_stands(ledger: ScriptedLedger, file: Path) -> None:
    """The supervisor wakes the waiters; a fault there must not leave the board open."""
    board = await board_on(ledger, file)
    asked: list[tuple[Any, ...]] = []

    async def broken(*arguments: Any) -> None:
        asked.append(arguments)
        raise RuntimeError("a bug")

    file.touch()
    async with tended(board, broken):
        await asyncio.sleep(1)
    assert asked == [("global", "the file KILL lies in the data folder", None, "file KILL")]
    assert board.match(a_call()) is not None

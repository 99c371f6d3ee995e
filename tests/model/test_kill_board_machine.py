"""The kill board as a state machine: restarts, expiry, lifts, a ledger that hangs or fails, and calls in flight all the
while. Kept: nothing that a kill covers is sent after its acknowledgement, and nothing is stopped that no kill covers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import hypothesis.strategies as st
import looptime
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from outrider import clock
from outrider.calls import Call
from outrider.errors import Refused
from outrider.kills import Kill, KillBoard, Scope
from outrider.kills.board import LIFT_WAIT_S, TEND_EVERY_S
from tests.support.kill_kit import COMMIT_S, ScriptedLedger, Wall, a_call

T = TypeVar("T")
SCOPES = (
    "global",
    "agent:ann",
    "agent:a*",
    "agent:*",
    "run:r1",
    "tool:pay.out",
    "tool:pay.*",
    "tool:p*",
    "upstream:pay",
)
CALLS = [
    a_call(tool, agent, run)
    for tool in ("pay.out", "pay.in", "post.send", "mail.send")
    for agent in ("ann", "abe", "bob")
    for run in ("r1", "r2")
]


@dataclass
class Wanted:
    """What the model knows of one kill. ``ends`` None: when it is lifted. A lift asked for may wait for the disk."""

    scope: Scope
    ends_wall: float | None
    ends_mono: float | None
    durable: bool
    lift_asked: bool = False


class KillBoardMachine(RuleBasedStateMachine):
    kills = Bundle("kills")

    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop(start=0, idle_timeout=5)
        self.wall = Wall()
        self.real_wall, clock.wall = clock.wall, self.wall
        self.folder = TemporaryDirectory()
        self.file = Path(self.folder.name) / "KILL"
        self.ledger = ScriptedLedger()
        self.model: dict[str, Wanted] = {}
        self.sent: list[tuple[float, Call]] = []
        self.senders: list[asyncio.Task[None]] = []
        self.wrong: list[str] = []
        self.tending: asyncio.Task[None] | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.board = self.run(self._load())

    async def _load(self) -> KillBoard:
        board = await KillBoard.load(
            self.ledger,  # type: ignore[arg-type]
            self.ledger,  # type: ignore[arg-type]
            file=lambda: self.file,
            boot="boot",
        )
        board.subscribe(self._heard)
        self.tending = asyncio.create_task(board.tend())
        return board

    def _heard(self, kill: Kill, engaged: bool) -> None:
        """The only way out of the model. A board swallows what its listeners raise, so what is wrong is kept."""
        wanted = None if engaged else self.model.pop(kill.id, None)
        if wanted is not None and not self._may_end(kill, wanted):
            self.wrong.append(f"{wanted} was lifted by {kill.lifted}")

    def _may_end(self, kill: Kill, wanted: Wanted) -> bool:
        """A lift that somebody asked for, or one by expiry after both clocks' time."""
        assert kill.lifted is not None
        if kill.lifted.by != "expiry":
            return wanted.lift_asked
        if wanted.ends_wall is None or wanted.ends_mono is None:
            return False
        return kill.lifted.at >= wanted.ends_wall - 1e-3 and self.loop.time() >= wanted.ends_mono - 1e-3

    # ── people ──

    @rule(target=kills, scope=st.sampled_from(SCOPES), ttl_s=st.sampled_from((None, 5.0, 60.0)))
    def engage(self, scope: str, ttl_s: float | None) -> Any:
        kill = self.run(self.board.engage(scope, "test", ttl_s, "ann"))
        self._expect(kill, ttl_s)
        return kill.id

    @rule(target=kills, scopes=st.lists(st.sampled_from(SCOPES), min_size=2, max_size=4))
    def engage_at_once(self, scopes: list[str]) -> Any:
        async def all_of_them() -> list[Kill]:
            return await asyncio.gather(*(self.board.engage(scope, "test") for scope in scopes))

        found = self.run(all_of_them())
        for kill in found:
            self._expect(kill, None)
        return multiple(*{kill.id for kill in found})

    def _expect(self, kill: Kill, ttl_s: float | None) -> None:
        """It is in force from now on, whatever the disk does, and at least as long as was asked for."""
        assert kill.durable or self.ledger.mode != "ok"
        known = self.model.setdefault(kill.id, Wanted(kill.target, None, None, kill.durable))
        known.durable = kill.durable
        known.ends_wall = None if kill.ttl_s is None else kill.at + kill.ttl_s
        known.ends_mono = None if kill.ttl_s is None else kill.mono + kill.ttl_s
        if known.ends_wall is not None and known.ends_mono is not None:
            assert ttl_s is not None, "asked for good, and it would end"
            assert known.ends_wall >= self.wall.now + ttl_s - 1e-3
            assert known.ends_mono >= self.loop.time() + ttl_s - 1

    @rule(kill_id=consumes(kills))
    def lift(self, kill_id: str) -> None:
        there = kill_id in {kill.id for kill in self.board.all()}
        if kill_id in self.model:
            self.model[kill_id].lift_asked = True
        try:
            lifted = self.run(self.board.lift(kill_id, "over", "bob"))
        except KeyError:
            assert not there
        except Refused:
            assert there
        else:
            assert lifted.target.kind != "global" or not self.file.exists()
            assert kill_id not in self.model

    @rule(kill_id=consumes(kills), scope=st.sampled_from(SCOPES))
    def lift_and_engage_cross(self, kill_id: str, scope: str) -> None:
        """Two people at once; whoever asked to stop gets what was asked for."""

        async def both() -> Kill:
            lifting = asyncio.create_task(self.board.lift(kill_id, "over", "bob"))
            await asyncio.sleep(0)
            kill = await self.board.engage(scope, "no, wait")
            await asyncio.wait({lifting})
            lifting.exception()
            return kill

        if kill_id in self.model:
            self.model[kill_id].lift_asked = True
        self._expect(self.run(both()), None)

    @rule(lay=st.booleans())
    def lay_or_remove_the_file(self, lay: bool) -> None:
        if lay:
            self.file.touch()
            self.run(asyncio.sleep(1))
        else:
            self.file.unlink(missing_ok=True)

    # ── the world ──

    @rule(mode=st.sampled_from(("ok", "fail", "hang")))
    def disk(self, mode: str) -> None:
        self.ledger.mend()
        self.run(asyncio.sleep(1.5))
        assert all(kill.durable for kill in self.board.all()), "the disk answers, and not all is written"
        self.ledger.mode = mode

    @rule(seconds=st.sampled_from((0.1, 4.0, 30.0)), wall_s=st.sampled_from((-100.0, 0.0, 4.0, 30.0, 500.0)))
    def time_passes(self, seconds: float, wall_s: float) -> None:
        self.wall.now += wall_s
        self.run(asyncio.sleep(seconds))

    @rule(delays=st.lists(st.sampled_from((0.0, COMMIT_S, 0.3, 2.0)), min_size=1, max_size=4))
    def calls_arrive(self, delays: list[float]) -> None:
        """Each waits (a queue, a backoff, an approval) and then looks once more, right before it sends."""

        async def send(call: Call, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            if self.board.match(call) is None:
                self._check_allowed(call)

        for index, delay_s in enumerate(delays):
            for call in CALLS[index :: len(delays)]:
                self.senders.append(self.loop.create_task(send(call, delay_s)))

    def _check_allowed(self, call: Call) -> None:
        """Invariant 4: whatever was acknowledged and neither lifted nor over covers this call not."""
        for wanted in self.model.values():
            assert not _covers(wanted.scope, call), f"{call.tool} by {call.agent.name} was sent: {wanted}"

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        """A crash loses what the disk had not taken, and says so before: those kills were not durable."""
        self.run(asyncio.sleep(2 * COMMIT_S))
        if not crash:
            self.ledger.mend()
            self.run(asyncio.sleep(1.5))
        self.ledger.forget_held()
        self.run(self._stop())
        on_disk = {row["id"] for row in self.ledger.read("SELECT id FROM kills WHERE lifted_at IS NULL")}
        for kill_id, wanted in list(self.model.items()):
            wanted.lift_asked = False
            if kill_id not in on_disk:
                assert not wanted.durable, "a kill acknowledged as durable was lost"
                del self.model[kill_id]
        self.board = self.run(self._load())

    async def _stop(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        senders = [task for task in tasks if task in self.senders]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)
        for task in senders:
            if not task.cancelled():
                task.result()
        self.senders.clear()

    # ── what is kept ──

    @invariant()
    def what_people_stopped_is_stopped(self) -> None:
        engaged = {kill.id for kill in self.board.all()} if hasattr(self, "board") else set()
        assert set(self.model) <= engaged
        assert self.wrong == []

    @invariant()
    def the_index_says_what_the_scopes_mean(self) -> None:
        if not hasattr(self, "board"):
            return
        engaged = self.board.all()
        for call in CALLS:
            expected = any(_covers(kill.target, call) for kill in engaged)
            assert (self.board.match(call) is not None) == expected
            assert any(self.board.covers(kill.id, call) for kill in engaged) == expected

    @invariant()
    def nothing_is_stopped_that_nobody_stopped(self) -> None:
        """Beside what people asked for there are only kills by the file."""
        for kill in self.board.all() if hasattr(self, "board") else ():
            assert kill.id in self.model or kill.by == "file KILL"

    @invariant()
    def senders_kept_the_rules(self) -> None:
        for task in [task for task in self.senders if task.done()]:
            task.result()
            self.senders.remove(task)

    def teardown(self) -> None:
        try:
            self.ledger.mend()
            self.run(asyncio.sleep(LIFT_WAIT_S + TEND_EVERY_S))
            self.run(self._stop())
        finally:
            clock.wall = self.real_wall
            self.loop.close()
            self.folder.cleanup()


def _covers(scope: Scope, call: Call) -> bool:
    return scope.covers(call.agent.name, call.run, call.tool, call.upstream)


TestKillBoard = KillBoardMachine.TestCase

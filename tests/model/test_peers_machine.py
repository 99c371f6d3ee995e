"""Sidecars that tell each other of their kills, as a state machine: messages are lost, repeated and reordered, disks
fail, sidecars crash and come back, files are laid. Kept: a kill is never lost, one that was lifted never comes back
where that was heard, nobody lifts what nobody asked to lift, and once messages arrive all know the same.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import hypothesis.strategies as st
import looptime
import msgspec
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from outrider import clock
from outrider.errors import Refused
from outrider.kills import Kill, KillBoard
from outrider.kills.board import LIFT_WAIT_S, TEND_EVERY_S
from outrider.peers import records
from outrider.peers.takeover import Known, round_with
from tests.support.kill_kit import COMMIT_S, ScriptedLedger, Wall

T = TypeVar("T")
NODES = 3
AT_MOST_S = 120.0
"""Of virtual time, for anything that a board or a round is asked for."""
SCOPES = ("global", "agent:ann", "tool:pay.*")
nodes = st.integers(0, NODES - 1)


@dataclass
class Node:
    """One sidecar: what survives it (the ledger, the file) and what does not (the board)."""

    name: str
    file: Path
    ledger: ScriptedLedger = field(default_factory=ScriptedLedger)
    board: KillBoard | None = None
    tending: asyncio.Task[None] | None = None
    lifted: set[str] = field(default_factory=set)
    durable: set[str] = field(default_factory=set)
    obeyed: bool = False

    def known(self) -> KillBoard:
        assert self.board is not None
        return self.board


class Wire:
    """One sidecar as another one sees it, over a network that loses what ``losses`` says, message by message."""

    def __init__(self, near: Node, far: Node, losses: list[bool]) -> None:
        self._near, self._far = near, far
        self._lost = itertools.chain(losses, itertools.repeat(False))

    async def known(self, digest: str) -> Known | None:
        board = self._far.known()
        if next(self._lost):
            return None
        if board.digest() == digest:
            return Known(None)
        return Known(tuple(over_the_wire(kill, self._far.name) for kill in board.shared()))

    async def tell(self, kill: Kill) -> bool:
        """The message may be lost, and so may the answer to one that arrived."""
        if next(self._lost):
            return False
        try:
            await self._far.known().adopt(over_the_wire(kill, self._near.name))
        except Refused:
            return False
        return not next(self._lost)


def over_the_wire(kill: Kill, via: str) -> Kill:
    """As the other side reads it."""
    return records.read(msgspec.json.decode(msgspec.json.encode(records.told(kill))), via)


class PeersMachine(RuleBasedStateMachine):
    kills = Bundle("kills")

    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop(start=0, idle_timeout=5)
        self.real_wall, clock.wall = clock.wall, Wall()
        self.folder = TemporaryDirectory()
        self.nodes = [Node(f"n{n}", Path(self.folder.name) / f"KILL-{n}") for n in range(NODES)]
        self.under_way: list[tuple[int, Kill]] = []
        self.scopes: dict[str, str] = {}
        self.lift_asked: set[str] = set()
        self.wrong: list[str] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Nothing may wait without end: boards tend themselves for ever, so no idle loop would tell of it."""
        return self.loop.run_until_complete(asyncio.wait_for(work, AT_MOST_S))

    @initialize()
    def begin(self) -> None:
        for node in self.nodes:
            self.run(self._load(node))

    async def _load(self, node: Node) -> None:
        ledger: Any = node.ledger
        node.board = await KillBoard.load(ledger, ledger, file=lambda: node.file, boot="boot", shared=True)
        node.board.subscribe(lambda kill, engaged: self._heard(node, kill, engaged))
        node.tending = asyncio.create_task(node.board.tend())

    def _heard(self, node: Node, kill: Kill, engaged: bool) -> None:
        """A board swallows what its listeners raise, so what is wrong is kept."""
        self.scopes[kill.id] = kill.scope
        if engaged:
            if kill.id in node.lifted:
                self.wrong.append(f"{kill} came back at {node.name}")
            return
        if kill.id not in self.lift_asked:
            self.wrong.append(f"{kill} was lifted at {node.name}, and nobody asked")
        node.lifted.add(kill.id)
        left = [one for one in node.known().all() if one.scope == "global"]
        if kill.scope == "global" and node.obeyed and node.file.exists() and not left:
            self.wrong.append(f"the file at {node.name} is not obeyed while {kill} is lifted")

    # ── people ──

    @rule(target=kills, n=nodes, scope=st.sampled_from(SCOPES))
    def engage(self, n: int, scope: str) -> Any:
        kill = self.run(self.nodes[n].known().engage(scope, "test", None, "ann"))
        self.scopes[kill.id] = scope
        assert kill.id not in self.lift_asked, "what is asked for now was lifted before"
        if kill.durable:
            self.nodes[n].durable.add(kill.id)
        return multiple(kill.id)

    @rule(n=nodes, kill_id=kills)
    def lift(self, n: int, kill_id: str) -> None:
        node = self.nodes[n]
        if kill_id not in {kill.id for kill in node.known().all()}:
            return
        if self.scopes[kill_id] == "global" and node.file.exists():
            return
        self.lift_asked.add(kill_id)
        try:
            self.run(node.known().lift(kill_id, "over", "bob"))
        except Refused:
            assert node.ledger.mode != "ok" or not node.known().get(kill_id).durable

    @rule(n=nodes, lay=st.booleans())
    def lay_or_remove_the_file(self, n: int, lay: bool) -> None:
        node = self.nodes[n]
        if lay:
            node.file.touch()
            self.run(asyncio.sleep(1))
            node.obeyed = True
        else:
            node.file.unlink(missing_ok=True)
            node.obeyed = False

    # ── the network ──

    @rule(n=nodes, to=nodes, kill_id=kills)
    def send(self, n: int, to: int, kill_id: str) -> None:
        """What ``n`` knows now is on its way, and stays so: it may arrive late, often, or never."""
        kill = self.nodes[n].known().known(kill_id)
        if kill is not None and n != to:
            self.under_way.append((to, over_the_wire(kill, self.nodes[n].name)))

    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        if not self.under_way:
            return
        to, kill = data.draw(st.sampled_from(self.under_way))
        self._adopt(self.nodes[to], kill)

    @rule(data=st.data())
    def arrive_together(self, data: st.DataObject) -> None:
        """Several at the same moment at one sidecar, a kill and its end among them."""
        if not self.under_way:
            return
        chosen = data.draw(st.lists(st.sampled_from(self.under_way), min_size=2, max_size=4))
        node = self.nodes[chosen[0][0]]

        async def all_of_them() -> None:
            boards = (node.known().adopt(kill) for to, kill in chosen if self.nodes[to] is node)
            await asyncio.gather(*boards, return_exceptions=True)

        self.run(all_of_them())

    def _adopt(self, node: Node, kill: Kill) -> None:
        try:
            now = self.run(node.known().adopt(kill))
        except Refused:
            assert node.ledger.mode != "ok" or not node.known().get(kill.id).durable
            return
        if kill.lifted is not None:
            assert now.lifted is not None
            node.lifted.add(kill.id)
        elif now.durable and now.lifted is None:
            node.durable.add(kill.id)

    @rule(n=nodes, to=nodes, losses=st.lists(st.booleans(), max_size=6))
    def round(self, n: int, to: int, losses: list[bool]) -> None:
        if n != to:
            self.run(self._round(n, to, losses))

    async def _round(self, n: int, to: int, losses: list[bool]) -> Any:
        near, far = self.nodes[n], self.nodes[to]
        return await round_with(Wire(near, far, losses), near.known(), near.known().adopt)

    # ── the world ──

    @rule(n=nodes, mode=st.sampled_from(("ok", "fail", "hang")))
    def disk(self, n: int, mode: str) -> None:
        node = self.nodes[n]
        node.ledger.mend()
        self.run(asyncio.sleep(1.5))
        assert all(kill.durable for kill in node.known().all()), "the disk answers, and not all is written"
        node.durable |= {kill.id for kill in node.known().all()}
        node.ledger.mode = mode

    @rule(n=nodes)
    def crash(self, n: int) -> None:
        """Without a word: what the disk had not taken is gone, and so is what was being done."""
        node = self.nodes[n]
        self.run(asyncio.sleep(2 * COMMIT_S))
        node.ledger.forget_held()
        self.loop.run_until_complete(self._stop())
        node.ledger.mode = "ok"
        for other in self.nodes:
            if other is not node:
                other.tending = self.loop.create_task(other.known().tend())
        self.run(self._load(node))

    async def _stop(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)

    # ── what is kept ──

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert self.wrong == []

    @invariant()
    def what_was_acknowledged_holds(self) -> None:
        """Where a kill is on disk it is engaged, or somebody asked to lift it; where its end was heard it is not."""
        for node in self.nodes:
            if node.board is None:
                continue
            engaged = {kill.id for kill in node.board.all()}
            assert node.durable - self.lift_asked <= engaged, f"{node.name} lost a kill"
            assert not node.lifted & engaged, f"a lifted kill came back at {node.name}"

    def teardown(self) -> None:
        try:
            if self.nodes[0].board is not None:
                self._heal()
                self._all_know_the_same()
                self.loop.run_until_complete(self._stop())
        finally:
            clock.wall = self.real_wall
            self.loop.close()
            self.folder.cleanup()

    def _heal(self) -> None:
        for node in self.nodes:
            node.ledger.mend()
        self.run(asyncio.sleep(LIFT_WAIT_S + TEND_EVERY_S + 1.5))
        for to, kill in self.under_way:
            self._adopt(self.nodes[to], kill)
        for node in self.nodes:
            node.file.unlink(missing_ok=True)
        self.run(asyncio.sleep(1))

    def _all_know_the_same(self) -> None:
        pairs = list(itertools.permutations(range(NODES), 2))
        for _ in range(2):
            for n, to in pairs:
                self.run(self._round(n, to, []))
        engaged = [{kill.id for kill in node.known().all()} for node in self.nodes]
        assert engaged[0] == engaged[1] == engaged[2]
        assert len({node.known().digest() for node in self.nodes}) == 1
        for n, to in pairs:
            done = self.run(self._round(n, to, []))
            assert (done.in_step, done.taken, done.given) == (True, 0, 0)
        for node in self.nodes:
            assert node.durable - self.lift_asked <= engaged[0], "a kill was lost"
            assert not node.lifted & engaged[0], "a lifted kill is back"


TestPeers = PeersMachine.TestCase

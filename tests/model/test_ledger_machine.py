"""The ledger's writer against a model, under every order of appends, faults, crashes and restarts.

What is told to a caller is true: a record that was acknowledged is there, at that number; one that failed is not. What
is in the ledger is in the order of the appends, and verifies. What has no end is what the next start is told. What was
acknowledged ahead of its commit is there after the next start at the latest, whatever ended this one.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import looptime
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider.ledger.query import tail
from outrider.ledger.record import STARTS, EventType
from outrider.ledger.verify import verify
from outrider.ledger.writer import Ledger, LedgerUnavailable
from outrider.policy.plans import LedgerSettings
from outrider.store import FILE, Store
from tests.ledger_kit import CALL_FINISHED, FINISHED, RECEIVED, SMALL_RESERVE, STARTED, FullDisk, event

KINDS = [RECEIVED, STARTED, FINISHED, CALL_FINISHED, EventType.KILL_ENGAGED]
BAD = ("INSERT INTO nowhere VALUES (1)", ())
GOOD = ("UPDATE meta SET value = value || 'x' WHERE key = 'created'", ())
ARGS: dict[str, Any] = {"none": None, "empty": {}, "secret": {"token": "x"}, "big": {"text": "y" * 9000}}
MUTATIONS: dict[str, tuple[Any, ...]] = {"none": (), "good": (GOOD,), "bad": (BAD,), "good, bad": (GOOD, BAD)}

Spec = tuple[EventType, str, int, bool, bool, bool, str, str]
SPEC: st.SearchStrategy[Spec] = st.tuples(
    st.sampled_from(KINDS), st.sampled_from("abc"), st.integers(1, 2), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from(list(ARGS)), st.sampled_from(["none", "none", "none", *MUTATIONS]),
)  # fmt: skip


class LedgerMachine(RuleBasedStateMachine):
    """One folder, one sidecar after the other on it."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="outrider-ledger-"))
        self.number = 0
        self.waiting: dict[int, asyncio.Future[int]] = {}
        self.acknowledged: dict[int, int] = {}  # number of the append → number of the record
        self.promised: set[int] = set()  # acknowledged ahead: of no number yet
        self.failed: set[int] = set()
        self.starts: set[int] = set()
        self.other: sqlite3.Connection | None = None  # another program, in a transaction of its own
        self.disk: FullDisk | None = None
        self.start()

    def start(self) -> None:
        self.loop = looptime.new_event_loop(idle_timeout=1)
        self.store = Store.open(self.folder, reserve_bytes=SMALL_RESERVE)
        self.ledger: Ledger = self.run(Ledger.open(self.store, LedgerSettings(), inline=True))

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def collect(self) -> None:
        """What callers were told since the last look."""
        for number, future in list(self.waiting.items()):
            if not future.done():
                continue
            del self.waiting[number]
            error = future.exception()
            if error is None and future.result() == 0:
                self.promised.add(number)
            elif error is None:
                self.acknowledged[number] = future.result()
            else:
                assert isinstance(error, LedgerUnavailable | sqlite3.Error)
                self.failed.add(number)

    @rule(specs=st.lists(SPEC, min_size=1, max_size=8))
    def append(self, specs: list[Spec]) -> None:
        """Nobody waits: the records are left under way."""

        async def go() -> None:
            for kind, call, n, durable, linger, ahead, args, mutations in specs:
                self.number += 1
                self.starts |= {self.number} if kind in STARTS else set()
                self.waiting[self.number] = self.ledger.append(
                    event(kind, call, n, caller_ref=str(self.number)),
                    durable=durable, linger=linger, ahead=ahead, args=ARGS[args], mutations=MUTATIONS[mutations],
                )  # fmt: skip

        self.run(go())

    @rule(turns=st.integers(1, 4))
    def turn(self, turns: int) -> None:
        """The loop goes round a few times: not always enough to finish what was begun."""

        async def go() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(go())

    @rule(seconds=st.sampled_from([0.004, 0.15, 2.5, 40.0]))
    def wait(self, seconds: float) -> None:
        """Virtual seconds: lingering, probing, giving up."""
        self.run(asyncio.sleep(seconds))

    @precondition(lambda self: self.other is None)
    @rule()
    def lock(self) -> None:
        self.ledger._committer._connection.execute("PRAGMA busy_timeout = 0")
        self.other = sqlite3.connect(self.folder / FILE, isolation_level=None)
        self.other.execute("BEGIN IMMEDIATE")

    @precondition(lambda self: self.other is not None)
    @rule()
    def unlock(self) -> None:
        assert self.other is not None
        self.other.close()
        self.other = None

    @precondition(lambda self: self.disk is None)
    @rule(reserve_pages=st.sampled_from([0, 3, 100]))
    def fill_the_disk(self, reserve_pages: int) -> None:
        self.disk = FullDisk(self.ledger, reserve_pages)

    @precondition(lambda self: self.disk is not None)
    @rule()
    def free_the_disk(self) -> None:
        assert self.disk is not None
        self.disk.free()

    @rule()
    def crash(self) -> None:
        """As if killed: nothing is said, nothing is written any more."""
        self.collect()
        self.waiting.clear()
        self.ledger._committer._aside.close()
        self.ledger._committer._connection.close()
        self.end()

    @rule()
    def stop(self) -> None:
        """An orderly end: everything queued is committed, or fails."""
        self.run(self.ledger.close())
        self.run(asyncio.sleep(0))
        self.collect()
        assert not self.waiting, "whoever waits is told before the sidecar ends"
        self.end()

    def end(self) -> None:
        self.store.close()
        self.loop.close()
        self.disk = None
        if self.other is not None:
            self.unlock()
        self.start()
        self.check_recovered()
        written = {int(record["caller_ref"]) for record in tail(self.folder, 1000)}
        assert self.promised <= written, "what was acknowledged ahead outlives its process"

    def check_recovered(self) -> None:
        """The model reads the whole ledger; the ledger must not have needed to."""
        attempts: dict[tuple[str, int], int] = {}
        calls: dict[str, int] = {}
        for record in tail(self.folder, 1000):
            key = (record["call_id"], record["attempt"])
            if record["type"] == STARTED:
                attempts[key] = record["seq"]
            elif record["type"] == FINISHED:
                attempts.pop(key, None)
            elif record["type"] == RECEIVED:
                calls.setdefault(record["call_id"], record["seq"])
            elif record["type"] == CALL_FINISHED:
                calls.pop(record["call_id"], None)
        assert {(work.call_id, work.n): work.seq for work in self.ledger.open_attempts} == attempts
        assert {work.call_id: work.seq for work in self.ledger.open_calls} == calls

    @invariant()
    def what_was_told_is_true(self) -> None:
        self.collect()
        written = {record["seq"]: int(record["caller_ref"]) for record in tail(self.folder, 1000)}
        assert all(written.get(seq) == number for number, seq in self.acknowledged.items())
        assert not self.failed & set(written.values())
        assert not self.failed & self.promised
        order = [written[seq] for seq in sorted(written)]
        assert order == sorted(set(order)), "the order of the appends, none twice"

    @invariant()
    def nothing_waits_to_begin(self) -> None:
        """While it cannot be written, only ends are kept for later."""
        self.collect()
        if not self.ledger.healthy and not self.ledger._busy:
            assert not self.starts & set(self.waiting)

    @invariant()
    def it_verifies(self) -> None:
        # An attempt's end may come twice here, because the rules do not mind; everything else must hold.
        report = verify(self.folder)
        assert report.ok or (report.first_bad is not None and "ends a second time" in report.first_bad[1])

    async def one_more(self) -> int:
        return await self.ledger.append(event(STARTED, "last", 1), durable=True)

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        if self.other is not None:
            self.unlock()
        if self.disk is not None:
            self.disk.free()
        self.run(asyncio.sleep(60))
        assert self.ledger.healthy, "it recovers by itself"
        head = self.ledger.head.seq
        assert self.run(self.one_more()) == head + 1
        self.run(self.ledger.close())
        self.run(asyncio.sleep(0))
        self.collect()
        assert not self.waiting
        self.store.close()
        self.loop.close()
        shutil.rmtree(self.folder)


LedgerMachine.TestCase.settings = settings(
    max_examples=max(10, settings.default.max_examples * 4 // 10), stateful_step_count=30
)
TestLedgerMachine = LedgerMachine.TestCase

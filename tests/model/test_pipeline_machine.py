"""The whole call path as a state machine: calls, faults, kills, leavers, reloads and time in any order.

Rules leave work in flight. What is promised is checked where it can be broken: at the upstream, at each sending.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import looptime
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider.calls import Attempt, Failure, Outcome, OutcomeKind, Reason
from outrider.domains.breaker import State
from outrider.flight import Flight
from tests.support.rig import BASE, BROKEN, BUSY, OK, REFUSED, WRONG, Rig

MAX_CONCURRENT = 2
MAX_ATTEMPTS = 3
TOTAL_S, PER_TRY_S = 6.0, 2.0
POLICY: dict[str, Any] = {
    "defaults": {
        "timeouts": {"total": "6s", "perTry": "2s", "connect": "1s"},
        "retry": {
            "maxAttempts": MAX_ATTEMPTS,
            "backoff": {"initial": "200ms", "max": "1s"},
            "retryAfter": {"max": "5s"},
        },
    },
    "domain": {
        "bulkhead": {"maxConcurrent": MAX_CONCURRENT, "maxQueue": 3, "maxWait": "1s"},
        "breaker": {"consecutiveFailures": 4, "openFor": "2s", "openForMax": "8s"},
        "retryBudget": {"ratio": 0.2, "window": "60s", "minRetries": 10},
    },
    "tools": [
        *BASE["tools"],
        {"match": "up.write_f", "fallback": [{"tool": "spare.write", "onlyIf": "not_executed"}]},
        {"match": "up.read_f", "fallback": [{"static": {"value": "old"}}]},
    ],
    "rules": [
        {"name": "all", "tools": ["*"], "then": "allow"},
        {"name": "no", "tools": ["up.write_denied"], "then": "deny", "reason": "never"},
    ],
}
DENY_READS: dict[str, Any] = POLICY | {
    "rules": [*POLICY["rules"], {"name": "no reads", "tools": ["up.read*"], "then": "deny", "reason": "by reload"}]
}
LATER = Outcome(OutcomeKind.NOT_EXECUTED, failure=Failure(Reason.STATUS, "HTTP 429", 429, retry_after_s=1.5))
TOOLS = ["up.read", "up.read_f", "up.write", "up.write_f", "up.keyed", "up.write_denied", "nowhere.x"]
AGENTS, RUNS = ["a", "b"], ["r1", "r2"]
SCOPES = ["global", "agent:a", "run:r1", "tool:up.write*", "upstream:up", "tool:spare.*"]
CALLS = st.fixed_dictionaries(
    {
        "tool": st.sampled_from(TOOLS),
        "agent": st.sampled_from(AGENTS),
        "run": st.sampled_from(RUNS),
        "n": st.integers(0, 5),
        "deadline_ms": st.sampled_from([None, None, 50, 700, 3000]),
        "parent": st.booleans(),
    }
)


@dataclass
class Kill:
    """An acknowledged kill: nothing it covers may be sent from then on."""

    id: str
    scope: str


class CallPath(RuleBasedStateMachine):
    """Everything that can happen to calls."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(idle_timeout=5))
        self.rig = Rig(Path(self.folder.name), POLICY)
        self.kills: list[Kill] = []
        self.broken_promises: list[str] = []
        self.next: list[tuple[Outcome, float]] = []
        self.ended_at: dict[str, float] = {}
        self.bodies: dict[str, tuple[str, str]] = {}
        self.executed: Counter[str] = Counter()
        self.reads_denied = False
        self.do(self.rig.__aenter__())
        self.rig.upstream.answer = self.answer
        self.rig.upstream.takes_s = lambda attempt: self._takes_s

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    # ── the upstream: what arrives is checked here ────────────────────────────────────────────────────────────────

    def answer(self, attempt: Attempt) -> Outcome:
        outcome, self._takes_s = self.next.pop(0) if self.next else (OK, 0.1)
        flight = self.rig.supervisor.flights[attempt.call.id]
        for promise in (self.not_killed, self.in_time, self.intended, self.permitted, self.one_effect, self.one_key):
            broken = promise(attempt, flight, outcome)
            if broken:
                self.broken_promises.append(f"{broken}: {attempt}")
        return outcome

    def not_killed(self, attempt: Attempt, flight: Flight, outcome: Outcome) -> str:
        hit = [kill.scope for kill in self.kills if covers(kill.scope, attempt)]
        return f"4: sent after the kill of {hit} was acknowledged" if hit else ""

    def in_time(self, attempt: Attempt, flight: Flight, outcome: Outcome) -> str:
        now = asyncio.get_running_loop().time()
        assert flight.deadline is not None and flight.scope is not None
        if now > flight.deadline:
            return "7: sent after the deadline"
        limit = flight.scope._timeout_s
        if limit is not None and limit > min(PER_TRY_S, flight.deadline - now) + 1e-6:
            return "8: the per-try timeout is longer than what remains"
        return ""

    def intended(self, attempt: Attempt, flight: Flight, outcome: Outcome) -> str:
        if not attempt.effect.has_effects:
            return ""
        rows = self.rig.store.read(
            "SELECT 1 FROM ledger WHERE type = 'attempt.started' AND call_id = ? AND attempt = ?",
            (attempt.call.id, attempt.n),
        )
        return "" if rows else "6: sent before its intent was in the ledger"

    def permitted(self, attempt: Attempt, flight: Flight, outcome: Outcome) -> str:
        assert flight.domain is not None
        if flight.domain.breaker.state is State.OPEN:
            return "12: sent through an open breaker"
        if attempt.tool == "up.write_denied" or (self.reads_denied and attempt.tool.startswith("up.read")):
            return "16: a denied call was sent"
        if flight.domain.bulkhead.held > MAX_CONCURRENT:
            return "14: more attempts than slots"
        return ""

    def one_effect(self, attempt: Attempt, flight: Flight, outcome: Outcome) -> str:
        if attempt.effect.repeatable or outcome.kind is OutcomeKind.NOT_EXECUTED:
            return ""
        self.executed[attempt.call.id] += 1
        return "2, 18: a write that may have run was sent again" if self.executed[attempt.call.id] > 1 else ""

    def one_key(self, attempt: Attempt, flight: Flight, outcome: Outcome) -> str:
        sent = (attempt.idempotency_key, repr(sorted(attempt.call.args.items())))
        if self.bodies.setdefault(attempt.call.id, sent) != sent:
            return "3: another key or body for the same call"
        return ""

    # ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(wanted=st.lists(CALLS, min_size=1, max_size=5))
    def calls(self, wanted: list[dict[str, Any]]) -> None:
        """Some at once."""

        async def begin() -> None:
            for one in wanted:
                self._begin(**one)
            await asyncio.sleep(0)

        self.do(begin())

    def _begin(self, tool: str, agent: str, run: str, n: int, deadline_ms: int | None, parent: bool) -> None:
        above = next(iter(self.rig.supervisor.flights), "") if parent else ""
        flight = self.rig.start(tool, agent=agent, run=run, deadline_ms=deadline_ms, parent=above, n=n)
        loop = asyncio.get_running_loop()
        assert flight.answer is not None
        flight.answer.add_done_callback(lambda _: self.ended_at.__setitem__(flight.call.id, loop.time()))

    @rule(
        outcomes=st.lists(
            st.tuples(
                st.sampled_from([OK, BROKEN, BUSY, REFUSED, WRONG, LATER]), st.sampled_from([0.0, 0.05, 1.5, 30.0])
            ),
            min_size=1, max_size=6,
        )
    )  # fmt: skip
    def faults(self, outcomes: list[tuple[Outcome, float]]) -> None:
        self.next.extend(outcomes)

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.3, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @precondition(lambda self: len(self.kills) < 2)
    @rule(scope=st.sampled_from(SCOPES))
    def kill(self, scope: str) -> None:
        async def engage() -> None:
            receipt = await self.rig.supervisor.kill(scope, "by the machine", None, "test")
            assert sum(receipt.counts.values()) == len(receipt.calls)
            if all(kill.id != receipt.id for kill in self.kills):
                self.kills.append(Kill(receipt.id, scope))

        self.do(engage())

    @precondition(lambda self: len(self.kills) < 2)
    @rule()
    def kill_and_call_at_once(self) -> None:
        """A call submitted before the kill, whose task has not begun."""

        async def race() -> None:
            self.rig.start("up.write", n=7)
            receipt = await self.rig.supervisor.kill("tool:up.write*", "race", None, "test")
            if all(kill.id != receipt.id for kill in self.kills):
                self.kills.append(Kill(receipt.id, "tool:up.write*"))

        self.do(race())

    @precondition(lambda self: self.kills)
    @rule()
    def lift_all(self) -> None:
        while self.kills:
            self.do(self.rig.supervisor.revive(self.kills.pop().id, "again", "test"))

    @rule(
        tool=st.sampled_from(["up.write", "up.write_f", "up.keyed", "up.read"]),
        failure=st.sampled_from([BROKEN, BUSY, REFUSED, LATER]),
        takes_s=st.sampled_from([0.0, 0.05, 30.0]),
    )
    def call_that_fails_first(self, tool: str, failure: Outcome, takes_s: float) -> None:
        """A fault meets its call, and the time for what follows passes or not."""
        self.next[:0] = [(failure, takes_s)]
        self.calls([{"tool": tool, "agent": "b", "run": "r2", "n": 5, "deadline_ms": None, "parent": False}])

    @rule()
    def reads_fail_and_are_denied_before_their_retry(self) -> None:
        """The newest policy's deny counts, the plan stays the pinned one."""
        self.next[:0] = [(BUSY, 0.0)]
        self.calls([{"tool": "up.read", "agent": "b", "run": "r2", "n": 5, "deadline_ms": None, "parent": False}])
        self.reload(deny=True)

    @rule()
    def a_caller_leaves(self) -> None:
        async def leave() -> None:
            for flight in list(self.rig.supervisor.flights.values())[:1]:
                self.rig.supervisor.caller_gone(flight)
            await asyncio.sleep(0)

        self.do(leave())

    @rule(deny=st.booleans())
    def reload(self, deny: bool) -> None:
        async def change() -> None:
            pinned = {flight: flight.policy for flight in self.rig.supervisor.flights.values()}
            await self.rig.reload(DENY_READS if deny else POLICY)
            self.reads_denied = deny
            self.rig.domains.reconfigure(lambda name: self.rig.policies.current.upstreams[name].domain)
            assert all(flight.policy is policy for flight, policy in pinned.items())  # 24

        self.do(change())

    @rule()
    def settle(self) -> None:
        async def settle_one() -> None:
            for call_id in list(self.rig.unresolved._by_call)[:1]:
                await self.rig.supervisor.settle(call_id, "not_executed", "looked", "test")

        self.do(settle_one())

    # ── what holds always, and at the end ─────────────────────────────────────────────────────────────────────────

    @invariant()
    def no_promise_is_broken(self) -> None:
        assert not self.broken_promises, self.broken_promises

    @invariant()
    def no_call_outlives_its_deadline(self) -> None:
        """7: answered no later than the total plus a little."""
        for flight in self.rig.flights:
            ended = self.ended_at.get(flight.call.id)
            if ended is not None:
                assert ended - flight.received <= TOTAL_S + 0.05, flight.call

    def teardown(self) -> None:
        async def end() -> None:
            self.next.clear()
            await asyncio.sleep(60)
            rig = self.rig
            assert not rig.supervisor.flights
            for domain in rig.domains:  # 20: everything went back
                assert (domain.bulkhead.held, domain.bulkhead.waiting, domain.budget.reserved) == (0, 0, 0)
            sends = Counter((sent.call, sent.tool) for sent in rig.upstream.sent)
            assert all(count <= MAX_ATTEMPTS for count in sends.values()), sends  # 1
            await rig.ledger.flush()
            rows = rig.events()
            started = Counter((row["call_id"], row["attempt"]) for row in rows if row["type"] == "attempt.started")
            ended = Counter((row["call_id"], row["attempt"]) for row in rows if row["type"] == "attempt.finished")
            assert started == ended and all(count == 1 for count in started.values())  # 5
            ends = Counter(row["call_id"] for row in rows if row["type"] in {"call.finished", "call.refused"})
            assert ends == Counter(flight.call.id for flight in rig.flights)
            assert all(flight.answer is not None and flight.answer.done() for flight in rig.flights)
            await rig.__aexit__()

        try:
            self.do(end())
        finally:
            self.runner.close()
            self.folder.cleanup()


def covers(scope: str, attempt: Attempt) -> bool:
    """An independent, plain reading of a kill's scope."""
    kind, _, pattern = scope.partition(":")
    call = attempt.call
    names = {
        "global": [""],
        "agent": [call.agent.name],
        "run": [call.run],
        "tool": [call.tool, attempt.tool],
        "upstream": [call.tool.partition(".")[0], attempt.tool.partition(".")[0]],
    }[kind]
    if kind == "global":
        return True
    return any(name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])) for name in names)


# Shrinking a run of the whole call path takes minutes; the first failing run says enough.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
CallPath.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None, phases=PHASES)
TestCallPath = CallPath.TestCase

"""The runs as a state machine: calls begin and end in any order, retries, time, people, new policies and restarts.

The call path is the product's own (``Rig``); calls hang at the upstream until a rule ends them, so that they overlap.
Beside it stands a model that knows nothing of how the product counts.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import looptime
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider import clock
from outrider.calls import Attempt, Outcome
from outrider.errors import Code
from outrider.flight import Flight
from outrider.runs.book import NothingToResume
from outrider.runs.run import State
from tests.support.rig import OK, WRONG, Rig

MAX_CALLS, MAX_DURATION_S, SAME, FAILURES, REFUSALS = 8, 600.0, 3, 2, 2
SLACK_S = 0.1
LOOSE: dict[str, Any] = {"runs": {"maxCalls": 1_000}}
TIGHT: dict[str, Any] = {
    "runs": {
        "maxCalls": MAX_CALLS,
        "maxDuration": "10m",
        "runaway": {"sameCall": SAME, "failures": FAILURES, "refusals": REFUSALS},
    }
}
ALSO: dict[str, Any] = {
    "domain": {"breaker": {"enabled": False}, "bulkhead": {"maxConcurrent": 100}},
    "defaults": {"timeouts": {"total": "1h", "perTry": "30m"}},
}
AGENTS, RUNS = st.sampled_from(["a", "b"]), st.sampled_from(["r1", "r2"])
Name = tuple[str, str]


@dataclass
class Model:
    """What a reader of docs/runs.md would expect of one run since its beginning or its last resumption."""

    admitted: int = 0
    row: tuple[int, int] = (-1, 0)  # the last arguments, and how often in a row
    paused: bool = False
    since: float | None = None
    flights: list[Flight] = field(default_factory=list)


class LiveRuns(RuleBasedStateMachine):
    """Two agents that choose the same two ids."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(idle_timeout=5))
        self.models: dict[Name, Model] = {}
        self.ends: dict[str, asyncio.Event] = {}
        self.answers: dict[str, Outcome] = {}
        self.policy = TIGHT
        self.sent: Counter[Name] = Counter()
        self.since_reset: Counter[Name] = Counter()
        loop = self.runner.get_loop()
        self.wall = mock.patch.object(clock, "wall", lambda: 1.8e9 + loop.time())  # a restart asks the wall clock
        self.wall.start()
        self.do(self.enter())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def enter(self) -> None:
        self.rig = Rig(Path(self.folder.name), {**ALSO, **self.policy})
        await self.rig.__aenter__()
        self.rig.upstream.send = self.send  # type: ignore[method-assign]

    async def send(self, attempt: Attempt, plan: Any, timeout_s: float) -> Outcome:
        """The upstream: waits until a rule says how the call ends. What arrives is counted here."""
        attempt.sent = True
        name = (attempt.call.agent.name, attempt.call.run)
        self.sent[name] += 1
        self.since_reset[name] += 1
        end = self.ends[attempt.call.id] = asyncio.Event()
        await end.wait()
        return self.answers[attempt.call.id]

    def model(self, name: Name) -> Model:
        return self.models.setdefault(name, Model())

    # ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(agent=AGENTS, run=RUNS, n=st.integers(0, 1), times=st.integers(1, 4))
    def begin(self, agent: str, run: str, n: int, times: int) -> None:
        """Some calls at once."""
        self.do(self._begin((agent, run), n, times))

    async def _begin(self, name: Name, n: int, times: int) -> None:
        model = self.model(name)
        flights = [self.rig.start("up.read", agent=name[0], run=name[1], n=n) for _ in range(times)]
        await asyncio.sleep(0.01)
        for flight in flights:
            if flight.answer is not None and flight.answer.done():
                self.check_refused(name, model, n, flight.answer.result())
            else:
                self.check_admitted(model, n, flight)

    def check_admitted(self, model: Model, n: int, flight: Flight) -> None:
        assert not model.paused, "a call of a paused run went on"
        model.admitted += 1
        if self.policy is TIGHT:
            model.row = (n, model.row[1] + 1) if model.row[0] == n else (n, 1)
        model.flights.append(flight)
        now = self.now()
        model.since = now if model.since is None else model.since
        if self.policy is TIGHT:
            assert model.admitted <= MAX_CALLS, "more calls than maxCalls"
            assert model.row[1] <= SAME, "the same call more often than sameCall"
            assert now - model.since <= MAX_DURATION_S + SLACK_S, "a call after maxDuration"

    def check_refused(self, name: Name, model: Model, n: int, outcome: Outcome) -> None:
        assert outcome.retryable is False and outcome.detail
        run = self.run_of(name)
        assert run is not None
        if outcome.code is Code.RUN_LIMIT:
            assert self.policy is TIGHT
            old = model.since is not None and self.now() - model.since >= MAX_DURATION_S - SLACK_S
            assert model.admitted >= MAX_CALLS or old, "limited too early"
            return
        assert outcome.code is Code.RUNAWAY
        if run.paused is not None:
            model.paused = True
            return
        same = model.row == (n, SAME)
        assert same or "failed" in outcome.detail, "no reason to call it a runaway"

    @precondition(lambda self: any(model.flights for model in self.models.values()))
    @rule(data=st.data(), ok=st.booleans(), oldest=st.booleans())
    def end(self, data: st.DataObject, ok: bool, oldest: bool) -> None:
        """One of the calls under way is answered."""
        names = sorted(name for name, model in self.models.items() if model.flights)
        model = self.models[data.draw(st.sampled_from(names))]
        flight = model.flights.pop(0 if oldest else -1)
        self.answers[flight.call.id] = OK if ok else WRONG
        self.do(self._end(flight))

    async def _end(self, flight: Flight) -> None:
        if (end := self.ends.get(flight.call.id)) is not None:
            end.set()
        assert flight.answer is not None
        await flight.answer

    @rule(agent=AGENTS, run=RUNS, each=st.integers(0, 1))
    def fail_in_a_row(self, agent: str, run: str, each: int) -> None:
        """A whole loop of failures, each with its answer before the next."""
        for _ in range((FAILURES + 1) * REFUSALS):
            self.do(asyncio.sleep(1.1))  # a turn of the model
            before = len(self.model((agent, run)).flights)
            self.do(self._begin((agent, run), each, 1))
            model = self.model((agent, run))
            if len(model.flights) > before:  # it went on
                flight = model.flights.pop()
                self.answers[flight.call.id] = WRONG
                self.do(self._end(flight))

    @rule(seconds=st.sampled_from([0.5, 1.5, 30.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        """No longer than a call may take."""
        self.do(asyncio.sleep(seconds))
        for model in self.models.values():  # the end of the run ended them
            model.flights = [flight for flight in model.flights if flight.answer is None or not flight.answer.done()]

    @rule(run=RUNS)
    def a_person_resumes(self, run: str) -> None:
        """All runs of the id that are stopped count anew; those that are not go on as they were."""
        before = {one.root: one.resumes for one in self.rig.runs.named(run)}
        try:
            self.do(self.rig.runs.resume(run, "go on", "me"))
        except (KeyError, NothingToResume):
            assert not any(model.paused for name, model in self.models.items() if name[1] == run)
            return
        for one in self.rig.runs.named(run):
            assert one.paused is None
            if one.resumes > before[one.root]:
                old = self.model((one.root, run))
                self.models[one.root, run] = Model(since=self.now(), flights=old.flights)

    @rule()
    def the_policy_changes(self) -> None:
        """From tight to loose and back."""
        self.policy = LOOSE if self.policy is TIGHT else TIGHT
        for model in self.models.values():
            model.row = (-1, 0)
        self.do(self.rig.reload({**ALSO, **self.policy}))

    @rule()
    def the_sidecar_starts_anew(self) -> None:
        """Counts and pauses go on; rows of equal calls begin anew. Calls under way are answered before."""
        for model in self.models.values():
            while model.flights:
                flight = model.flights.pop()
                self.answers[flight.call.id] = OK
                self.do(self._end(flight))
        paused = {name for name, model in self.models.items() if model.paused}
        self.do(self.rig.__aexit__())
        self.do(self.enter())
        for model in self.models.values():
            model.row = (-1, 0)
        for name in paused:
            run = self.run_of(name)
            assert run is not None and run.state is State.PAUSED, "a restart lifted a pause"

    # ── what always holds ────────────────────────────────────────────────────────────────────────────────────────

    def now(self) -> float:
        return self.runner.get_loop().time()

    def run_of(self, name: Name) -> Any:
        found = [run for run in self.rig.runs.named(name[1]) if run.root == name[0]]
        assert len(found) <= 1, "one run is known twice"
        return found[0] if found else None

    @invariant()
    def a_pause_is_lifted_by_people_only(self) -> None:
        for name, model in self.models.items():
            if model.paused:
                assert self.run_of(name).paused is not None

    @invariant()
    def counts_are_those_of_the_calls(self) -> None:
        for name, model in self.models.items():
            run = self.run_of(name)
            if run is not None:
                assert run.counted_calls == model.admitted, (name, run.counted_calls, model.admitted)
                assert run.in_flight == len(model.flights)

    def teardown(self) -> None:
        self.do(self.rig.__aexit__())
        self.wall.stop()
        self.runner.close()
        self.folder.cleanup()


# Shrinking a run of the whole call path takes minutes; the first failing run says enough.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
LiveRuns.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, phases=PHASES)
TestLiveRuns = LiveRuns.TestCase

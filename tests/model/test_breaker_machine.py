"""The breaker against an independent model of it, with attempts left in flight across every change of state."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import floor

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from outrider.domains.breaker import Breaker, Permit, State, Verdict
from outrider.policy import plans

SETTINGS = (
    plans.Breaker(window_s=10, min_calls=4, failure_ratio=0.5, consecutive_failures=3, open_for_s=4, open_for_max_s=20,
                  max_probes=2, success_threshold=2, half_open_max_wait_s=3),
    plans.Breaker(window_s=10, min_calls=2, failure_ratio=1.0, consecutive_failures=100, open_for_s=1, open_for_max_s=1,
                  max_probes=1, success_threshold=1, half_open_max_wait_s=30),
    plans.Breaker(window_s=10, min_calls=100, consecutive_failures=1, open_for_s=2, open_for_max_s=100, max_probes=3,
                  success_threshold=4, half_open_max_wait_s=1),
    plans.Breaker(window_s=10, enabled=False),
)  # fmt: skip
MOMENTS = st.integers(0, 40).map(lambda quarters: quarters / 4)


@dataclass
class Model:
    """The breaker's rules again, written as plainly as possible: lists and one long look at each moment."""

    rules: plans.Breaker
    rng: random.Random
    state: str = "closed"
    generation: int = 0
    seen: list[tuple[float, bool]] = field(default_factory=list)  # (when, failed)
    opened: int = 0
    until: float = 0.0
    probes: dict[int, float] = field(default_factory=dict)  # number of the attempt -> when it counts as lost
    passed: int = 0

    def go(self, state: str, now: float) -> None:
        self.state, self.generation, self.probes, self.passed = state, self.generation + 1, {}, 0
        if state == "open":
            self.opened += 1
            doubled = self.rules.open_for_s * 2 ** (self.opened - 1)
            self.until = now + min(self.rules.open_for_max_s, doubled * (0.9 + 0.2 * self.rng.random()))
        elif state != "half_open":
            self.seen, self.opened = [], 0

    def tick(self, now: float) -> None:
        if self.state == "open" and now >= self.until:
            self.go("half_open", self.until)
        if self.state == "half_open" and self.probes and now >= min(self.probes.values()):
            self.go("open", min(self.probes.values()))
            self.tick(now)

    def may_pass(self) -> bool:
        if self.state == "forced_open":
            return False
        if not self.rules.enabled or self.state in {"closed", "disabled"}:
            return True
        return self.state == "half_open" and len(self.probes) < self.rules.max_probes

    def start(self, attempt: int, now: float) -> None:
        if self.state == "half_open" and self.rules.enabled:
            self.probes[attempt] = now + self.rules.half_open_max_wait_s

    def end(self, attempt: int, generation: int, now: float, verdict: str) -> None:
        self.probes.pop(attempt, None)
        if generation != self.generation or verdict == "ignore" or not self.rules.enabled:
            return
        failed = verdict == "failure"
        if self.state == "closed":
            self.seen.append((now, failed))
            if self.trips(now):
                self.go("open", now)
        elif self.state == "half_open":
            self.passed += not failed
            if failed:
                self.go("open", now)
            elif self.passed >= self.rules.success_threshold:
                self.go("closed", now)

    def trips(self, now: float) -> bool:
        last = [failed for _, failed in self.seen[-self.rules.consecutive_failures :]]
        if len(last) == self.rules.consecutive_failures and all(last):
            return True
        width = self.rules.window_s / 10
        recent = [failed for when, failed in self.seen if floor(when / width) > floor(now / width) - 10]
        return len(recent) >= self.rules.min_calls and sum(recent) >= self.rules.failure_ratio * len(recent)


class BreakerMachine(RuleBasedStateMachine):
    attempts = Bundle("attempts")

    @initialize(rules=st.sampled_from(SETTINGS), seed=st.integers(0, 1000))
    def begin(self, rules: plans.Breaker, seed: int) -> None:
        self.now = 1000.0
        self.count = 0
        self.in_flight: dict[int, Permit] = {}
        self.told: list[tuple[State, State]] = []
        self.model = Model(rules, random.Random(seed))
        self.breaker = Breaker(
            rules,
            on_transition=lambda old, new: self.told.append((old, new)),
            rng=random.Random(seed).random,
        )

    @rule(by=MOMENTS)
    def time_passes(self, by: float) -> None:
        self.now += by
        self.model.tick(self.now)

    @rule(target=attempts)
    def attempt_starts(self) -> int:
        """Invariant 12: an open breaker lets nothing pass; a half-open one at most ``max_probes`` at once."""
        self.model.tick(self.now)
        self.count += 1
        expected = self.model.may_pass()
        assert (self.breaker.peek(self.now) is None) is expected, "peek and acquire agree"
        granted = self.breaker.acquire(self.now)
        assert isinstance(granted, Permit) is expected
        if isinstance(granted, Permit):
            self.model.start(self.count, self.now)
            assert granted.generation == self.model.generation
            self.in_flight[self.count] = granted
        else:
            assert granted.retry_after_s > 0
        return self.count

    @rule(attempt=consumes(attempts), verdict=st.sampled_from(Verdict), twice=st.booleans())
    def attempt_ends(self, attempt: int, verdict: Verdict, twice: bool) -> None:
        """Invariant 13: a report of another generation changes nothing; nor does a second one."""
        permit = self.in_flight.pop(attempt, None)
        if permit is None:
            return
        self.model.tick(self.now)
        before = self.breaker.snapshot(self.now)
        self.breaker.record(permit, self.now, verdict)
        if permit.generation != before["generation"]:
            assert self.breaker.snapshot(self.now) == before
        self.model.end(attempt, permit.generation, self.now, verdict.value)
        if twice:
            after = self.breaker.snapshot(self.now)
            self.breaker.record(permit, self.now, Verdict.FAILURE)
            assert self.breaker.snapshot(self.now) == after

    @rule(attempt=consumes(attempts))
    def attempt_is_lost(self, attempt: int) -> None:
        """It never reports, and must not wedge anything."""
        self.in_flight.pop(attempt, None)

    @rule()
    def health_probe_succeeds(self) -> None:
        """Moves an open breaker to half-open and never closes one."""
        self.model.tick(self.now)
        closed_before = self.model.state == "closed"
        self.breaker.probe_succeeded(self.now)
        if self.model.state == "open":
            self.model.go("half_open", self.now)
        assert closed_before or self.breaker.state is not State.CLOSED

    @rule(switch=st.sampled_from(["force_open", "disable", "hand_back"]))
    def person_switches(self, switch: str) -> None:
        self.model.tick(self.now)
        self.breaker.snapshot(self.now)
        getattr(self.breaker, switch)(self.now)
        wanted = {"force_open": "forced_open", "disable": "disabled", "hand_back": "closed"}[switch]
        if switch == "hand_back" and self.model.state not in {"forced_open", "disabled"}:
            return
        if self.model.state != wanted:
            self.model.go(wanted, self.now)

    @rule(rules=st.sampled_from(SETTINGS))
    def policy_changes(self, rules: plans.Breaker) -> None:
        """Invariant 24, the breaker's part: a reload keeps the state."""
        self.model.tick(self.now)
        before = self.breaker.snapshot(self.now)
        self.breaker.configure(rules)
        self.model.rules = rules
        after = self.breaker.snapshot(self.now)
        same = ("state", "generation", "calls", "failures", "consecutive_failures", "times_opened", "probes_in_flight")
        assert {key: before[key] for key in same} == {key: after[key] for key in same}

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "breaker"):
            return
        self.model.tick(self.now)
        snapshot = self.breaker.snapshot(self.now)
        assert snapshot["state"] == self.model.state
        assert snapshot["generation"] == self.model.generation == len(self.told)
        assert snapshot["probes_in_flight"] == len(self.model.probes)
        assert 0 <= snapshot["probes_in_flight"] <= max(rules.max_probes for rules in SETTINGS)
        if self.model.state == "open":
            assert abs(self.breaker._open_until - self.model.until) < 1e-6

    def teardown(self) -> None:
        """No state is stuck: left alone, a breaker of the automation lets a call through again."""
        if not hasattr(self, "breaker") or self.model.state in {"forced_open", "disabled"}:
            return
        longest_s = max(rules.open_for_max_s + rules.half_open_max_wait_s for rules in SETTINGS)
        assert self.breaker.peek(self.now + longest_s) is None
        for (_, reached), (left, _) in zip(self.told, self.told[1:], strict=False):
            assert reached is left, "transitions are told in order, none left out"


TestBreakerMachine = BreakerMachine.TestCase

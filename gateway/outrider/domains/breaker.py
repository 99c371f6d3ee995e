"""The circuit breaker of one fault domain: a state machine written as a table. Pure; ``now`` is handed in.

    closed ──too many failures──▶ open ──its time passed, or a health probe succeeded──▶ half_open
       ▲                            ▲                                                    │   │
       │                            └──────a probe failed, or never reported─────────────┘   │
       └───────────────────────────────────enough probes succeeded in a row──────────────────┘
    any ──a person──▶ forced_open | disabled ──a person──▶ closed

Each change of state begins a new generation; a permit carries the one it was given in, and what it reports in
another is ignored (Hystrix-era breakers closed on results that were minutes old). A person's switch is a state of
its own, and no event of the automation has a row that leaves it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from outrider.domains.backoff import Rng
from outrider.domains.window import Window
from outrider.policy import plans


class State(StrEnum):
    """Where a breaker stands. The last two are a person's word."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


class Verdict(StrEnum):
    """What a permit reports. IGNORE gives it back and says nothing about the upstream: cancelled, refused by
    ourselves, a tool that answered with its own error."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORE = "ignore"


class Event(StrEnum):
    """What moves a breaker."""

    TRIP = "trip"  # too many failures
    RECOVER = "recover"  # the open period passed, or a health probe succeeded
    PROBE_FAILED = "probe_failed"  # a probe failed, or did not report in time
    PROBES_PASSED = "probes_passed"
    FORCE_OPEN = "force_open"
    DISABLE = "disable"
    HAND_BACK = "hand_back"  # a person gives the breaker back to the automation


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.CLOSED, Event.TRIP): State.OPEN,
    (State.OPEN, Event.RECOVER): State.HALF_OPEN,
    (State.HALF_OPEN, Event.PROBE_FAILED): State.OPEN,
    (State.HALF_OPEN, Event.PROBES_PASSED): State.CLOSED,
    (State.FORCED_OPEN, Event.HAND_BACK): State.CLOSED,
    (State.DISABLED, Event.HAND_BACK): State.CLOSED,
    **{(state, Event.FORCE_OPEN): State.FORCED_OPEN for state in State if state is not State.FORCED_OPEN},
    **{(state, Event.DISABLE): State.DISABLED for state in State if state is not State.DISABLED},
}
"""The whole machine. A pair without a row changes nothing."""

OPEN_JITTER = 0.1
"""An open period is up to a tenth shorter or longer, so that many gateways do not probe at the same moment."""

PROBE_HINT_S = 1.0
"""What a caller is told while others probe: how long they take cannot be known."""

MAX_DOUBLINGS = 32

OnTransition = Callable[[State, State], None]


class Permit:
    """The right to send one attempt. Report it once with ``Breaker.record``; a second report is ignored."""

    __slots__ = ("expires", "generation", "recorded")

    def __init__(self, generation: int, expires: float | None = None) -> None:
        self.generation = generation
        self.expires = expires  # monotonic seconds; None for a permit that is no probe
        self.recorded = False


class Rejected:
    """The breaker says no. ``retry_after_s`` is when it may be worth asking again."""

    __slots__ = ("retry_after_s", "state")

    def __init__(self, retry_after_s: float, state: State) -> None:
        self.retry_after_s = retry_after_s
        self.state = state


class Breaker:
    """One breaker. Every method takes ``now`` in monotonic seconds; ``now`` never goes back.

    ``on_transition(old, new)`` is called after each change of state. ``rng`` returns numbers from [0, 1)."""

    __slots__ = (
        "_calls", "_failures", "_on_transition", "_open_until", "_probes", "_rng", "_settings", "_streak",
        "_successes", "_times_opened", "generation", "state",
    )  # fmt: skip

    def __init__(
        self, settings: plans.Breaker, *, on_transition: OnTransition | None = None, rng: Rng = random.random
    ) -> None:
        self._settings = settings
        self._on_transition = on_transition
        self._rng = rng
        self.state = State.CLOSED
        self.generation = 0
        self._calls = Window(settings.window_s)
        self._failures = Window(settings.window_s)
        self._streak = 0  # failures in a row
        self._times_opened = 0  # since it last closed
        self._open_until = 0.0
        self._probes: set[Permit] = set()  # those in flight, at most max_probes
        self._successes = 0  # of probes, in a row

    @property
    def settings(self) -> plans.Breaker:
        return self._settings

    def configure(self, settings: plans.Breaker) -> None:
        """Other settings, the same state: counts, an open period and probes under way stay."""
        if settings.window_s != self._settings.window_s:
            self._calls = self._calls.resized(settings.window_s)
            self._failures = self._failures.resized(settings.window_s)
        self._settings = settings

    # --- may a call pass?

    def peek(self, now: float) -> float | None:
        """None: a call may pass now. Else the seconds after which it is worth asking again. Takes no permit."""
        self._advance(now)
        return self._blocked_for(now)

    def acquire(self, now: float, within_s: float = 0.0) -> Permit | Rejected:
        """A permit for one attempt, or a rejection.

        ``within_s`` is the time limit of the attempt: a probe is given up for lost after ``half_open_max_wait_s`` or
        ``within_s``, whichever is longer, so that a tool slower than the former can still prove itself well."""
        self._advance(now)
        blocked_s = self._blocked_for(now)
        if blocked_s is not None:
            return Rejected(blocked_s, self.state)
        if self.state is not State.HALF_OPEN or not self._settings.enabled:
            return Permit(self.generation)
        permit = Permit(self.generation, now + max(self._settings.half_open_max_wait_s, within_s))
        self._probes.add(permit)
        return permit

    def _blocked_for(self, now: float) -> float | None:
        if self.state is State.FORCED_OPEN:
            return self._settings.open_for_s
        if not self._settings.enabled:
            return None
        if self.state is State.OPEN:
            return self._open_until - now
        if self.state is State.HALF_OPEN and len(self._probes) >= self._settings.max_probes:
            return PROBE_HINT_S
        return None

    # --- what became of it

    def record(self, permit: Permit, now: float, verdict: Verdict) -> None:
        """Give the permit back with what became of its attempt. Another generation's report changes nothing."""
        self._advance(now)
        if permit.recorded:
            return
        permit.recorded = True
        self._probes.discard(permit)
        if permit.generation != self.generation or verdict is Verdict.IGNORE or not self._settings.enabled:
            return
        if self.state is State.CLOSED:
            self._record_closed(now, verdict)
        elif self.state is State.HALF_OPEN:
            self._record_probe(now, verdict)

    def _record_closed(self, now: float, verdict: Verdict) -> None:
        self._calls.add(now)
        if verdict is Verdict.FAILURE:
            self._failures.add(now)
            self._streak += 1
        else:
            self._streak = 0
        if self._too_many_failures(now):
            self._apply(Event.TRIP, now)

    def _too_many_failures(self, now: float) -> bool:
        settings = self._settings
        if self._streak >= settings.consecutive_failures:
            return True
        failures = self._failures.at_most(now)
        calls = self._calls.at_most(now)
        return failures > 0 and calls >= settings.min_calls and failures >= settings.failure_ratio * calls

    def _record_probe(self, now: float, verdict: Verdict) -> None:
        if verdict is Verdict.FAILURE:
            self._apply(Event.PROBE_FAILED, now)
            return
        self._successes += 1
        if self._successes >= self._settings.success_threshold:
            self._apply(Event.PROBES_PASSED, now)

    # --- other events

    def probe_succeeded(self, now: float) -> None:
        """A health probe reached the upstream: real calls may try it. It never closes a breaker by itself, because
        a health page that answers says little about the tools behind it."""
        self._advance(now)
        self._apply(Event.RECOVER, now)

    def force_open(self, now: float) -> None:
        """A person's switch: nothing passes until ``hand_back``."""
        self._apply(Event.FORCE_OPEN, now)

    def disable(self, now: float) -> None:
        """A person's switch: everything passes and nothing is counted until ``hand_back``."""
        self._apply(Event.DISABLE, now)

    def hand_back(self, now: float) -> None:
        """The person's switch is lifted: closed, with nothing counted. No effect where no switch is set."""
        self._apply(Event.HAND_BACK, now)

    # --- the machine

    def _advance(self, now: float) -> None:
        """Everything that the passing of time did, each at the moment it fell due, as if a timer had run."""
        if self.state is State.CLOSED:
            return
        while True:
            if self.state is State.OPEN and now >= self._open_until:
                self._apply(Event.RECOVER, self._open_until)
            lost_at = self._probe_lost_at()
            if lost_at is None or now < lost_at:
                return
            self._apply(Event.PROBE_FAILED, lost_at)

    def _probe_lost_at(self) -> float | None:
        """When the first probe in flight counts as lost. A half-open breaker without a probe in flight needs no such
        moment: the next call is its probe."""
        if self.state is not State.HALF_OPEN or not self._probes:
            return None
        return min(permit.expires for permit in self._probes if permit.expires is not None)

    def _apply(self, event: Event, now: float) -> None:
        old = self.state
        new = TRANSITIONS.get((old, event))
        if new is None:
            return
        self.state = new
        self.generation += 1
        self._probes.clear()
        self._successes = 0
        if new is State.OPEN:
            self._times_opened += 1
            self._open_until = now + self._open_period_s()
        elif new is not State.HALF_OPEN:
            self._calls.clear()
            self._failures.clear()
            self._streak = 0
            self._times_opened = 0
        if self._on_transition is not None:
            self._on_transition(old, new)

    def _open_period_s(self) -> float:
        """Twice as long each time it opens without having closed, with jitter, at most ``open_for_max_s``."""
        doublings = min(self._times_opened - 1, MAX_DOUBLINGS)
        period_s = self._settings.open_for_s * 2.0**doublings
        jitter = 1.0 + OPEN_JITTER * (2.0 * self._rng() - 1.0)
        return min(self._settings.open_for_max_s, period_s * jitter)

    def snapshot(self, now: float) -> dict[str, Any]:
        """What people and metrics see; JSON types only. ``retry_after_s`` is null where calls pass."""
        blocked_s = self.peek(now)
        return {
            "state": self.state.value,
            "enabled": self._settings.enabled,
            "generation": self.generation,
            "calls": self._calls.at_most(now),
            "failures": self._failures.at_most(now),
            "consecutive_failures": self._streak,
            "times_opened": self._times_opened,
            "probes_in_flight": len(self._probes),
            "retry_after_s": None if blocked_s is None else round(blocked_s, 3),
        }

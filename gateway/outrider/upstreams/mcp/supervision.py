"""When a child may be started: states as a table, and the backoff after crashes. Pure; takes ``now``.

The first crash of a child that did well for a while costs no wait: it is started again with the next call. From the
second on the wait doubles, from 10 s to 5 minutes, until one does well for ``GOOD_S``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

FIRST_WAIT_S = 10.0
LONGEST_WAIT_S = 300.0
GOOD_S = 600.0
"""A child that was up for so long did well: what came before is forgotten."""


class State(StrEnum):
    IDLE = "idle"  # none runs; one may be started
    STARTING = "starting"  # a process is there, and has not answered yet
    UP = "up"
    WAITING = "waiting"  # it crashed; not before the wait is over
    CLOSED = "closed"  # the upstream is not used any more


class Event(StrEnum):
    START = "start"
    READY = "ready"  # it answered
    GONE = "gone"  # it ended, or had to be ended
    WAITED = "waited"  # the wait is over
    CLOSE = "close"


NEXT: Mapping[tuple[State, Event], State] = {
    (State.IDLE, Event.START): State.STARTING,
    (State.STARTING, Event.READY): State.UP,
    (State.STARTING, Event.GONE): State.WAITING,
    (State.UP, Event.GONE): State.WAITING,
    (State.WAITING, Event.WAITED): State.IDLE,
    (State.CLOSED, Event.GONE): State.CLOSED,
} | {(state, Event.CLOSE): State.CLOSED for state in State}
"""What is not here does not happen."""


def wait_s(crashes: int) -> float:
    """How long is waited after so many crashes in a row."""
    return 0.0 if crashes < 2 else min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(crashes - 2, 30))


@dataclass(slots=True)
class Supervision:
    """Of one child. Times are monotonic seconds."""

    state: State = State.IDLE
    crashes: int = 0  # in a row
    starts: int = 0
    until: float = 0.0  # WAITING ends then
    up_since: float = 0.0

    def left_s(self, now: float) -> float:
        """How long it is until one may be started; 0 where one may be, or runs."""
        return max(0.0, self.until - now) if self.state is State.WAITING else 0.0

    def start(self, now: float) -> None:
        """A process is started now. Only where ``left_s`` is 0 and none runs."""
        if self.state is State.WAITING and now >= self.until:
            self._go(Event.WAITED)
        self._go(Event.START)
        self.starts += 1

    def ready(self, now: float) -> None:
        """It answered."""
        self._go(Event.READY)
        self.up_since = now

    def gone(self, now: float) -> None:
        """It is not there any more, and nobody wanted that."""
        if self.state is State.UP and now - self.up_since >= GOOD_S:
            self.crashes = 0
        self._go(Event.GONE)
        if self.state is State.WAITING:
            self.crashes += 1
            self.until = now + wait_s(self.crashes)

    def close(self) -> None:
        """None is started any more."""
        self._go(Event.CLOSE)

    def _go(self, event: Event) -> None:
        following = NEXT.get((self.state, event))
        if following is None:
            raise ValueError(f"a child that is {self.state} cannot {event}")
        self.state = following

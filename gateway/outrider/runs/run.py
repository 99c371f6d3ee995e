"""One run: what it did so far. Nothing here decides; see ``verdicts``.

Ids of runs are chosen by callers, so a run is known by its id *and* by who answers for it: whose credential, and over
HTTP, where one credential may serve many agents, the agent's name too. Another's run of the same id is another run: it
neither spends this one's calls nor pauses it. In one process, agents of many names share a run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from outrider import clock
from outrider.calls import Call, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.policy.run_guards import RunGuards, RunPolicy

MAX_AGENTS = 20
"""How many agents of one run are named."""

NOT_ITS_FAULT = frozenset({Code.KILLED, Code.CANCELLED, Code.DRAINING})
"""Ends of calls that say nothing about whether a run gets anywhere."""

Owner = tuple[str, str]
"""Whose credential, and the agent's name where the call came over HTTP."""
Key = tuple[str, str, str]
"""Owner and id."""


def key_of(call: Call) -> Key:
    principal = call.principal
    return (principal.holder or principal.name, "" if call.origin else call.agent.name, call.run)


class State(StrEnum):
    """What people see. ``killed`` is the kill board's word, not kept here."""

    RUNNING = "running"  # calls are under way
    IDLE = "idle"  # none is; whether another comes nobody can know
    LIMITED = "limited"  # a limit of the policy is reached: calls are refused
    PAUSED = "paused"  # it ran away: calls are refused until a person resumes it
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Pause:
    """Why and since when (seconds since the epoch) a run is paused."""

    why: str
    since: float


class Run:
    """One run. ``*_wall`` are seconds since the epoch, ``began`` monotonic seconds. ``counted_*`` and ``began`` are
    what the limits look at: a person who resumes the run sets them back; ``calls`` and the like are for people."""

    __slots__ = (
        "agents", "began", "calls", "counted_calls", "counted_retries", "failed", "failed_in_row", "first_wall",
        "guards", "held_to", "in_flight", "key", "last_like", "last_wall", "like_in_row", "observed", "paused",
        "pausing", "refusals", "refused", "refused_at", "resumes", "retries", "root", "told",
    )  # fmt: skip

    def __init__(self, key: Key, root: str, *, now: float, wall: float) -> None:
        self.key = key
        self.root = root  # the agent that made its first call
        self.agents: dict[str, None] = {root: None}
        self.first_wall = self.last_wall = wall
        self.calls = self.retries = self.failed = self.refused = self.in_flight = 0
        self.guards: RunGuards | None = None
        self.held_to: RunPolicy | None = None  # what of the policy ``guards`` and ``observed`` are of
        self.observed = False  # only watched: nothing is refused, cut short or paused
        self.resumes = 0
        self.paused: Pause | None = None
        self.pausing: asyncio.Future[int] | None = None  # its pause on its way to the disk
        self.count_anew(now)

    def count_anew(self, now: float) -> None:
        """From here on the limits count."""
        self.began = now
        self.counted_calls = self.counted_retries = 0
        self.last_like = b""
        self.like_in_row = self.failed_in_row = 0
        self.refusals = 0  # by the watch for runaways, since a call last succeeded
        self.refused_at: float | None = None
        self.told: set[str] = set()  # limits whose reaching is in the ledger

    def hold_to(self, policy: RunPolicy, *, observed: bool) -> None:
        """From here on by this policy. What no policy watched was not compared: a row begins anew."""
        self.held_to, self.guards, self.observed = policy, policy.of(self.root), observed
        self.last_like = b""
        self.like_in_row = 0
        self.told.clear()

    @property
    def id(self) -> str:
        return self.key[2]

    @property
    def owner(self) -> Owner:
        return self.key[:2]

    def admit(self, agent: str, like: bytes) -> None:
        """One of its calls goes on. ``like`` is what equal calls have in common; empty: not watched."""
        self.calls += 1
        self.counted_calls += 1
        self.in_flight += 1
        if agent not in self.agents and len(self.agents) < MAX_AGENTS:
            self.agents[agent] = None
        if like:
            self.like_in_row = self.like_in_row + 1 if like == self.last_like else 1
            self.last_like = like

    def ended(self, outcome: Outcome | None) -> None:
        """A call that was admitted ended; None: by a fault of ours."""
        self.in_flight -= 1
        if outcome is None or outcome.kind is OutcomeKind.SUSPENDED or outcome.code in NOT_ITS_FAULT:
            return
        if outcome.ok:
            self.failed_in_row = self.refusals = 0
            return
        self.failed += 1
        self.failed_in_row += 1

    def retried(self) -> None:
        self.retries += 1
        self.counted_retries += 1

    def not_retried(self) -> None:
        """A retry that was counted did not begin."""
        self.retries -= 1
        self.counted_retries -= 1

    @property
    def guarded(self) -> bool:
        """Whether there is anything to ask before a call of it."""
        return self.guards is not None or self.paused is not None

    @property
    def ends_at(self) -> float | None:
        """Monotonic seconds at which its time is over, by the policy."""
        guards = self.guards
        return None if guards is None or guards.max_duration_s is None else self.began + guards.max_duration_s

    @property
    def stops_at(self) -> float | None:
        """Monotonic seconds at which its calls under way are ended."""
        return None if self.observed else self.ends_at

    @property
    def spent(self) -> str:
        """The limit that it has reached, as the policy spells it."""
        guards = self.guards
        if guards is None:
            return ""
        if guards.max_calls is not None and self.counted_calls >= guards.max_calls:
            return "maxCalls"
        ends_at = self.ends_at
        return "maxDuration" if ends_at is not None and clock.monotonic() >= ends_at else ""

    @property
    def state(self) -> State:
        if self.paused is not None:
            return State.PAUSED
        if self.spent and not self.observed:
            return State.LIMITED
        return State.RUNNING if self.in_flight else State.IDLE

    def mark(self) -> dict[str, Any]:
        """What a restart needs to go on counting; beside the records of its calls, where it is limited."""
        began_wall = clock.wall() - (clock.monotonic() - self.began)
        return {
            "id": self.id,
            "of": list(self.owner),
            "root": self.root,
            "began": round(began_wall, 3),
            "calls": self.counted_calls,
            "retries": self.counted_retries,
            "resumes": self.resumes,
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            "run": self.id,
            "state": self.state.value,
            "why": self.paused.why if self.paused is not None else self.spent,
            "agent": self.root,
            "agents": list(self.agents),
            "owner": self.key[0],
            "calls": self.calls,
            "retries": self.retries,
            "failures": self.failed,
            "refused": self.refused,
            "in_flight": self.in_flight,
            "counted": {"calls": self.counted_calls, "retries": self.counted_retries, "resumes": self.resumes},
            "limits": None if self.guards is None else self.guards.as_dict(),
            "first_call": clock.stamp(self.first_wall),
            "last_call": clock.stamp(self.last_wall),
        }

"""What people command of an agent: one word, a table of how it changes, and who said it, why and when. Pure.

A word never loosens another: cordoned < paused < draining < retired, and from one to the next goes only upward. What
loosens is a lift of its own (uncordon, resume), and only a person lifts. ``killed`` is not among the words: whether an
agent is killed is asked of the kill board.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from outrider import clock
from outrider.errors import Code, Refused

MAX_TEXT = 500
AUTOMATION = "outrider"
"""Who commands when no person does."""


class State(StrEnum):
    OPEN = "open"
    CORDONED = "cordoned"  # no new runs; those under way go on
    PAUSED = "paused"  # calls wait
    DRAINING = "draining"  # nothing new; what is in flight ends, or is ended
    RETIRED = "retired"  # refused for good


class Command(StrEnum):
    CORDON = "cordon"
    UNCORDON = "uncordon"
    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    RETIRE = "retire"


NEXT: Mapping[tuple[State, Command], State] = {
    (State.OPEN, Command.CORDON): State.CORDONED,
    (State.OPEN, Command.PAUSE): State.PAUSED,
    (State.OPEN, Command.DRAIN): State.DRAINING,
    (State.OPEN, Command.RETIRE): State.RETIRED,
    (State.CORDONED, Command.CORDON): State.CORDONED,
    (State.CORDONED, Command.UNCORDON): State.OPEN,
    (State.CORDONED, Command.PAUSE): State.PAUSED,
    (State.CORDONED, Command.DRAIN): State.DRAINING,
    (State.CORDONED, Command.RETIRE): State.RETIRED,
    (State.PAUSED, Command.PAUSE): State.PAUSED,
    (State.PAUSED, Command.RESUME): State.OPEN,  # or what it was before: a cordon outlives a pause
    (State.PAUSED, Command.DRAIN): State.DRAINING,
    (State.PAUSED, Command.RETIRE): State.RETIRED,
    (State.DRAINING, Command.DRAIN): State.DRAINING,
    (State.DRAINING, Command.UNCORDON): State.OPEN,
    (State.DRAINING, Command.RETIRE): State.RETIRED,
    (State.RETIRED, Command.RETIRE): State.RETIRED,
}
"""What is not here is refused."""

LIFTS = frozenset({Command.UNCORDON, Command.RESUME})
INSTEAD: Mapping[State, str] = {
    State.OPEN: "Nothing holds it back.",
    State.CORDONED: "`outrider agents uncordon` opens it.",
    State.PAUSED: "`outrider agents resume` ends that first.",
    State.DRAINING: "Nothing new begins already; `outrider agents uncordon` opens it.",
    State.RETIRED: "That is for good; run the agent under another name.",
}


@dataclass(frozen=True, slots=True)
class Switch:
    """What was commanded, by whom, why and when. Times called ``_at`` are seconds since the epoch; ``deadline`` is
    monotonic. ``before`` is what a pause gives back. ``runs`` are those under way when it was cordoned."""

    agent: str
    state: State
    by: str
    why: str
    at: float
    automated: bool = False
    before: State = State.OPEN
    deadline: float | None = None
    deadline_at: float | None = None
    drained_at: float | None = None
    runs: tuple[str, ...] = ()
    durable: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For people and programs: what is not said is not there."""
        shown: dict[str, Any] = {
            "state": self.state.value,
            "by": self.by,
            "why": self.why,
            "since": clock.stamp(self.at),
            "automated": self.automated,
            "durable": self.durable,
        }
        if self.state is State.PAUSED:
            shown["before"] = self.before.value
        if self.state is State.DRAINING:
            shown["deadline"] = None if self.deadline_at is None else clock.stamp(self.deadline_at)
            shown["drained_at"] = None if self.drained_at is None else clock.stamp(self.drained_at)
        return shown


@dataclass(frozen=True, slots=True)
class Order:
    """One command as it was given. ``deadline_s`` is for drain."""

    agent: str
    command: Command
    why: str
    by: str
    deadline_s: float = 0.0
    runs: tuple[str, ...] = ()


def state_of(switch: Switch | None) -> State:
    return State.OPEN if switch is None else switch.state


def decide(switch: Switch | None, order: Order) -> Switch | None:
    """The switch after a person's order, None for open. Raises Refused: the table does not know the step."""
    state = state_of(switch)
    following = NEXT.get((state, order.command))
    if following is None:
        raise Refused(
            f"Agent '{order.agent}' is {state.value}, so it cannot be told to {order.command.value}. {INSTEAD[state]}",
            {"code": Code.CONFLICT.value},
        )
    if order.command is Command.RESUME:
        assert switch is not None
        return _given_back(switch)
    return None if following is State.OPEN else _new(switch, order, following)


def decide_by_itself(switch: Switch | None, order: Order) -> Switch | None:
    """The pause that automation asks for; None where any switch stands: it never overrides a person's."""
    if switch is not None:
        return None
    return replace(_new(None, order, State.PAUSED), automated=True)


def _given_back(switch: Switch) -> Switch | None:
    if switch.before is State.OPEN:
        return None
    return replace(switch, state=switch.before, before=State.OPEN, durable=False)


def _new(switch: Switch | None, order: Order, state: State) -> Switch:
    before = State.OPEN
    runs = order.runs if state is State.CORDONED else ()
    if switch is not None and switch.state is State.CORDONED:
        runs = switch.runs
        before = State.CORDONED if state is State.PAUSED else State.OPEN
    if switch is not None and switch.state is State.PAUSED and state is State.PAUSED:
        before, runs = switch.before, switch.runs
    draining = state is State.DRAINING
    return Switch(
        agent=order.agent,
        state=state,
        by=order.by.strip()[:MAX_TEXT] or "unknown",
        why=order.why.strip()[:MAX_TEXT] or "no reason given",
        at=clock.wall(),
        before=before,
        deadline=clock.monotonic() + order.deadline_s if draining else None,
        deadline_at=clock.wall() + order.deadline_s if draining else None,
        runs=runs,
    )

"""What came of the tasks: the numbers that the two passes are compared by, and nothing that was not measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from outrider.demo import tasks


class How(StrEnum):
    """How one task ended."""

    ANSWERED = "completed"
    GAVE_UP = "gave_up"  # the model was told that it failed, and said so
    CRASHED = "crashed"  # an exception of a tool ended the run
    STUCK = "stuck"  # no end came in time
    STOPPED = "stopped"  # a kill switch ended the run


HOW = {"answered": How.ANSWERED, "gave_up": How.GAVE_UP, "raised": How.CRASHED}
"""What an agent's process calls them."""
KILLED = "Killed"
"""The exception by which the adapters end a killed run."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one task ended, the agent's last words or the error, and how long it took in seconds."""

    task: str
    how: How
    text: str
    took_s: float

    @classmethod
    def of(cls, task: str, told: Mapping[str, Any], took_s: float) -> Ending:
        """What the agent's process told of it."""
        error = told.get("error", "")
        how = How.STOPPED if error == KILLED else HOW[told["how"]]
        return cls(task, how, f"{error}: {told['text']}" if error else told["text"], took_s)


@dataclass(frozen=True, slots=True)
class Pass:
    """What is known after one pass: the endings, the tool server's own counts, the in-process functions that ran."""

    endings: Mapping[str, Ending]
    counts: Mapping[str, Any]
    ran: tuple[str, ...]

    def how_many(self, how: How) -> int:
        return sum(self.endings[task.id].how is how for task in tasks.MEASURED)

    def executed(self, deed: str) -> int:
        """How often the tool server really did it."""
        return int(self.counts["executed"].get(deed, 0))

    @property
    def writes_repeated(self) -> int:
        """Side effects beyond the first of each."""
        return sum(max(0, self.executed(deed) - 1) for deed in tasks.WRITES)

    @property
    def writes_lost(self) -> int:
        """Side effects that were asked for and never happened."""
        return sum(self.executed(deed) == 0 for deed in tasks.WRITES)

    @property
    def sent_to_the_dead(self) -> int:
        """Requests that reached the stock service while it was dead."""
        return int(self.counts["refused_while_dead"])

    def in_process(self, function: str) -> int:
        """How often a function of an agent's process ran."""
        return Counter(self.ran)[function]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tasks": {"given": len(tasks.MEASURED), **{how.value: self.how_many(how) for how in How}},
            "writes_executed_twice": self.writes_repeated,
            "writes_lost": self.writes_lost,
            "customers_deleted": self.in_process("delete_customer"),
            "refunds": self.in_process("refund"),
            "requests_sent_to_the_dead_service": self.sent_to_the_dead,
        }


def times(count: int) -> str:
    """In words."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")

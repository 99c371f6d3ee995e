"""What every clerk is asked, and what its scripted model says, whatever the framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GAVE_UP = "I give up: "
DONE = "Done: "
"""With this begins what a function returns, and nothing else that a model is told."""


@dataclass(frozen=True, slots=True)
class Duty:
    """One run of a clerk. ``fault``: what is wrong with the function, for those who watch. An endless one goes through
    the numbers, whatever it is told. ``by_policy``: how often the function runs when the policy decides."""

    id: str
    prompt: str
    fault: str
    tool: str
    number: int = 1
    by_policy: int = 0
    endless: bool = False

    @property
    def title(self) -> str:
        """For the table."""
        return self.id.replace("_", " ")


PARCEL = Duty("fails_twice", "Where is parcel 5?", "it cannot connect twice, then it works", "find_parcel", 5, 3)
WEIGHT = Duty("never_works", "What does parcel 5 weigh?", "it can never connect", "weigh_parcel", 5, 3)
PAYMENT = Duty("answer_lost", "Pay back order 21.", "it pays, and its answer is lost", "pay_back", 21, 1)
REMINDERS = Duty("endless", "Remind the customers.", "the model never stops", "remind", endless=True)

COMPARED = (PARCEL, WEIGHT, PAYMENT)
"""What is done with and without Outrider."""
DUTIES = {duty.id: duty for duty in (*COMPARED, REMINDERS)}


class Script:
    """The model's part in one run: one call of the tool, and then its last word. It never repeats a failed call, so
    that every repetition is the framework's or the policy's."""

    def __init__(self, duty: Duty) -> None:
        self._duty = duty
        self._asked = 0

    def next(self, told: str) -> Mapping[str, Any] | str:
        """The arguments of the next call, or the last word. ``told``: what the model was told last."""
        self._asked += 1
        if self._asked == 1 or self._duty.endless:
            return {"number": self._duty.number + self._asked - 1}
        _, done, answer = told.partition(DONE)
        return answer if done else GAVE_UP + told.partition("\n")[0]  # the first line: CrewAI adds how to go on

"""What a case brings home: figures, each with its target where the project set one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.bench.rounds import Rounds


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. ``limit`` None: reported, without a target."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    bound: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value <= self.limit if self.bound == "at most" else self.value >= self.limit


@dataclass(slots=True)
class Findings:
    """The figures of one case, what the reader must know of them, and every round they were made from.

    ``others`` is the largest share of the machine that other programs used during the rounds that count."""

    case: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounds: dict[str, Any] = field(default_factory=dict)
    others: float = 0.0
    took_s: float = 0.0

    def add(self, what: str, value: float, unit: str) -> None:
        self.figures.append(Figure(what, value, unit))

    def at_most(self, what: str, value: float, unit: str, limit: float) -> None:
        self.figures.append(Figure(what, value, unit, limit, "at most"))

    def at_least(self, what: str, value: float, unit: str, limit: float) -> None:
        self.figures.append(Figure(what, value, unit, limit, "at least"))

    def keep(self, name: str, rounds: Rounds) -> None:
        """The rounds themselves, for the JSON."""
        self.rounds[name] = rounds.raw()
        self.others = max(self.others, rounds.noise)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. ``factor`` scales calls for each round; ``events`` is the size of the large ledger."""

    rounds: int
    factor: float
    events: int
    starts: int
    rss_calls: int

    def calls(self, full: int) -> int:
        """So many, at least 64."""
        return max(64, int(full * self.factor))

    def with_rounds(self, rounds: int) -> Effort:
        return replace(self, rounds=rounds)


FULL = Effort(rounds=24, factor=1.0, events=1_000_000, starts=7, rss_calls=10_000)
QUICK = Effort(rounds=3, factor=0.2, events=20_000, starts=2, rss_calls=1_000)
SMOKE = Effort(rounds=1, factor=0.02, events=2_000, starts=1, rss_calls=64)
"""For the test that the bench works at all; its figures mean nothing."""

Case = Callable[[Path, Effort], Findings]

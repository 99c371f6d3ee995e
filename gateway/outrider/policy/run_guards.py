"""What a policy allows one run, merged for the agent that began it. Durations are seconds; None: not limited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from outrider.policy.patterns import PatternIndex, matches

MERGED_CACHE = 4096
"""Agents whose guards are kept merged. Names come from callers; the rest are merged again when asked for."""


@dataclass(frozen=True, slots=True)
class RunGuards:
    """``same_call`` and ``failures`` are in a row; ``refusals`` by them, with no success in between, pause the run
    where ``action`` says so. Tools that match ``exempt`` are not counted as the same call."""

    max_calls: int | None = None
    max_retries: int | None = None
    max_duration_s: float | None = None
    same_call: int | None = None
    failures: int | None = None
    exempt: tuple[str, ...] = ()
    action: Literal["refuse", "pause"] = "pause"
    refusals: int = 3

    @property
    def limits(self) -> bool:
        """Whether anything is limited or watched at all."""
        watched = (self.max_calls, self.max_retries, self.max_duration_s, self.same_call, self.failures)
        return any(value is not None for value in watched)

    def exempts(self, tool: str) -> bool:
        return any(matches(pattern, tool) for pattern in self.exempt)

    def as_dict(self) -> dict[str, Any]:
        """JSON, without what is not said."""
        return {name: value for name, value in asdict(self).items() if value is not None}


Said = Mapping[str, Any]
"""Fields of ``RunGuards`` that one entry sets."""


@dataclass(frozen=True, slots=True)
class Override:
    """What one pattern of agents sets, with ``file:line``."""

    pattern: str
    said: Said
    source: str = ""


class RunPolicy:
    """The section ``runs``: what it says for everyone, and the overrides for some agents' runs."""

    def __init__(self, said: Said | None = None, overrides: tuple[Override, ...] = ()) -> None:
        self.common = RunGuards(**(said or {}))
        self.overrides = overrides
        self._said = said or {}
        self._index: PatternIndex[Override] = PatternIndex()
        for override in overrides:
            self._index.add(override.pattern, override)
        self.of = lru_cache(maxsize=MERGED_CACHE)(self._merged)

    def _merged(self, agent: str) -> RunGuards | None:
        """What the runs that ``agent`` began are held to; None where nothing is."""
        together = dict(self._said)
        for override in self._index.find(agent):
            together.update(override.said)
        guards = RunGuards(**together)
        return guards if guards.limits else None

    def as_dict(self) -> dict[str, Any] | None:
        """JSON for people; None where the policy says nothing of runs."""
        if not self._said and not self.overrides:
            return None
        rows = [{"agents": one.pattern, **dict(one.said), "source": one.source} for one in self.overrides]
        return {**self.common.as_dict(), "overrides": rows}

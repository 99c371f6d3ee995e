"""Interleaved rounds, and what is read out of them.

Every subject is measured once in each round, in turning order (A B B A …), so that the noise of a shared machine hits
all of them alike. Figures are medians over rounds; a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.processes import Broken, Child


@dataclass(frozen=True, slots=True)
class Sample:
    """One subject in one round. ``cpu_us``: what its process used for each call."""

    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    calls_per_s: float
    cpu_us: float = 0.0


Measure = Callable[[], Sample]


def sample(answer: Mapping[str, Any], cpu_s: float) -> Sample:
    """The answer of a client or agent. Raises Broken when any call of it went wrong."""
    if answer["wrong"]:
        raise Broken(f"{answer['wrong']} of {answer['calls']} answers are not 200; the last one:\n{answer['sample']}")
    calls = int(answer["calls"])
    rest = (answer[name] for name in ("p50_ms", "p90_ms", "p99_ms", "calls_per_s"))
    return Sample(calls, *rest, cpu_us=cpu_s / calls * 1e6)


def measured(ask: Callable[[], Mapping[str, Any]], subject: Child) -> Sample:
    """Have something asked, and see what the subject's process used meanwhile."""
    before = subject.cpu_s()
    answer = ask()
    return sample(answer, subject.cpu_s() - before)


class Rounds:
    """The samples of some subjects, by name."""

    def __init__(self, samples: Mapping[str, list[Sample]]) -> None:
        self._samples = samples

    def median(self, name: str, field: str) -> float:
        """Over the rounds. CPU is pooled: it is counted in steps of 10 ms, and many small roundings do not average
        out in a median."""
        samples = self._samples[name]
        if field == "cpu_us":
            return sum(one.cpu_us * one.calls for one in samples) / sum(one.calls for one in samples)
        return statistics.median(getattr(one, field) for one in samples)

    def ratio(self, name: str, base: str, field: str) -> float:
        """How many times the base's."""
        if field == "cpu_us":
            return self.median(name, field) / max(0.001, self.median(base, field))
        return statistics.median(self.ratios(name, base, field))

    def ratios(self, name: str, base: str, field: str) -> list[float]:
        """Each round's own."""
        pairs = zip(self._samples[name], self._samples[base], strict=True)
        return [getattr(one, field) / getattr(other, field) for one, other in pairs]

    def raw(self) -> dict[str, list[dict[str, Any]]]:
        return {name: [asdict(one) for one in samples] for name, samples in self._samples.items()}


def interleaved(subjects: Mapping[str, Measure], rounds: int) -> Rounds:
    """One round more than asked for: the first one warms, and is thrown away."""
    samples: dict[str, list[Sample]] = {name: [] for name in subjects}
    for number in range(-1, rounds):
        order = list(subjects) if number % 2 == 0 else list(reversed(subjects))
        for name in order:
            found = subjects[name]()
            if number >= 0:
                samples[name].append(found)
    return Rounds(samples)

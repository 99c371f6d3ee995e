"""Interleaved rounds, and what is read out of them.

Every subject is measured once in each round, in turning order (A B B A …), so that the noise of a shared machine hits
all of them alike. The quietest third of the rounds counts: those during which other programs used least of the machine,
whatever the figures were. A figure is the median over these; a ratio is the median of these rounds' own ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.processes import Broken, Child, Noise


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
    """The samples of some subjects by name, one for each round. ``others``: by what share of the machine other programs
    disturbed each round."""

    def __init__(self, samples: Mapping[str, Sequence[Sample]], others: Sequence[float]) -> None:
        self._samples = samples
        self._others = others
        quietest = sorted(range(len(others)), key=others.__getitem__)
        self.kept = tuple(sorted(quietest[: max(1, -(-len(others) // 3))]))

    @property
    def noise(self) -> float:
        """Of the rounds that count."""
        return statistics.mean(self._others[number] for number in self.kept)

    def of(self, name: str) -> list[Sample]:
        """The samples that count."""
        return [self._samples[name][number] for number in self.kept]

    def median(self, name: str, field: str) -> float:
        return statistics.median(getattr(one, field) for one in self.of(name))

    def ratio(self, name: str, base: str, field: str) -> float:
        """How many times the base's."""
        pairs = zip(self.of(name), self.of(base), strict=True)
        return statistics.median(getattr(one, field) / max(1e-9, getattr(other, field)) for one, other in pairs)

    def difference(self, name: str, base: str, field: str) -> float:
        """How much more than the base's."""
        pairs = zip(self.of(name), self.of(base), strict=True)
        return statistics.median(getattr(one, field) - getattr(other, field) for one, other in pairs)

    def raw(self) -> dict[str, Any]:
        """Every round, for the JSON."""
        samples = {name: [asdict(one) for one in samples] for name, samples in self._samples.items()}
        return {"others": [round(share, 3) for share in self._others], "kept": self.kept, "samples": samples}


def interleaved(subjects: Mapping[str, Measure], rounds: int, noise: Noise) -> Rounds:
    """One round more than asked for: the first one warms, and is thrown away."""
    samples: dict[str, list[Sample]] = {name: [] for name in subjects}
    others: list[float] = []
    for number in range(-1, rounds):
        order = list(subjects) if number % 2 == 0 else list(reversed(subjects))
        noise.restart()
        found = {name: subjects[name]() for name in order}
        if number < 0:
            continue
        others.append(noise.share())
        for name, one in found.items():
            samples[name].append(one)
    return Rounds(samples, others)

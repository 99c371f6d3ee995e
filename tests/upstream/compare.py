"""What the two rounds of a suite say together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tests.upstream.rounds import Round
from tests.upstream.suites import Suite

ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that the adapter made end otherwise."""

    test: str
    without: str
    through: str
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One suite's result. ``faults`` is empty when the adapter changed nothing and saw enough."""

    suite: Suite
    version: str
    without: Round
    through: Round

    @property
    def differences(self) -> list[Difference]:
        names = sorted({*self.without.tests, *self.through.tests})
        pairs = ((name, self.without.tests.get(name, ABSENT), self.through.tests.get(name, ABSENT)) for name in names)
        return [
            Difference(name, before, after, self.through.why.get(name, "") or self.without.why.get(name, ""))
            for name, before, after in pairs
            if before != after
        ]

    @property
    def faults(self) -> list[str]:
        return list(self._faults())

    def _faults(self) -> Iterator[str]:
        suite, seen = self.suite, self.through.seen
        if self.differences:
            yield f"{len(self.differences)} tests end otherwise with the adapter"
        if len(self.without.tests) < suite.least_tests:
            yield f"{len(self.without.tests)} tests ran; {suite.least_tests} are known"
        if seen.calls < suite.least_calls:
            yield f"the gateway saw {seen.calls} calls; {suite.least_calls} are known to be made"
        if self.without.adapters or self.through.adapters != (suite.adapter,):
            yield f"adapters loaded: {self.without.adapters} without, {self.through.adapters} with"
        if (beside := sum(self.through.direct.values())) > suite.direct:
            yield f"{beside} tool bodies ran outside of every governed call: {dict(self.through.direct)}"
        if seen.refusals:
            yield f"a policy that allows everything refused: {dict(seen.refusals)}"
        if seen.attempts > seen.calls:
            yield f"{seen.attempts} attempts of {seen.calls} calls, where nothing is repeated"
        if not seen.intact:
            yield "the ledger does not verify"

    def as_json(self) -> Mapping[str, Any]:
        suite = self.suite
        return {
            "package": suite.package,
            "version": self.version,
            "adapter": suite.adapter,
            "without": _numbers(self.without),
            "through": _numbers(self.through),
            "seen": asdict(self.through.seen),
            "known": {"tests": suite.least_tests, "calls": suite.least_calls, "direct": suite.direct},
            "differences": [asdict(one) for one in self.differences],
            "failing": sorted(self.without.failing),
            "faults": self.faults,
        }


def _numbers(one: Round) -> dict[str, Any]:
    counts = {outcome: one.count(outcome) for outcome in ("passed", "failed", "skipped")}
    bodies = {"governed": sum(one.governed.values()), "direct": sum(one.direct.values())}
    return {"tests": len(one.tests), **counts, "bodies": bodies, "seconds": round(one.seconds, 1)}

"""What the ledger says of one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENDS = frozenset({"call.finished", "call.refused"})


@dataclass(frozen=True, slots=True)
class Story:
    """The records of one call, oldest first."""

    records: Sequence[dict[str, Any]]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["type"] == kind]

    @property
    def call_id(self) -> str:
        return str(self.records[0]["call_id"])

    @property
    def received(self) -> dict[str, Any]:
        (record,) = self.of_type("call.received")
        return record

    @property
    def ended(self) -> bool:
        return any(record["type"] in ENDS for record in self.records)

    @property
    def end(self) -> dict[str, Any]:
        """The one end. Fails where there are two."""
        (record,) = [record for record in self.records if record["type"] in ENDS]
        return record

    @property
    def refused(self) -> bool:
        """It ended without an attempt."""
        return bool(self.end["type"] == "call.refused")

    @property
    def outcome(self) -> str:
        return str(self.end.get("outcome", ""))

    @property
    def code(self) -> str:
        return str(self.end.get("code", ""))

    @property
    def result(self) -> Any:
        """The result, or the view of it, that is kept with the end."""
        return self.end.get("result")

    @property
    def started(self) -> int:
        """How many attempts were started."""
        return len(self.of_type("attempt.started"))

    @property
    def attempts(self) -> list[str]:
        """The attempts' outcomes, in order. Fails where one has two ends."""
        ends = sorted(self.of_type("attempt.finished"), key=lambda record: int(record["attempt"]))
        numbers = [record["attempt"] for record in ends]
        assert len(set(numbers)) == len(numbers), f"an attempt ended twice: {ends}"
        return [str(record["outcome"]) for record in ends]

    @property
    def settled(self) -> list[str]:
        """What became known later."""
        return [str(record["outcome"]) for record in self.records if record["type"].endswith(".settled")]

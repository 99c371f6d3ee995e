"""Many agents do the same at once: one line for each call, when it ends, with a mark for each of its attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from outrider.demo.narrator import CallLine, attempt_mark, failure

Record = Mapping[str, Any]


@dataclass(slots=True)
class _Call:
    marks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Chorus:
    """Remembers the calls under way. ``hear`` returns the line of a call that ended."""

    _calls: dict[str, _Call] = field(default_factory=dict)

    def hear(self, record: Record) -> CallLine | None:
        """One record, in the ledger's order."""
        call = self._calls.setdefault(record.get("call_id", ""), _Call())
        match record["type"]:
            case "attempt.finished":
                call.marks.append(attempt_mark(record))
                if record["outcome"] != "ok":
                    call.failures.append(failure(record))
            case "call.finished" | "call.refused":
                return CallLine(record["agent"]["name"], record["tool"], tuple(call.marks), _words(record, call))
        return None


def _words(record: Record, call: _Call) -> str:
    """What became of the call."""
    if record["outcome"] == "ok":
        return "answered"
    code = record.get("code", "")
    if code == "killed":
        return "stopped by the kill switch"
    if code == "outcome_unknown":
        return "may have run, so it is not repeated"
    why = call.failures[-1] if call.failures else record.get("detail", code)
    return f"{why}; the model is told"

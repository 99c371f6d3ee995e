"""Turns the ledger's records, as they come, into lines that a person can follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened. ``mark``: good, bad, stop, aside."""

    agent: str
    tool: str
    mark: str
    text: str


@dataclass(frozen=True, slots=True)
class CallLine:
    """A whole call in one line. ``marks``: one for each attempt."""

    agent: str
    tool: str
    marks: tuple[str, ...]
    text: str


class Teller(Protocol):
    """Makes lines of records."""

    def hear(self, record: Record) -> Line | CallLine | None:
        """One record, in the ledger's order; most often there is nothing to show."""


@dataclass(slots=True)
class _Call:
    """What is known of a call under way."""

    agent: str
    tool: str
    attempts: int = 0  # of the tool itself, not of a fallback
    ended: float | None = None


FAILURES = {
    "reset": "the connection broke, no answer",
    "connect": "could not connect",
    "not_started": "did not begin in time",
    "agent_gone": "the agent's process is gone",
    "protocol": "the answer was not whole",
}


@dataclass(slots=True)
class Narrator:
    """Remembers the calls under way. ``hear`` returns what there is to show, most often nothing."""

    _calls: dict[str, _Call] = field(default_factory=dict)

    def hear(self, record: Record) -> Line | None:
        """One record, in the ledger's order."""
        teller = _TELLERS.get(record["type"])
        return None if teller is None else teller(self, record)

    def _received(self, record: Record) -> Line | None:
        self._calls[record["call_id"]] = _Call(_agent(record), record["tool"])
        return None

    def _attempt_finished(self, record: Record) -> Line | None:
        call = self._calls.get(record["call_id"])
        if call is None or record["tool"] != call.tool:
            return None  # a fallback's attempt: the call's end tells of it
        call.attempts += 1
        paused = _pause(call, record)
        call.ended = _seconds(record["ts"])
        number = f"attempt {call.attempts}{paused}: "
        texts = {"good": "answered", "stop": "interrupted", "bad": failure(record)}
        mark = attempt_mark(record)
        return Line(call.agent, call.tool, mark, number + texts[mark])

    def _finished(self, record: Record) -> Line | None:
        call = self._calls.pop(record["call_id"], None)
        if call is None:
            return None
        if record["outcome"] == "ok":
            return _degraded(call, record)
        mark, text = _END_TEXTS.get(record.get("code", ""), ("bad", record.get("detail", "")))
        return Line(call.agent, call.tool, mark, text)

    def _refused(self, record: Record) -> Line | None:
        call = self._calls.pop(record["call_id"], None) or _Call(_agent(record), record.get("tool", ""))
        code = record.get("code", "")
        if code == "denied":
            return Line(call.agent, call.tool, "stop", f"denied by the rule '{record.get('rule', '')}'; nothing ran")
        return Line(call.agent, call.tool, "stop", _REFUSAL_TEXTS.get(code, f"refused: {record.get('detail', '')}"))

    def _attempt_settled(self, record: Record) -> Line:
        word = "it had run" if record["outcome"] == "ok" else record["outcome"].replace("_", " ")
        return Line("", "", "aside", f"the ledger learnt later what became of the interrupted call: {word}")

    def _settled(self, record: Record) -> Line:
        data = record.get("data", {})
        return Line("", "", "aside", f"a person settled it: {data.get('as', '')} ({data.get('reason', '')})")


_TELLERS = {
    "call.received": Narrator._received,
    "attempt.finished": Narrator._attempt_finished,
    "attempt.settled": Narrator._attempt_settled,
    "call.finished": Narrator._finished,
    "call.refused": Narrator._refused,
    "call.settled": Narrator._settled,
}

_END_TEXTS = {
    "outcome_unknown": ("bad", "it may have run, so it is not sent again; the model is told"),
    "killed": ("stop", "stopped by the kill switch; the agent's run ends here"),
}
_REFUSAL_TEXTS = {
    "prior_outcome_unknown": "the model tries again and is refused: the same call may have run",
    "killed": "refused: the kill switch is engaged",
}


def _agent(record: Record) -> str:
    return str(record.get("agent", {}).get("name", ""))


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _pause(call: _Call, record: Record) -> str:
    """How long after the attempt before this one began."""
    if call.ended is None:
        return ""
    began = _seconds(record["ts"]) - record.get("timing", {}).get("took_ms", 0.0) / 1000
    return f", {max(0.0, began - call.ended):.2f} s later"


def attempt_mark(record: Record) -> str:
    """How an attempt went."""
    if record["outcome"] == "ok":
        return "good"
    return "stop" if record.get("failure") == "stopped" else "bad"


def failure(record: Record) -> str:
    """Why an attempt failed, in words."""
    if record.get("failure") == "status":
        return f"HTTP {record.get('status')}"
    return FAILURES.get(record.get("failure", ""), str(record.get("detail", "")))


def _degraded(call: _Call, record: Record) -> Line | None:
    instead = record.get("data", {}).get("degraded_by")
    if not instead:
        return None
    why = "" if call.attempts else "breaker open, nothing sent; "
    return Line(call.agent, call.tool, "aside", f"{why}{instead} answers instead")

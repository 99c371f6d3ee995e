"""The frameworks compared: the figures, the claims that are made of them, the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.demo.clerks.duties import COMPARED, PARCEL, PAYMENT, REMINDERS, WEIGHT, Duty
from outrider.demo.clerks.office import FRAMEWORKS, Figures
from outrider.demo.measure import How

SCOPE = "agent:clerk_*"
LABELS = {
    "clerk_langgraph": "LangGraph",
    "clerk_crewai": "CrewAI",
    "clerk_react": "CrewAI, ReAct",
    "clerk_autogen": "AutoGen",
}
Record = Mapping[str, Any]
Answer = tuple[bool, Any]


@dataclass(slots=True)
class Comparison:
    """What was seen of the clerks. ``stopped``: the figures right after the kill; ``governed``: at the end."""

    clerks: tuple[str, ...]
    without: Figures
    governed: Figures
    receipt: Mapping[str, Any]
    stopped: Figures

    def reminders(self, figures: Figures) -> int:
        return sum(figures.executed[clerk, REMINDERS.tool] for clerk in self.clerks)

    @property
    def nothing_since(self) -> bool:
        """No reminder was begun after the runs had ended."""
        return self.reminders(self.governed) == self.reminders(self.stopped)


def _records(records: Sequence[Record], clerk: str, kind: str, duty: Duty) -> list[Record]:
    tool = f"local.{duty.tool}"
    return [one for one in records if one["type"] == kind and one["tool"] == tool and one["agent"]["name"] == clerk]


def _fates(records: Sequence[Record], clerk: str, duty: Duty) -> list[str]:
    """How the attempts went, by the ledger."""
    return [one["outcome"] for one in _records(records, clerk, "attempt.finished", duty)]


def _same(comparison: Comparison, records: Sequence[Record], duty: Duty, fates: list[str], how: How) -> Answer:
    """Every clerk ended so, its attempts went so by the ledger, and its function counted as many."""
    found = {
        clerk: (
            _fates(records, clerk, duty),
            comparison.governed.executed[clerk, duty.tool],
            comparison.governed.endings[clerk, duty.id].how.value,
        )
        for clerk in comparison.clerks
    }
    return set(map(repr, found.values())) == {repr((fates, len(fates), how.value))}, found


def _retried(comparison: Comparison, records: Sequence[Record]) -> Answer:
    return _same(comparison, records, PARCEL, ["not_executed", "not_executed", "ok"], How.ANSWERED)


def _exhausted(comparison: Comparison, records: Sequence[Record]) -> Answer:
    return _same(comparison, records, WEIGHT, ["not_executed"] * WEIGHT.by_policy, How.GAVE_UP)


def _paid_once(comparison: Comparison, records: Sequence[Record]) -> Answer:
    return _same(comparison, records, PAYMENT, ["unknown"], How.GAVE_UP)


def _one_kill(comparison: Comparison, records: Sequence[Record]) -> Answer:
    ended = {clerk: comparison.governed.endings[clerk, REMINDERS.id].how.value for clerk in comparison.clerks}
    return set(ended.values()) == {How.STOPPED.value}, ended


def _none_since(comparison: Comparison, records: Sequence[Record]) -> Answer:
    engaged = next(one["seq"] for one in records if one["type"] == "kill.engaged" and one["data"]["scope"] == SCOPE)
    starts = [one for clerk in comparison.clerks for one in _records(records, clerk, "attempt.started", REMINDERS)]
    named = {call["call_id"] for call in comparison.receipt["calls"]}
    after = [one["seq"] for one in starts if one["seq"] > engaged and one["call_id"] not in named]
    found = (after, len(starts), comparison.reminders(comparison.governed))
    return not after and found[2] <= len(starts) and comparison.nothing_since, found


def _receipt(comparison: Comparison, records: Sequence[Record]) -> Answer:
    named = {call["call_id"] for call in comparison.receipt["calls"]}
    known = {
        one["call_id"] for clerk in comparison.clerks for one in _records(records, clerk, "call.received", REMINDERS)
    }
    return bool(named) and named <= known, comparison.receipt["counts"]


def _one_ledger(comparison: Comparison, records: Sequence[Record]) -> Answer:
    found = {
        clerk: sorted({one["agent"].get("framework", "") for one in _records(records, clerk, "call.received", PARCEL)})
        for clerk in comparison.clerks
    }
    return found == {clerk: [FRAMEWORKS[clerk]] for clerk in comparison.clerks}, found


CLAIMS = (
    ("in each framework a function that could not connect twice was called a third time, and answered", _retried),
    ("in each framework a function that never works ran as often as the policy says", _exhausted),
    ("in each framework a payment whose answer was lost was made once", _paid_once),
    ("one kill ended the runs of all frameworks", _one_kill),
    ("nothing of theirs began after that kill", _none_since),
    ("its receipt names the calls that were under way", _receipt),
    ("one ledger has the calls of all frameworks, each with its own", _one_ledger),
)


# ── for people and programs ──────────────────────────────────────────────────────────────────────────────────────


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Per clerk: its framework, and for each duty how often the function ran and how the run ended."""
    return {
        clerk: {
            "framework": FRAMEWORKS[clerk],
            "without_outrider": dict(_told(comparison.without, clerk)),
            "with_outrider": dict(_told(comparison.governed, clerk)),
        }
        for clerk in comparison.clerks
    }


def _told(figures: Figures, clerk: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for duty in (*COMPARED, REMINDERS):
        ending = figures.endings.get((clerk, duty.id))
        if ending is not None:
            yield duty.id, {"executed": figures.executed[clerk, duty.tool], "ended": ending.how.value}


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A name, then for each duty how often the function ran: by the policy first, then clerk by clerk."""
    policy = ("what the policy says", *(str(duty.by_policy) for duty in COMPARED))
    clerks = [(LABELS[clerk], *(_cell(comparison, clerk, duty) for duty in COMPARED)) for clerk in comparison.clerks]
    return [policy, *clerks]


def _cell(comparison: Comparison, clerk: str, duty: Duty) -> str:
    """Without Outrider, and with it."""
    return " → ".join(
        f"{figures.executed[clerk, duty.tool]} {_mark(figures, clerk, duty)}"
        for figures in (comparison.without, comparison.governed)
    )


def _mark(figures: Figures, clerk: str, duty: Duty) -> str:
    return "✓" if figures.endings[clerk, duty.id].how is How.ANSWERED else "✗"

"""The end of the demonstration: every claim checked against what was counted and recorded, and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from outrider.demo import tasks
from outrider.demo.clerks import compare
from outrider.demo.clerks.compare import Comparison
from outrider.demo.measure import How, Pass
from outrider.demo.upstream import RETRY_AFTER_S
from outrider.ledger.verify import Report

Record = Mapping[str, Any]
Answer = tuple[bool, Any]


@dataclass(slots=True)
class Kill:
    """A kill and its aftermath. What the ledger has begun behind the kill's record and before its receipt, the receipt
    names."""

    receipt: dict[str, Any]
    refunds_when_stopped: int = 0
    refunds_later: int = 0


@dataclass(slots=True)
class Story:
    """What was seen. ``records`` is the ledger; ``tampered`` is what verify says of a copy with one word changed;
    ``clerks`` is None where no other framework took part."""

    without: Pass
    governed: Pass
    records: list[Record]
    breakers: Mapping[str, list[str]]
    kill: Kill
    report: Report
    tampered: Report
    sidecar_exit: int | None
    clerks: Comparison | None = None
    took_s: float = 0.0
    claims: list[Claim] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of the story, whether it is true, and what was found."""

    text: str
    true: bool
    found: str


class Ledger:
    """Questions to the records."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)

    def of(self, kind: str, **fields: Any) -> list[Record]:
        """The records of a type that have these fields."""
        return [
            record
            for record in self.records
            if record["type"] == kind and all(record.get(name) == value for name, value in fields.items())
        ]

    def attempts(self, tool: str, number: int = 0) -> list[Record]:
        """The ends of the attempts of the ``number``-th call of a tool."""
        call_id = self.of("call.received", tool=tool)[number]["call_id"]
        return self.of("attempt.finished", call_id=call_id, tool=tool)

    def fates(self, tool: str, number: int = 0) -> list[str]:
        """How those attempts went: ``ok``, or the reason of the failure."""
        return [record.get("failure") or record["outcome"] for record in self.attempts(tool, number)]

    def degraded(self) -> list[Record]:
        """The ends of the calls that a fallback answered."""
        return [record for record in self.of("call.finished") if record.get("data", {}).get("degraded_by")]

    def pauses_s(self, tool: str) -> list[float]:
        """The waits between the attempts of the first call of a tool, from an end to the next start."""
        ends = self.attempts(tool)
        call_id = ends[0]["call_id"]
        starts = self.of("attempt.started", call_id=call_id, tool=tool)
        pairs = zip(ends, starts[1:], strict=False)
        return [_seconds(start) - _seconds(end) for end, start in pairs]


def _seconds(record: Record) -> float:
    return datetime.fromisoformat(record["ts"]).timestamp()


def check(story: Story) -> list[Claim]:
    """Every claim of the story. A question that cannot even be asked makes its claim false."""
    ledger = Ledger(story.records)
    claims = [_checked(text, ask, story, ledger) for text, ask in CLAIMS]
    if story.clerks is not None:
        claims += [_checked(text, ask, story.clerks, story.records) for text, ask in compare.CLAIMS]
    return claims


def _checked(text: str, ask: Callable[..., Answer], *seen: Any) -> Claim:
    try:
        true, found = ask(*seen)
    except (LookupError, ValueError, StopIteration) as error:
        true, found = False, f"{type(error).__name__}: {error}"
    return Claim(text, true, str(found))


def _dropped(story: Story, ledger: Ledger) -> Answer:
    fates = ledger.fates("orders.lookup")
    return fates == ["reset", "reset", "ok"], fates


def _throttled(story: Story, ledger: Ledger) -> Answer:
    fates, pauses = ledger.fates("prices.quote"), ledger.pauses_s("prices.quote")
    return fates == ["status", "ok"] and pauses[0] >= RETRY_AFTER_S, (fates, pauses)


def _hung(story: Story, ledger: Ledger) -> Answer:
    fates = ledger.fates("reports.render")
    return fates == ["timeout", "ok"], fates


def _in_process(story: Story, ledger: Ledger) -> Answer:
    outcomes = [record["outcome"] for record in ledger.attempts("local.exchange_rate")]
    return outcomes == ["not_executed", "not_executed", "ok"], outcomes


def _charged_once(story: Story, ledger: Ledger) -> Answer:
    fates = ledger.fates("payments.charge", 1)
    found = (fates, story.governed.executed("charge 17"))
    return found == (["reset", "ok"], 1), found


def _mailed_once(story: Story, ledger: Ledger) -> Answer:
    refused = ledger.of("call.refused", tool="mail.send", code="prior_outcome_unknown")
    settled = ledger.of("call.settled")
    found = (story.governed.executed("mail 17"), len(refused), len(settled))
    return found == (1, 1, 1), found


def _no_write_twice(story: Story, ledger: Ledger) -> Answer:
    found = (story.governed.writes_repeated, story.governed.writes_lost)
    return found == (0, 0), found


def _breaker(story: Story, ledger: Ledger) -> Answer:
    states = story.breakers.get("stock", [])
    return "open" in states and states[-1] == "closed", states


def _stock_answered(story: Story, ledger: Ledger) -> Answer:
    endings = [story.governed.endings[task.id].how for task in tasks.STOCK]
    degraded = ledger.degraded()
    return set(endings) == {How.ANSWERED} and bool(degraded), (len(endings), len(degraded))


def _dead_spared(story: Story, ledger: Ledger) -> Answer:
    found = (story.governed.sent_to_the_dead, story.without.sent_to_the_dead)
    return found[0] < found[1], found


def _denied(story: Story, ledger: Ledger) -> Answer:
    refusals = [record["code"] for record in ledger.of("call.refused", tool="local.delete_customer")]
    ran = story.governed.in_process("delete_customer")
    return (refusals, ran) == (["denied"], 0), (refusals, ran)


def _killed(story: Story, ledger: Ledger) -> Answer:
    kill = story.kill
    ended = story.governed.endings[tasks.WILD.id].how
    found = (ended.value, kill.refunds_when_stopped, kill.refunds_later)
    return ended is How.STOPPED and kill.refunds_later < tasks.REFUNDS, found


def _nothing_after(story: Story, ledger: Ledger) -> Answer:
    engaged = ledger.of("kill.engaged")[0]["seq"]
    starts = ledger.of("attempt.started", tool="local.refund")
    named = {call["call_id"] for call in story.kill.receipt["calls"]}
    after = [record["seq"] for record in starts if record["seq"] > engaged and record["call_id"] not in named]
    found = (after, len(starts), story.kill.refunds_later)
    return not after and story.kill.refunds_later <= len(starts), found


def _receipt(story: Story, ledger: Ledger) -> Answer:
    receipt = story.kill.receipt
    named = [call["call_id"] for call in receipt["calls"]]
    known = {record["call_id"] for record in ledger.of("call.received", tool="local.refund")}
    return bool(named) and set(named) <= known and sum(receipt["counts"].values()) == len(named), receipt["counts"]


def _learnt_later(story: Story, ledger: Ledger) -> Answer:
    unknown = [call["call_id"] for call in story.kill.receipt["calls"] if call["result"] == "unknown"]
    settled = {record["call_id"]: record["outcome"] for record in ledger.of("attempt.settled")}
    found = [settled.get(call_id, "") for call_id in unknown]
    return set(found) <= {"ok"}, found


def _still_killed(story: Story, ledger: Ledger) -> Answer:
    refusals = [record["code"] for record in ledger.of("call.refused", tool="local.refund")]
    found = (story.governed.endings[tasks.AGAIN.id].how.value, refusals)
    return found[0] == How.STOPPED and "killed" in refusals, found


def _other_works(story: Story, ledger: Ledger) -> Answer:
    how = story.governed.endings[tasks.ORDER_LATER.id].how
    return how is How.ANSWERED, how.value


def _one_end(story: Story, ledger: Ledger) -> Answer:
    starts = sorted((record["call_id"], record["attempt"]) for record in ledger.of("attempt.started"))
    ends = sorted((record["call_id"], record["attempt"]) for record in ledger.of("attempt.finished"))
    return bool(starts) and starts == ends, f"{len(starts)} starts, {len(ends)} ends"


def _verified(story: Story, ledger: Ledger) -> Answer:
    report = story.report
    return report.ok and report.open_attempts == 0 and report.records >= len(ledger.records), report.records


def _tampering(story: Story, ledger: Ledger) -> Answer:
    return not story.tampered.ok, story.tampered.first_bad


def _drained(story: Story, ledger: Ledger) -> Answer:
    return story.sidecar_exit == 0, story.sidecar_exit


def _better(story: Story, ledger: Ledger) -> Answer:
    found = (story.without.how_many(How.ANSWERED), story.governed.how_many(How.ANSWERED))
    return found[0] < found[1], found


CLAIMS: tuple[tuple[str, Callable[[Story, Ledger], Answer]], ...] = (
    ("two dropped connections were followed by an answer", _dropped),
    ("Retry-After was honoured, never early", _throttled),
    ("a service that hung was given up after the per-try timeout and asked again", _hung),
    ("an in-process function that could not connect was called again", _in_process),
    ("a charge whose answer was lost was repeated under its key, and the card charged once", _charged_once),
    ("a mail that may have been sent was not sent again, and a person settled it", _mailed_once),
    ("no write happened twice and none was lost", _no_write_twice),
    ("the breaker opened and closed again", _breaker),
    ("every question about the stock was answered, some by the fallback", _stock_answered),
    ("the dead service was asked less often than without Outrider", _dead_spared),
    ("the denied function did not run", _denied),
    ("the kill switch stopped the running agent", _killed),
    ("nothing of that agent began after the kill", _nothing_after),
    ("the receipt names the calls that were under way", _receipt),
    ("what became of the interrupted function was learnt afterwards", _learnt_later),
    ("the killed agent stays killed", _still_killed),
    ("the other agent works on", _other_works),
    ("every attempt that started has exactly one end", _one_end),
    ("the ledger is whole, verified offline", _verified),
    ("one changed record is found", _tampering),
    ("the sidecar drained and ended in order", _drained),
    ("more tasks were completed with Outrider than without", _better),
)


def as_dict(story: Story) -> dict[str, Any]:
    """The summary for programs. ``ok``: every claim is true."""
    return {
        "ok": all(claim.true for claim in story.claims),
        "took_s": round(story.took_s, 1),
        "without_outrider": story.without.as_dict(),
        "with_outrider": story.governed.as_dict(),
        "answered_by_the_fallback": len(Ledger(story.records).degraded()),
        "breaker": list(story.breakers.get("stock", [])),
        "kill": story.kill.receipt,
        **_of_the_clerks(story.clerks),
        "ledger": {
            "verified": story.report.ok,
            "records": story.report.records,
            "head": story.report.head,
            "tampering_found": not story.tampered.ok,
        },
        "claims": [{"claim": claim.text, "true": claim.true, "found": claim.found} for claim in story.claims],
    }


def _of_the_clerks(clerks: Comparison | None) -> dict[str, Any]:
    return {} if clerks is None else {"frameworks": compare.as_dict(clerks), "kill_of_all": clerks.receipt}


def rows(story: Story) -> list[tuple[str, str, str]]:
    """The comparison for people: what, without, with."""
    before, after = story.without, story.governed
    given = len(tasks.MEASURED)

    def row(what: str, number: Callable[[Pass], int]) -> tuple[str, str, str]:
        return what, str(number(before)), str(number(after))

    return [
        (
            "tasks completed",
            f"{before.how_many(How.ANSWERED)} of {given}",
            f"{after.how_many(How.ANSWERED)} of {given}",
        ),
        ("  of them by the fallback", "0", str(len(Ledger(story.records).degraded()))),
        row("  crashed by a tool's error", lambda one: one.how_many(How.CRASHED)),
        row("  stuck for ever", lambda one: one.how_many(How.STUCK)),
        row("  left to a person", lambda one: one.how_many(How.GAVE_UP)),
        row("writes executed twice", lambda one: one.writes_repeated),
        row("writes lost", lambda one: one.writes_lost),
        row("customers deleted because a letter said so", lambda one: one.in_process("delete_customer")),
        row("refunds by the agent gone wild", lambda one: one.in_process("refund")),
        row("requests sent to the dead service", lambda one: one.sent_to_the_dead),
        ("records in the ledger, verified", "0", str(story.report.records)),
    ]

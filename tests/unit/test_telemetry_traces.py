"""A traced call is the conventions' tree of spans, bounded, without content; an untraced one hands its context on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outrider.calls import Agent, Attempt, Call, Failure, Outcome, OutcomeKind, Reason
from outrider.flight import Flight
from outrider.telemetry import semconv, traceparent_from, tracestate_from
from outrider.telemetry.environment import Sampler
from outrider.telemetry.traces import MAX_CONTENT, MAX_TEXT, Span, Traces
from tests.support.rig import BUSY, OK, Rig

GOLDEN = Path(__file__).parents[1] / "golden" / "telemetry" / "span_tree.json"
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
ALL = Sampler()
QUIET = f"00-{'a' * 32}-{'b' * 16}-00"
RETRIES: dict[str, Any] = {
    "tools": [
        {
            "match": "up.read*",
            "effect": "read",
            "retry": {"maxAttempts": 3},
            "fallback": [{"tool": "spare.read"}, {"static": {"value": 1}}],
        },
        {"match": "spare.read", "effect": "read", "http": {"method": "GET", "path": "/items/{args.id}"}},
        {"match": "up.secret", "effect": "read", "redact": ["$.args.pin", "$.result.token_of"]},
    ]
}


class Kept(list[Span]):
    """What was handed to the exporter."""

    def call(self) -> Span:
        (found,) = [span for span in self if not span.is_client]
        return found

    def attempts(self) -> list[Span]:
        return [span for span in self if span.is_client]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(tmp_path, RETRIES) as made:
        yield made


def traced(rig: Rig, *, content: bool = False, sampler: Sampler = ALL) -> Kept:
    kept = Kept()
    rig.telemetry.traces = Traces(sampler, kept.extend, content=content)
    return kept


async def ended(rig: Rig, tool: str, **more: Any) -> tuple[Flight, Outcome]:
    """A call with whatever it may carry, to its end."""
    fields = {"args": {}, "agent": Agent("ann", owner="team", instance="i-1"), "run": "r1", **more}
    flight = rig.supervisor.submit(Call(id="c1", tool=tool, **fields))
    assert flight.answer is not None and flight.task is not None
    outcome = await flight.answer
    await flight.task
    return flight, outcome


def shape(kept: Kept) -> list[dict[str, Any]]:
    """The tree without what differs from run to run."""
    names = {span.span_id: f"span {number}" for number, span in enumerate(kept)}
    found = []
    for span in kept:
        attributes = {**span.attributes, semconv.POLICY_DIGEST: "…"} if not span.is_client else span.attributes
        events = [
            {"name": event.name, **event.attributes, **({semconv.BACKOFF_S: "…"} if "retry" in event.name else {})}
            for event in span.events
        ]
        found.append(
            {
                "id": names[span.span_id],
                "parent": names.get(span.parent_id, span.parent_id),
                "name": span.name,
                "kind": "CLIENT" if span.is_client else "INTERNAL",
                "tracestate": span.tracestate,
                "error": span.error,
                "attributes": dict(sorted(attributes.items())),
                "events": events,
            }
        )
    return found


@pytest.mark.looptime
async def test_the_tree_of_a_call_with_retries_and_fallbacks_is_the_golden_one(rig: Rig) -> None:
    """Names, kinds, parents, attributes and events, word for word."""
    kept = traced(rig)
    rig.upstream.answer = lambda attempt: OK if attempt.tool == "spare.read" else BUSY
    more = {"caller_ref": "call_7", "session": "thread-1", "traceparent": PARENT, "tracestate": "x=1"}
    _, outcome = await ended(rig, "up.read_x", args={"id": "42", "note": "a secret"}, **more)
    assert outcome.degraded
    assert shape(kept) == json.loads(GOLDEN.read_text())
    assert "42" not in GOLDEN.read_text() and "a secret" not in str(kept)


@pytest.mark.looptime
async def test_a_span_lasts_as_long_as_what_it_stands_for(rig: Rig) -> None:
    """Attempts lie inside their call, one behind the other."""
    kept = traced(rig)
    rig.upstream.takes_s = lambda attempt: 2.0
    rig.upstream.answer = lambda attempt: BUSY if attempt.n == 1 else OK
    await ended(rig, "up.read_x")
    call, (first, second) = kept.call(), kept.attempts()
    assert first.end_ns - first.start_ns == pytest.approx(2e9, abs=1e6)
    assert call.start_ns <= first.start_ns < first.end_ns <= call.events[0].at_ns <= second.start_ns
    assert second.end_ns <= call.end_ns


@pytest.mark.parametrize(
    ("sampler", "parent", "is_traced", "handed_on"),
    [
        (Sampler(1.0, True), "", True, "new, sampled"),
        (Sampler(0.0, True), "", False, "new, not sampled"),
        (Sampler(0.0, True), PARENT, True, "child, sampled"),
        (Sampler(1.0, True), QUIET, False, QUIET),
        (Sampler(1.0, False), QUIET, True, "child, sampled"),
        (Sampler(0.0, False), PARENT, False, QUIET),
    ],
)
async def test_the_sampler_decides_and_what_goes_on_says_so(
    rig: Rig, sampler: Sampler, parent: str, is_traced: bool, handed_on: str
) -> None:
    """An upstream that asks its parent traces what this sidecar traces, and nothing else."""
    kept = traced(rig, sampler=sampler)
    seen: list[Attempt] = []
    rig.upstream.answer = lambda attempt: seen.append(attempt) or OK  # type: ignore[func-returns-value]
    await ended(rig, "up.read_x", traceparent=parent)
    (attempt,) = seen
    assert bool(kept) is is_traced and bool(attempt.span_id) is is_traced
    assert traceparent_from(attempt.traceparent)
    assert attempt.traceparent.endswith("-01") is is_traced
    if parent:
        assert attempt.traceparent[3:35] == "a" * 32
    if handed_on == QUIET:
        assert attempt.traceparent == QUIET
    if is_traced:
        assert kept.attempts()[0].span_id == attempt.traceparent[36:52]
        assert kept.call().parent_id == parent[36:52]


def test_a_ratio_takes_its_share_of_the_roots() -> None:
    """By the trace's id, so that every sidecar of one ratio decides alike."""
    traces = Traces(Sampler(0.1, True), lambda spans: None)
    call = Call(id="c", tool="t.x", args={}, agent=Agent())
    taken = sum(traces.begin(call, received=0, started_wall=0)[0] is not None for _ in range(20_000))
    assert 1_700 < taken < 2_300
    low, high = f"00-{'f' * 16}{'0' * 16}-{'b' * 16}-00", f"00-{'0' * 16}{'f' * 16}-{'b' * 16}-01"
    alone = Traces(Sampler(0.5, False), lambda spans: None)
    assert alone.begin(replace(call, traceparent=low), received=0, started_wall=0)[0] is not None
    assert alone.begin(replace(call, traceparent=high), received=0, started_wall=0)[0] is None


async def test_without_an_exporter_the_callers_context_goes_on_untouched(rig: Rig) -> None:
    """And the ledger names its trace."""
    seen: list[Attempt] = []
    rig.upstream.answer = lambda attempt: seen.append(attempt) or OK  # type: ignore[func-returns-value]
    flight, _ = await ended(rig, "up.read_x", traceparent=PARENT)
    assert (seen[0].traceparent, seen[0].span_id, flight.trace) == (PARENT, "", None)
    lines = [json.loads(row["line"]) for row in rig.events()]
    assert [(line["type"], line["trace_id"]) for line in lines if "trace_id" in line] == [("call.received", "a" * 32)]


async def test_the_ledger_names_trace_and_span_of_what_is_traced(rig: Rig) -> None:
    """From a record to its span and back."""
    kept = traced(rig)
    await ended(rig, "up.read_x")
    lines = {row["type"]: json.loads(row["line"]) for row in rig.events()}
    call, (attempt,) = kept.call(), kept.attempts()
    for kind in ("call.received", "call.finished"):
        assert (lines[kind]["trace_id"], lines[kind]["span_id"]) == (call.trace_id, call.span_id)
    for kind in ("attempt.started", "attempt.finished"):
        assert (lines[kind]["trace_id"], lines[kind]["span_id"]) == (call.trace_id, attempt.span_id)


async def test_a_refusal_and_a_kill_say_who_said_no(rig: Rig) -> None:
    """Code, stage, rule; and the kill by its id."""
    kept = traced(rig)
    await rig.reload({**RETRIES, "rules": [{"name": "no shell", "tools": ["*"], "then": "deny", "reason": "no"}]})
    await ended(rig, "up.read_x")
    denied = kept.call()
    assert not kept.attempts() and denied.error == "denied"
    assert denied.attributes[semconv.DECISION] == "deny" and denied.attributes[semconv.RULE] == "no shell"
    assert denied.attributes[semconv.STAGE] == "access" and denied.attributes[semconv.ERROR_TYPE] == "denied"
    kept.clear()
    receipt = await rig.supervisor.kill("agent:ann", "enough", None, "test")
    await ended(rig, "up.read_x")
    killed = kept.call()
    assert (killed.error, killed.attributes[semconv.KILL_ID]) == ("killed", receipt.id)


async def test_a_policy_that_only_observes_shows_what_it_would_have_refused(rig: Rig) -> None:
    """The call went on."""
    kept = traced(rig)
    await rig.reload({**RETRIES, "mode": "observe", "rules": [{"name": "no", "tools": ["*"], "then": "deny"}]})
    _, outcome = await ended(rig, "up.read_x")
    assert outcome.ok and kept.call().attributes[semconv.OBSERVED] == "denied"


async def test_what_an_upstream_said_is_in_no_span(rig: Rig) -> None:
    """Neither in an attribute nor as a status: an answer may be anything."""
    kept = traced(rig)
    said = Failure(Reason.STATUS, "HTTP 500: the pin is 1234", 500)
    rig.upstream.answer = lambda attempt: Outcome(OutcomeKind.DEFINITE, failure=said)
    await ended(rig, "up.secret", args={"pin": "1234"})
    assert kept.call().error == "upstream_failed" and kept.attempts()[0].error == "500"
    assert "1234" not in repr(kept)


async def test_arguments_and_results_come_only_when_asked_for_and_redacted(rig: Rig) -> None:
    """By the policy's paths and the usual names, cut, and never where the ledger keeps none."""
    kept = traced(rig, content=True)
    rig.upstream.answer = lambda attempt: Outcome(OutcomeKind.OK, value={"token_of": "bob", "n": 1})
    await ended(rig, "up.secret", args={"pin": "1234", "password": "hunter2", "who": "bob" * 3000})
    found = kept.call().attributes
    arguments = str(found[semconv.TOOL_ARGUMENTS])
    assert '"pin":"«redacted»"' in arguments and "hunter2" not in arguments and len(arguments) <= MAX_CONTENT + 1
    assert json.loads(str(found[semconv.TOOL_RESULT])) == {"token_of": "«redacted»", "n": 1}
    kept.clear()
    await rig.reload({**RETRIES, "ledger": {"recordArgs": False, "recordResults": False}})
    await ended(rig, "up.secret", args={"pin": "1"})
    assert not {semconv.TOOL_ARGUMENTS, semconv.TOOL_RESULT} & set(kept.call().attributes)
    kept.clear()
    traced(rig)
    await ended(rig, "up.secret", args={"pin": "1"})
    assert not {semconv.TOOL_ARGUMENTS, semconv.TOOL_RESULT} & set(kept.call().attributes if kept else {})


async def test_hostile_names_are_bounded_in_every_span(rig: Rig) -> None:
    """Whatever a caller sends, a span stays small."""
    kept = traced(rig)
    long = "x" * 100_000
    more = {"session": long, "caller_ref": long, "run": long, "parent": long, "agent": Agent(long, owner=long)}
    await ended(rig, f"up.read_{long}", **more)
    for span in kept:
        texts = [span.name, span.error or "", *(value for value in span.attributes.values() if isinstance(value, str))]
        assert max(map(len, texts)) <= MAX_TEXT and len(span.attributes) < 32


@pytest.mark.parametrize("text", ["", "garbage", "00-\r\nX-Injected: 1", "00-\udcff", "00-\x00", "ff" + "-0" * 3,
    f"00-{'A' * 32}-{'b' * 16}-01", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01",
    f"00-{'a' * 32}-{'b' * 16}-01-more"])  # fmt: skip
def test_a_traceparent_that_is_none_is_sent_to_nobody(text: str) -> None:
    """It is a header of what goes upstream: what is malformed would break that request, and count as its failure."""
    assert traceparent_from(text) == ""
    assert traceparent_from(PARENT) == PARENT


def test_a_tracestate_goes_with_its_traceparent_or_not_at_all() -> None:
    """Printable, bounded, and nothing that could end a header."""
    assert tracestate_from(PARENT, "vendor=1,other=two three") == "vendor=1,other=two three"
    for text in ("a=1\r\nX: 1", "a=\udcff", "a=ä", " a=1", "a" * 513, ""):
        assert tracestate_from(PARENT, text) == ""
    assert tracestate_from("", "vendor=1") == ""


async def test_a_fault_in_a_span_is_no_fault_of_the_attempt(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call ends as it would have; its own span is there."""
    kept = traced(rig)
    monkeypatch.setattr("outrider.telemetry.traces.of_server", lambda url: 1 / 0)
    _, outcome = await ended(rig, "up.read_x")
    assert outcome.ok and not kept.attempts() and kept.call().error is None

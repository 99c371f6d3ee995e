"""Metrics are valid and bounded, and the same by every way that they are read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from outrider.calls import Agent, Call, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.telemetry import Telemetry
from outrider.telemetry.metrics import BUCKETS_S, MAX_SERIES

OK = Outcome(OutcomeKind.OK)
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\+Inf|-?[0-9.e+-]+)")
TYPES = {"counter", "gauge", "histogram"}


def parse(text: bytes) -> dict[str, float]:
    """Every sample of an exposition in text format 0.0.4; fails on a line that is not of that format, on a metric
    without its type or split in two, and on a sample that comes twice."""
    samples: dict[str, float] = {}
    families: list[tuple[str, str]] = []
    lines = text.decode().split("\n")
    assert lines[-1] == "", "the last line ends"
    for line in lines[:-1]:
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in TYPES
            assert name not in [family for family, _ in families], f"{name} comes in two pieces"
            families.append((name, kind))
            continue
        found = SAMPLE.fullmatch(line)
        assert found, f"not a sample: {line}"
        name, kind = families[-1]
        allowed = {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
        assert found[1] in allowed, f"{found[1]} stands below {name}"
        key = line.rpartition(" ")[0]
        assert key not in samples, f"twice: {key}"
        samples[key] = float(found[3])
    return samples


def call(agent: str = "ann", tool: str = "pay.out", **more: Any) -> Call:
    return Call(id="c1", tool=tool, args={}, agent=Agent(agent), **more)


def test_everything_is_valid_exposition_format() -> None:
    """Hostile names included: quotes, backslashes, line breaks, halves of pairs."""
    telemetry = Telemetry()
    for name in ("ann", 'a"b', "a\\", "a\nb", "a{b}", "", "ä€𝄞", "\ud800", "\x1b[2J"):
        telemetry.on_call_finished(call(name, f"{name}.x"), OK, 0.02, 1)
        telemetry.on_attempt(name, OutcomeKind.OK, 0.02)
    telemetry.gauge("outrider_nothing", "Nothing.", (), lambda: [])
    telemetry.gauge("outrider_things", "Things.", ("kind",), lambda: [(("a",), 1), (("b",), 2.5)])
    samples = parse(telemetry.render_metrics())
    assert samples['outrider_calls_total{agent="ann",tool="ann.x",outcome="ok"}'] == 1
    assert samples['outrider_things{kind="b"}'] == 2.5
    assert samples['outrider_calls_total{agent="a\\nb",tool="a\\nb.x",outcome="ok"}'] == 1


def test_calls_refusals_attempts_and_reloads_are_counted() -> None:
    """A failure of the tool is no refusal; a tool that does not exist is not named."""
    telemetry = Telemetry()
    telemetry.on_call_finished(call(), OK, 0.02, 1)
    telemetry.on_call_finished(call(), Outcome(OutcomeKind.DEFINITE, code=Code.UPSTREAM_FAILED), 0.02, 3)
    telemetry.on_call_finished(call(), Outcome(OutcomeKind.NOT_EXECUTED, code=Code.DENIED), 0.02, 0)
    telemetry.on_call_finished(call(tool="made.up"), Outcome(OutcomeKind.NOT_EXECUTED, code=Code.UNKNOWN_TOOL), 0, 0)
    telemetry.on_attempt("pay", OutcomeKind.UNKNOWN, 2.0)
    telemetry.on_policy(loaded=True)
    telemetry.on_policy(loaded=False)
    samples = parse(telemetry.render_metrics())
    assert samples['outrider_calls_total{agent="ann",tool="pay.out",outcome="definite"}'] == 1
    assert samples['outrider_calls_total{agent="ann",tool="overflow",outcome="not_executed"}'] == 1
    assert samples['outrider_refusals_total{code="denied"}'] == 1
    assert 'outrider_refusals_total{code="upstream_failed"}' not in samples
    assert samples['outrider_attempts_total{upstream="pay",outcome="unknown"}'] == 1
    assert samples['outrider_policy_reloads_total{result="ok"}'] == 1
    assert samples['outrider_policy_reloads_total{result="rejected"}'] == 1
    assert b"made.up" not in telemetry.render_metrics()


def test_a_histogram_is_cumulative_and_its_bounds_are_inclusive() -> None:
    """``le`` means less or equal."""
    telemetry = Telemetry()
    for seconds in (0.0, 0.001, 0.0011, 60.0, 61.0):
        telemetry.on_attempt("pay", OutcomeKind.OK, seconds)
    samples = parse(telemetry.render_metrics())
    name = 'outrider_attempt_duration_seconds_bucket{upstream="pay",le='
    assert samples[f'{name}"0.001"}}'] == 2
    assert samples[f'{name}"0.0025"}}'] == 3
    assert samples[f'{name}"60"}}'] == 4
    assert samples[f'{name}"+Inf"}}'] == 5
    assert samples['outrider_attempt_duration_seconds_count{upstream="pay"}'] == 5
    assert samples['outrider_attempt_duration_seconds_sum{upstream="pay"}'] == pytest.approx(121.0021)
    bounds = [key for key in samples if key.startswith(name)]
    assert len(bounds) == len(BUCKETS_S) + 1


def test_no_client_can_make_the_metrics_grow() -> None:
    """Past the bound every new name counts as overflow; what became of the calls is still told apart."""
    telemetry = Telemetry()
    for number in range(MAX_SERIES + 500):
        telemetry.on_call_finished(call(f"agent-{number}"), OK, 0.01, 1)
        telemetry.on_attempt(f"upstream-{number}", OutcomeKind.OK, 0.01)
    telemetry.on_call_finished(call("x" * 5000), OK, 0.01, 1)
    telemetry.gauge("outrider_many", "Many.", ("upstream",), lambda: [((str(n),), 1) for n in range(MAX_SERIES + 10)])
    samples = parse(telemetry.render_metrics())
    calls = [key for key in samples if key.startswith("outrider_calls_total")]
    assert len(calls) == MAX_SERIES + 1
    assert samples['outrider_calls_total{agent="overflow",tool="overflow",outcome="ok"}'] == 501
    assert samples['outrider_attempts_total{upstream="overflow",outcome="ok"}'] == 500
    assert samples['outrider_many{upstream="overflow"}'] == 10
    telemetry.on_call_finished(call("agent-0"), OK, 0.01, 1)
    assert parse(telemetry.render_metrics())['outrider_calls_total{agent="agent-0",tool="pay.out",outcome="ok"}'] == 2


def test_a_gauge_that_cannot_be_read_hides_no_other() -> None:
    """A scrape is when something is wrong already."""
    telemetry = Telemetry()
    telemetry.gauge("outrider_broken", "Broken.", (), lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    telemetry.gauge("outrider_good", "Good.", (), lambda: [((), 1)])
    samples = parse(telemetry.render_metrics())
    assert samples["outrider_good"] == 1
    assert "outrider_broken" not in samples

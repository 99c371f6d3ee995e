"""The bench works: every case runs and finds what it is there to find. Nothing is timed here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from outrider.policy.load import check
from tests.bench.adapters_fresh import PACKAGES
from tests.bench.cases import CASES
from tests.bench.figures import SMOKE, Findings
from tests.bench.report import as_json, machine, show
from tests.bench.rounds import Rounds, Sample
from tests.bench.sidecar import policy

WANTED = {
    "http": "governed / plain proxy: calls/s",
    "local": "function / governed HTTP: p50, 2 ms apart",
    "telemetry": "traces, 10 % / off: CPU",
    "agents": "of one core",
    "mcp": "stdio, added by the sidecar: p50",
    "raw": "POST, raw / plain proxy: p50",
    "reach": "cancel: p99, median of the rounds",
    "ledger_size": "write: large / empty ledger, p50",
}
"""The cases that have machinery of their own; the others are made of the same."""


@pytest.mark.parametrize("name", WANTED)
def test_a_case_finds_its_figures(name: str, tmp_path: Path) -> None:
    """With real processes; every answer was a good one, or the case would have been broken."""
    findings = CASES[name](tmp_path, SMOKE)
    figures = {figure.what: figure for figure in findings.figures}
    assert figures[WANTED[name]].value > 0 and figures[WANTED[name]].met is not None
    console = Console(record=True, width=120)
    show(console, machine(tmp_path), [findings], quick=True)
    assert WANTED[name] in console.export_text()
    told = json.dumps(as_json(machine(tmp_path), [findings], quick=True))
    assert str(tmp_path) not in told


def test_the_bench_of_the_adapters_loses_no_call(tmp_path: Path) -> None:
    """Every framework's real way to execute a tool, by one thread and by 32; the ledger has each governed call once."""
    figures = {figure.what: figure for figure in CASES["adapters"](tmp_path, SMOKE).figures}
    for framework in ("langgraph", "crewai", "autogen"):
        lost = figures[f"{framework}: calls whose end the ledger lacks or has twice"]
        assert figures[f"{framework}: governed calls in all"].value > 0 and lost.met
        added = [what for what in figures if what.startswith(f"{framework}, ") and "added, p50" in what]
        assert len(added) == 4 and all(figures[what].met is not None for what in added)


def test_the_bench_installs_every_adapter_in_a_fresh_process(tmp_path: Path) -> None:
    """What that adds is judged."""
    figures = {figure.what: figure for figure in CASES["imports"](tmp_path, SMOKE).figures}
    for framework, package in PACKAGES.items():
        assert figures[f"{framework}: import {package}"].value > 0
        assert figures[f"{framework}: added by importing and installing the adapter"].met is not None


def test_the_policies_of_the_bench_are_sound(tmp_path: Path) -> None:
    """However many tools and rules they have."""
    (tmp_path / "policy.yaml").write_text(policy(9, 1000))
    found, faults = check(tmp_path)
    assert found is not None and not [fault for fault in faults if fault.severity == "error"]
    assert len(found.rules.rules) == 1001


def test_the_quietest_rounds_count_whatever_they_found() -> None:
    """Others used least in rounds 1 and 4; what the subjects took is not asked."""
    samples = [Sample(10, p50_ms, p50_ms, p50_ms, 1.0) for p50_ms in (1.0, 9.0, 2.0, 3.0, 7.0, 4.0)]
    rounds = Rounds({"a": samples, "b": samples[::-1]}, [0.9, 0.0, 0.5, 0.6, 0.1, 0.7])
    assert rounds.kept == (1, 4) and rounds.median("a", "p50_ms") == 8.0
    assert rounds.ratio("a", "b", "p50_ms") == pytest.approx((9 / 7 + 7 / 9) / 2)


def test_a_target_is_met_or_missed_by_its_bound() -> None:
    """At most, at least, or no target at all."""
    findings = Findings("x")
    findings.at_most("a", 1.0, "ms", 2.0)
    findings.at_least("b", 1.0, "/s", 2.0)
    findings.add("c", 1.0, "")
    assert [figure.met for figure in findings.figures] == [True, False, None]

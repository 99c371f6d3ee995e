"""What the adapters cost: a framework's own tool call without and with its adapter, in processes of their own."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from outrider.ledger import query
from tests.bench.adapters_fresh import PACKAGES
from tests.bench.figures import Effort, Findings
from tests.bench.processes import Child, Household, Noise
from tests.bench.rounds import Measure, Rounds, Sample, interleaved, measured, sample
from tests.bench.sidecar import Sidecar, policy, start_sidecar

CALLS_ALONE = 200
CALLS_APART = 100
CALLS_TOGETHER = 1600
PAUSE_MS = 2.0
THREADS = 32
NO_UPSTREAM = 9
"""The port in the policy that nobody asks: every tool is in the agent's process."""
QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}
"""CrewAI calls home by itself; that is neither its tools' time nor ours."""
ADDED_MS = 1.0
ADDED_IMPORT_S = 0.3


def _installed(findings: Findings) -> list[str]:
    there = [name for name, package in PACKAGES.items() if find_spec(package.partition(".")[0])]
    for name in PACKAGES:
        if name not in there:
            findings.notes.append(f"{name} is not installed, so nothing is said of its adapter.")
    return there


def _rounds(effort: Effort) -> int:
    """Half of the other cases', for there are three frameworks."""
    return -(-effort.rounds // 2)


# ── a call ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Pair:
    """One framework in two processes, without and with the adapter. ``asked``: how many governed calls were made."""

    def __init__(self, household: Household, sidecar: Sidecar, framework: str) -> None:
        module, env = "agent_framework", QUIET | sidecar.environment()
        self._children = {how: household.python(module, framework, how, env=env) for how in ("alone", "governed")}
        for child in self._children.values():
            self.ways: list[str] = json.loads(child.line())
        self.asked = 0

    def measures(self, way: str, calls: int, concurrency: int, pause_ms: float) -> dict[str, Measure]:
        """The same work, by both. CPU is that of the agent's process."""
        command = {"way": way, "calls": calls, "concurrency": concurrency, "pause_ms": pause_ms}
        return {f"{way}, {how}": self._measure(how, child, command) for how, child in self._children.items()}

    def _measure(self, how: str, child: Child, command: dict[str, Any]) -> Measure:
        def measure() -> Sample:
            one = measured(lambda: child.ask(**command), child)
            self.asked += one.calls if how == "governed" else 0
            return one

        return measure

    def stop(self) -> None:
        for child in self._children.values():
            child.stop()


def adapters(folder: Path, effort: Effort) -> Findings:
    """Every framework's ways to execute a tool; and by many threads, of which nothing may be lost."""
    findings = Findings("adapters")
    began = time.monotonic()
    asked: dict[str, int] = {}
    with Household(folder) as household:
        data = folder / "data"
        sidecar = start_sidecar(household, "sidecar", policy(NO_UPSTREAM), data)
        noise = Noise(household)
        rounds = _rounds(effort)
        for framework in _installed(findings):
            pair = Pair(household, sidecar, framework)
            _framework(framework, pair, lambda some: interleaved(some, rounds, noise), effort, findings)
            pair.stop()
            asked[framework] = pair.asked
        sidecar.child.stop()
        _nothing_lost(data, asked, findings)
    findings.took_s = time.monotonic() - began
    return findings


def _framework(
    framework: str, pair: Pair, compare: Callable[[dict[str, Measure]], Rounds], effort: Effort, findings: Findings
) -> None:
    found: dict[str, Rounds] = {}
    for title, calls, concurrency, pause_ms in (
        ("back to back", effort.calls(CALLS_ALONE), 1, 0.0),
        ("2 ms apart", effort.calls(CALLS_APART), 1, PAUSE_MS),
        (f"{THREADS} threads", effort.calls(CALLS_TOGETHER), THREADS, 0.0),
    ):
        subjects: dict[str, Measure] = {}
        for way in pair.ways:
            subjects |= pair.measures(way, calls, concurrency, pause_ms)
        found[title] = compare(subjects)
        findings.keep(f"{framework}, {title}", found[title])
    for way in pair.ways:
        _judge(f"{framework}, {way}", way, found, findings)


def _judge(title: str, way: str, found: dict[str, Rounds], findings: Findings) -> None:
    with_it, without = f"{way}, governed", f"{way}, alone"
    close, together = found["back to back"], found[f"{THREADS} threads"]
    findings.add(f"{title}: the framework's own p50", close.median(without, "p50_ms"), "ms")
    for pace in ("back to back", "2 ms apart"):
        added = found[pace].difference(with_it, without, "p50_ms")
        findings.at_most(f"{title}: added, p50, {pace}", added, "ms", ADDED_MS)
    findings.add(f"{title}: added, mean, back to back", _mean_ms(close, with_it) - _mean_ms(close, without), "ms")
    findings.add(f"{title}: governed / own: p50", close.ratio(with_it, without, "p50_ms"), "×")
    findings.add(f"{title}: CPU added to the agent's process", close.difference(with_it, without, "cpu_us"), "µs")
    findings.add(f"{title}: {THREADS} threads, own calls/s", together.median(without, "calls_per_s"), "/s")
    findings.add(f"{title}: {THREADS} threads, governed calls/s", together.median(with_it, "calls_per_s"), "/s")


def _mean_ms(rounds: Rounds, name: str) -> float:
    """With all that the framework does for a call: CrewAI's handlers of events run on threads of their own, and where
    the tool never waits, as here without Outrider, mostly after the call that they belong to."""
    return 1000 / rounds.median(name, "calls_per_s")


def _nothing_lost(data: Path, asked: dict[str, int], findings: Findings) -> None:
    """The agents saw each call answered by its own one execution; the ledger must know as many good ends."""
    ended = _good_ends(data)
    for framework, calls in asked.items():
        known = sum(count for tool, count in ended.items() if tool.startswith(f"local.read_{framework}"))
        findings.add(f"{framework}: governed calls in all", calls, "")
        findings.at_most(f"{framework}: calls whose end the ledger lacks or has twice", abs(calls - known), "", 0)


def _good_ends(data: Path) -> Counter[str]:
    """How many calls of each tool ended well."""
    ended: Counter[str] = Counter()
    wanted, before = query.Filter(tool="local.read_*", type="call.finished"), None
    while True:
        page = query.search(data, wanted, limit=query.MAX_LIMIT, before_seq=before)
        ended.update(record["tool"] for record in page.records if record["outcome"] == "ok")
        before = page.next_before_seq
        if before is None:
            return ended


# ── importing it ─────────────────────────────────────────────────────────────────────────────────────────────────────


def imports(folder: Path, effort: Effort) -> Findings:
    """A fresh process that imports a framework against one that installs the adapter too."""
    findings = Findings("imports")
    began = time.monotonic()
    with Household(folder) as household:
        sidecar = start_sidecar(household, "sidecar", policy(NO_UPSTREAM))
        noise = Noise(household)
        env = QUIET | sidecar.environment() | {"CREWAI_STORAGE_DIR": str(folder / "crewai")}
        for framework in _installed(findings):
            subjects = {how: _fresh(household, framework, how, env) for how in ("alone", "governed")}
            found = interleaved(subjects, _rounds(effort), noise)
            findings.keep(framework, found)
            _judge_import(framework, found, findings)
    findings.took_s = time.monotonic() - began
    return findings


def _fresh(household: Household, framework: str, how: str, env: dict[str, str]) -> Measure:
    def measure() -> Sample:
        child = household.python("adapters_fresh", framework, how, env=env)
        took_s, cpu_s = (float(word) for word in child.line().split())
        child.stop()
        times = dict.fromkeys(("p50_ms", "p90_ms", "p99_ms"), took_s * 1000)
        return sample({"wrong": 0, "calls": 1, "calls_per_s": 1 / took_s, **times}, cpu_s)

    return measure


def _judge_import(framework: str, found: Rounds, findings: Findings) -> None:
    added_s = found.difference("governed", "alone", "p50_ms") / 1000
    findings.add(f"{framework}: import {PACKAGES[framework]}", found.median("alone", "p50_ms") / 1000, "s")
    findings.at_most(f"{framework}: added by importing and installing the adapter", added_s, "s", ADDED_IMPORT_S)
    cpu_s = found.difference("governed", "alone", "cpu_us") / 1e6
    findings.add(f"{framework}: of that, processor time", cpu_s, "s")

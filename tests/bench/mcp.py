"""An MCP call through the sidecar: against the bare aiohttp pass-through, and against a raw client of a stdio child."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.baselines import start_plain_proxy
from tests.bench.client import http_request
from tests.bench.figures import Effort, Findings
from tests.bench.mcp_upstream import MODERN
from tests.bench.processes import ROOT, Child, Household, Noise
from tests.bench.rounds import Measure, Rounds, interleaved, measured
from tests.bench.sidecar import Sidecar, start_sidecar

ARGS = {"id": "42", "amount": 250}
CALLS_ALONE = 400
CALLS_TOGETHER = 2000
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
}
POLICY = """\
apiVersion: outrider.dev/v1alpha1
kind: Policy
metadata: {{name: bench}}
domain:
  bulkhead: {{maxConcurrent: 256, maxQueue: 256}}
upstreams:
  bench:
    mcp: {server}
tools:
  - {{match: "bench.read", effect: read}}
rules:
  - {{name: everything, tools: ["*"], then: allow}}
"""


def call_request(path: str, token: str = "") -> str:
    """A whole ``tools/call`` of version 2026-07-28, for the lean client."""
    params = {"name": "read", "arguments": ARGS, "_meta": META}
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "read",
    }
    return http_request("POST", path, body, {**headers, **({"Authorization": f"Bearer {token}"} if token else {})})


def mcp(folder: Path, effort: Effort) -> Findings:
    """One ``tools/call`` through the whole pipeline."""
    findings = Findings("mcp")
    began = time.monotonic()
    with Household(folder) as household:
        alone, together = _http(household, effort, findings)
        pipes = _stdio(household, effort, findings)
    findings.took_s = time.monotonic() - began
    _judge(findings, alone, together)
    for name in ("raw stdio", "governed stdio"):
        findings.add(f"{name}: p50", pipes.median(name, "p50_ms"), "ms")
    added = pipes.difference("governed stdio", "raw stdio", "p50_ms")
    findings.at_most("stdio, added by the sidecar: p50", added, "ms", 1.0)
    return findings


def _http(household: Household, effort: Effort, findings: Findings) -> tuple[Rounds, Rounds]:
    upstream = household.python("mcp_upstream")
    port = int(upstream.line())
    client = household.python("client")
    sidecar = start_sidecar(household, "sidecar", POLICY.format(server=f'{{url: "http://127.0.0.1:{port}/mcp"}}'))
    proxy, proxy_port = start_plain_proxy(household, port)
    noise = Noise(household)

    def ask(subject: Child, at: int, request: str, concurrency: int, calls: int) -> Measure:
        command: dict[str, Any] = {"requests": [request], "concurrency": concurrency, "calls": calls}
        return lambda: measured(lambda: client.ask(port=at, **command), subject)

    found = []
    for concurrency, calls in ((1, effort.calls(CALLS_ALONE)), (32, effort.calls(CALLS_TOGETHER))):
        subjects = {
            "direct": ask(upstream, port, call_request("/mcp"), concurrency, calls),
            "pass-through": ask(proxy, proxy_port, call_request("/mcp"), concurrency, calls),
            "governed": ask(sidecar.child, sidecar.port, call_request("/mcp/bench", sidecar.token), concurrency, calls),
        }
        found.append(interleaved(subjects, effort.rounds, noise))
        findings.keep(f"concurrency {concurrency}", found[-1])
    return found[0], found[1]


def _judge(findings: Findings, alone: Rounds, together: Rounds) -> None:
    for name in ("direct", "pass-through", "governed"):
        findings.add(f"{name}: p50, concurrency 1", alone.median(name, "p50_ms"), "ms")
        findings.add(f"{name}: calls/s, concurrency 32", together.median(name, "calls_per_s"), "/s")
    for name in ("pass-through", "governed"):
        findings.add(f"{name}: CPU a call, concurrency 1", alone.median(name, "cpu_us"), "µs")
        findings.add(f"{name}: CPU a call, concurrency 32", together.median(name, "cpu_us"), "µs")
    base = "pass-through"
    findings.at_most("governed / pass-through: p50", alone.ratio("governed", base, "p50_ms"), "×", 1.8)
    for concurrency, rounds in ((1, alone), (32, together)):
        ratio = rounds.ratio("governed", base, "cpu_us")
        findings.at_most(f"governed / pass-through: CPU, concurrency {concurrency}", ratio, "×", 2.0)


def _stdio(household: Household, effort: Effort, findings: Findings) -> Rounds:
    """The same child twice: behind the sidecar, and at the other end of a raw client's pipes."""
    command = json.dumps([sys.executable, "-m", "tests.bench.mcp_upstream", "stdio"])
    server = f"{{command: {command}, cwd: {json.dumps(str(ROOT))}}}"
    sidecar: Sidecar = start_sidecar(household, "sidecar-stdio", POLICY.format(server=server))
    client = household.python("client")
    raw = household.python("mcp_pipes")
    noise = Noise(household)
    calls = effort.calls(CALLS_ALONE)
    request = call_request("/mcp/bench", sidecar.token)
    subjects: dict[str, Measure] = {
        "raw stdio": lambda: measured(lambda: raw.ask(calls=calls), raw),
        "governed stdio": lambda: measured(
            lambda: client.ask(port=sidecar.port, requests=[request], concurrency=1, calls=calls, pause_ms=0.0),
            sidecar.child,
        ),
    }
    found = interleaved(subjects, effort.rounds, noise)
    findings.keep("stdio", found)
    return found

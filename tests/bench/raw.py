"""Raw HTTP through the sidecar against the plain aiohttp proxy: the same requests, a base URL apart."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench.baselines import start_plain_proxy
from tests.bench.client import http_request
from tests.bench.figures import Effort, Findings
from tests.bench.processes import Child, Household, Noise
from tests.bench.rounds import Measure, Rounds, interleaved, measured
from tests.bench.sidecar import Sidecar, policy, start_sidecar

ARGS = {"id": "42", "at": "2026-01-01", "amount": 250}
ACCOUNT = '  - {match: bench.account, effect: read, http: {method: GET, path: "/accounts/{args.id}"}}\n'
P50 = 1.4
SUBJECTS = ("plain proxy", "raw", "by name")


def raw(folder: Path, effort: Effort) -> Findings:
    """A read with a JSON body, by its name, and one with a path and a query, by its template."""
    findings = Findings("raw")
    began = time.monotonic()
    with Household(folder) as household:
        client, upstream = household.python("client"), household.python("upstream")
        port = int(upstream.line())
        sidecar = start_sidecar(household, "sidecar", policy(port).replace("rules:\n", ACCOUNT + "rules:\n", 1))
        proxy = start_plain_proxy(household, port)
        noise = Noise(household)
        for what, method, path in (("POST", "POST", "/read"), ("GET", "GET", "/accounts/42?at=2026-01-01")):
            for concurrency, calls in ((1, effort.calls(400)), (32, effort.calls(2000))):
                found = interleaved(
                    _subjects(client, proxy, sidecar, method, path, concurrency, calls), effort.rounds, noise
                )
                findings.keep(f"{what}, concurrency {concurrency}", found)
                _judge(findings, found, what, concurrency)
    findings.took_s = time.monotonic() - began
    return findings


def _subjects(
    client: Child, proxy: tuple[Child, int], sidecar: Sidecar, method: str, path: str, concurrency: int, calls: int
) -> dict[str, Measure]:
    targets = {
        "plain proxy": (*proxy, _request(method, path, "")),
        "raw": (sidecar.child, sidecar.port, _request(method, f"/http/bench{path}", sidecar.token)),
        "by name": (sidecar.child, sidecar.port, sidecar.request("bench.read", ARGS)),
    }

    def load(child: Child, port: int, request: str) -> Measure:
        ask = {"requests": [request], "concurrency": concurrency, "calls": calls, "pause_ms": 0.0}
        return lambda: measured(lambda: client.ask(port=port, **ask), child)

    return {name: load(*target) for name, target in targets.items()}


def _request(method: str, path: str, token: str) -> str:
    own = {"Outrider-Token": token} if token else {"X-Client": "bench"}
    if method == "POST":
        return http_request(method, path, ARGS, own)
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in own.items())]
    return "\r\n".join(lines) + "\r\n\r\n"


def _judge(findings: Findings, found: Rounds, what: str, concurrency: int) -> None:
    if concurrency == 1:
        for name in SUBJECTS:
            findings.add(f"{what}, {name}: p50", found.median(name, "p50_ms"), "ms")
        findings.at_most(f"{what}, raw / plain proxy: p50", found.ratio("raw", "plain proxy", "p50_ms"), "×", P50)
        findings.add(f"{what}, raw / by name (POST /v1/call): p50", found.ratio("raw", "by name", "p50_ms"), "×")
    for other in ("plain proxy", "by name"):
        ratio = found.ratio("raw", other, "cpu_us")
        findings.add(f"{what}, raw / {other}: CPU, concurrency {concurrency}", ratio, "×")

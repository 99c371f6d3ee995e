"""One global kill, asked of one of three sidecars that know each other, with 500 calls in flight over all of them.

A call's cancel is timed from the moment that the kill is sent to the moment that its caller has the answer; all
processes share two cores with the 500 callers, so what is measured is their work too.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.bench.figures import Effort, Findings
from tests.bench.processes import Broken, Child, Household, Noise, free_port
from tests.bench.sidecar import Sidecar, policy, start_sidecar

SIDECARS = 3
CALLS = 500
P99_MS = 100.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def reach(folder: Path, effort: Effort) -> Findings:
    """The p99 of the cancels, the receipt, and whether it holds every call."""
    findings = Findings("reach")
    began = time.monotonic()
    with Household(folder) as household:
        held = household.python("held")
        sidecars = _three(household, policy(int(held.line())))
        count = effort.calls(CALLS)
        noise = Noise(household)
        rounds = [_round(held, sidecars, count, number) for number in range(max(2, effort.rounds))]
        findings.others = noise.share()
    findings.took_s = time.monotonic() - began
    _judge(findings, rounds, count)
    return findings


def _three(household: Household, text: str) -> list[Sidecar]:
    secret = household.folder / "secret"
    secret.write_text("what-the-sidecars-of-the-bench-share")
    ports = [free_port() for _ in range(SIDECARS)]
    peers = ",".join(f"127.0.0.1:{port}" for port in ports)
    sidecars = [
        start_sidecar(
            household,
            f"sidecar-{n}",
            text,
            arguments=("--control", f"127.0.0.1:{port}", "--peers", peers, "--peer-secret", str(secret)),
        )
        for n, port in enumerate(ports)
    ]
    until = time.monotonic() + 30
    while not all(_all_answer(one) for one in sidecars):
        if time.monotonic() > until:
            raise Broken("the sidecars do not find each other")
        time.sleep(0.1)
    return sidecars


def _all_answer(sidecar: Sidecar) -> bool:
    found = _ask(sidecar, "GET", "/v1/peers")
    return sorted(peer["state"] for peer in found["peers"]) == ["answering"] * (SIDECARS - 1) + ["self"]


def _calls(sidecars: list[Sidecar], count: int, number: int) -> list[tuple[int, str]]:
    """Reads and writes by turns; none the like of one before, which would be barred: its outcome is not known."""
    found = []
    for n in range(count):
        sidecar, tool = sidecars[n % SIDECARS], "bench.read" if n % 2 else "bench.write"
        found.append((sidecar.port, sidecar.request(tool, {"round": number, "n": n})))
    return found


def _round(held: Child, sidecars: list[Sidecar], count: int, number: int) -> dict[str, Any]:
    """All calls hang in their tool; one kill; who was answered when."""
    held.ask(hold=_calls(sidecars, count, number))
    asked = sidecars[number % SIDECARS]
    sent = time.monotonic()
    receipt = _ask(asked, "POST", "/v1/kills", {"scope": "global", "reason": "bench"})
    receipt_ms = (time.monotonic() - sent) * 1000
    ends = held.ask(collect=count)
    _ask(asked, "DELETE", f"/v1/kills/{receipt['id']}", {"reason": "bench"})
    took_ms = sorted((at - sent) * 1000 for at in ends["at"])
    return {
        "p50_ms": took_ms[len(took_ms) // 2],
        "p99_ms": took_ms[min(len(took_ms) - 1, int(len(took_ms) * 0.99))],
        "worst_ms": took_ms[-1],
        "receipt_ms": receipt_ms,
        "reported": len({call["call_id"] for call in receipt["calls"]}),
        "complete": receipt["complete"],
        "wrong": ends["wrong"],
    }


def _ask(sidecar: Sidecar, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {sidecar.admin}"}
    request = urllib.request.Request(f"http://127.0.0.1:{sidecar.control}{path}", data, headers, method=method)
    with _DIRECT.open(request, timeout=60) as answer:
        return json.load(answer)


def _judge(findings: Findings, rounds: list[dict[str, Any]], calls: int) -> None:
    findings.rounds["kills"] = {"raw": rounds}
    unreported = sum(calls - one["reported"] + one["wrong"] + (not one["complete"]) for one in rounds)
    findings.add("calls in flight over three sidecars", calls, "")
    findings.add("cancel: p50, median of the rounds", statistics.median(one["p50_ms"] for one in rounds), "ms")
    p99 = statistics.median(one["p99_ms"] for one in rounds)
    findings.at_most("cancel: p99, median of the rounds", p99, "ms", P99_MS)
    findings.add("cancel: p99, worst round", max(one["p99_ms"] for one in rounds), "ms")
    findings.add("cancel: worst call of all rounds", max(one["worst_ms"] for one in rounds), "ms")
    findings.add("receipt of all three, median", statistics.median(one["receipt_ms"] for one in rounds), "ms")
    findings.at_most("calls that no receipt reported, and receipts not complete", unreported, "", 0)

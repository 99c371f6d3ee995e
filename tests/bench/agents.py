"""A thousand agents, connected and heartbeating: what they cost a sidecar that has nothing else to do."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench.figures import Effort, Findings
from tests.bench.processes import Broken, Household, Noise
from tests.bench.sidecar import policy, start_sidecar

AGENTS = 1000
WARM_UP = 50
"""Connected before memory is looked at: what the first ones cost is the code's, not theirs."""
WATCHED_S = 30.0
CPU_SHARE = 0.05
BYTES_EACH = 40 * 1024
LIMITS = "limits: {maxChannels: 2000, maxAgents: 5000}\n"


def agents(folder: Path, effort: Effort) -> Findings:
    """The share of a core, and the memory of each."""
    findings = Findings("agents")
    began = time.monotonic()
    with Household(folder) as household:
        crowd = household.python("crowd")
        sidecar = start_sidecar(household, "sidecar", policy(1) + LIMITS)
        noise = Noise(household)
        count = effort.calls(AGENTS)
        where = {"port": sidecar.port, "token": sidecar.token}
        crowd.ask(**where, count=WARM_UP)
        time.sleep(2.0)
        before = sidecar.child.rss_bytes()
        crowd.ask(**where, count=count)
        time.sleep(3.0)
        each = (sidecar.child.rss_bytes() - before) / count
        watched_s = max(6.0, WATCHED_S * effort.factor)
        spent, since = sidecar.child.cpu_s(), time.monotonic()
        time.sleep(watched_s)
        share = (sidecar.child.cpu_s() - spent) / (time.monotonic() - since)
        if (there := crowd.ask()["connected"]) != count + WARM_UP:
            raise Broken(f"only {there} of {count + WARM_UP} agents are still connected")
        grown = (sidecar.child.rss_bytes() - before) / count
        findings.others = noise.share()
    findings.took_s = time.monotonic() - began
    findings.add("agents connected, each a heartbeat and a ping every 5 s", count + WARM_UP, "")
    findings.at_most("of one core", share * 100, "%", CPU_SHARE * 100)
    findings.at_most("memory of each, once all are connected", each / 1024, "kB", BYTES_EACH / 1024)
    findings.at_most("memory of each, after the watch", grown / 1024, "kB", BYTES_EACH / 1024)
    return findings

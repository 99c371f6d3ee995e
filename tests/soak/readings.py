"""What a sidecar holds, as itself and the system tell: that is where a leak shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.soak.world import World


@dataclass(frozen=True, slots=True)
class Reading:
    """At one moment. ``held``: slots of bulkheads and places in their queues."""

    memory_mb: float
    descriptors: int
    threads: int
    tasks: int
    calls: int
    processes: int
    held: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read(world: World) -> Reading:
    """Now."""
    metrics = _metrics(world.sidecar.control("GET", "/metrics")[1])
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{world.sidecar.pid}/status").read_text().splitlines() if ":" in line
    )
    upstreams = world.control("GET", "/v1/upstreams")["upstreams"]
    bulkheads = [domain["bulkhead"] for upstream in upstreams for domain in upstream["domains"]]
    return Reading(
        memory_mb=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=len(list(Path(f"/proc/{world.sidecar.pid}/fd").iterdir())),
        threads=int(status["Threads"]),
        tasks=int(metrics["outrider_tasks"]),
        calls=int(metrics["outrider_calls_in_flight"]),
        processes=int(metrics["outrider_agents_connected"]),
        held=sum(one["held"] + one["waiting"] for one in bulkheads),
    )


def _metrics(text: str) -> dict[str, float]:
    """Those without labels."""
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {words[0]: float(words[1]) for words in lines if len(words) == 2 and "{" not in words[0]}

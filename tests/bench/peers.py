"""``python -m tests.bench.peers``: other MCP gateways beside ours, on this machine, in one run. Outside CI.

Each is a process of an environment of its own, with the same server behind it and the same client before it, which is a
plain one on aiohttp, in the newest version that the peer speaks: 16 calls at once, one tool. Rounds take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import contextforge
from tests.bench.contextforge import start_contextforge
from tests.bench.mcp import ARGS, POLICY
from tests.bench.mcp_upstream import LEGACY, MODERN
from tests.bench.processes import Broken, Child, Household, await_port, free_port
from tests.bench.sidecar import start_sidecar
from tests.conformance.mcp.environments import Unavailable, python
from tests.conformance.mcp.talker import Talker

FASTMCP = "fastmcp==4.1.2"
PROXY = Path(__file__).parents[1] / "conformance" / "mcp" / "peers" / "fastmcp_proxy.py"
TOGETHER = 16
ROUND_S = 4.0
WANTED = 10.0
"""How many times a peer's calls per second ours should be."""


@dataclass
class Peer:
    name: str
    child: Child
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    version: str = MODERN
    tool: str = "read"
    calls_per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def rate(self) -> float:
        return statistics.median(self.calls_per_s)


async def measure(peer: Peer, seconds: float) -> None:
    """One round: as many calls as it answers. Raises what a call raises."""
    async with Talker(peer.url, peer.version, peer.headers) as talker:
        await talker.call(peer.tool, ARGS)
        until, before = time.perf_counter() + seconds, peer.child.cpu_s()
        began = time.perf_counter()
        counts = await asyncio.gather(*(_calls(talker, peer.tool, until) for _ in range(TOGETHER)))
        took_s = time.perf_counter() - began
    peer.calls_per_s.append(sum(counts) / took_s)
    peer.cpu_ms.append((peer.child.cpu_s() - before) / sum(counts) * 1e3)


async def _calls(talker: Talker, tool: str, until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        result = await talker.call(tool, ARGS)
        if result.get("isError"):
            raise Broken(f"a call failed: {result}")
        count += 1
    return count


def start(household: Household) -> list[Peer]:
    """Ours first. Raises Broken, Unavailable, OSError."""
    upstream = household.python("mcp_upstream")
    url = f"http://127.0.0.1:{int(upstream.line())}/mcp"
    sidecar = start_sidecar(household, "sidecar", POLICY.format(server=f'{{url: "{url}"}}'))
    bearer = {"Authorization": f"Bearer {sidecar.token}"}
    ours = Peer("outrider", sidecar.child, f"http://127.0.0.1:{sidecar.port}/mcp/bench", bearer)
    port = free_port()
    proxy = household.start("fastmcp", [str(python("peer-fastmcp", FASTMCP)), str(PROXY), url, str(port)])
    await_port(proxy, port)
    fast = Peer(f"{FASTMCP}, create_proxy", proxy, f"http://127.0.0.1:{port}/mcp")
    child, address, token = start_contextforge(household, url)
    forge = Peer(contextforge.PACKAGE, child, address, {"Authorization": f"Bearer {token}"}, LEGACY, contextforge.TOOL)
    return [ours, fast, forge]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that processes are ended on the way out
    try:
        with tempfile.TemporaryDirectory() as folder, Household(Path(folder)) as household:
            peers = start(household)
            for number in range(options.rounds):
                for peer in peers if number % 2 == 0 else reversed(peers):
                    asyncio.run(measure(peer, ROUND_S))
    except (Broken, Unavailable, OSError) as why:
        print(f"The peers could not be measured: {why}", file=sys.stderr)
        return 1
    Console(width=None if sys.stdout.isatty() else 120).print(_table(peers))
    return 0


def _table(peers: list[Peer]) -> Table:
    table = Table(title=f"tools/call, {TOGETHER} at once", title_justify="left")
    for name in ("gateway", "calls/s", "CPU a call", f"ours is (wanted: {WANTED:g} ×)"):
        table.add_column(name, justify="left" if name == "gateway" else "right")
    for peer in peers:
        times = f"{peers[0].rate() / peer.rate():.1f} ×" if peer is not peers[0] else ""
        table.add_row(peer.name, f"{peer.rate():,.0f}", f"{statistics.median(peer.cpu_ms):.2f} ms", times)
    return table


if __name__ == "__main__":
    sys.exit(main())

"""A real Outrider for the bench: a policy folder, a data folder, and the process on free ports."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.client import http_request
from tests.bench.processes import Broken, Child, Household

READY = re.compile(r"outrider ready listen=[\d.]+:(\d+) control=[\d.]+:(\d+) pid=(\d+)")

POLICY = """\
apiVersion: outrider.dev/v1alpha1
kind: Policy
metadata: {{name: bench}}
domain:
  bulkhead: {{maxConcurrent: 256, maxQueue: 256}}
upstreams:
  bench:
    http: {{url: "http://127.0.0.1:{port}"}}
tools:
  - {{match: "bench.read*", effect: read}}
  - {{match: "bench.write*", effect: write}}
  - {{match: "local.read*", effect: read}}
  - {{match: "local.write*", effect: write}}
{tools}rules:
  - {{name: everything, tools: ["*"], then: allow}}
{rules}"""


def policy(upstream_port: int, size: int = 0) -> str:
    """The bench's policy; ``size`` adds as many tools and as many rules. Every tool of them has an entry of its own;
    of the rules, half match exactly one tool and have a condition, half are prefixes that match nothing that is called.
    """
    tools = "".join(_tool(n) for n in range(size))
    rules = "".join(_rule(n) for n in range(size))
    return POLICY.format(port=upstream_port, tools=tools, rules=rules)


def _tool(n: int) -> str:
    timeouts = f"timeouts: {{perTry: {1 + n % 7}s}}"
    return f'  - {{match: bench.read_{n}, effect: read, {timeouts}, redact: ["$.args.secret_{n}"]}}\n'


def _rule(n: int) -> str:
    if n % 2:
        return f'  - {{name: rule {n}, tools: ["other.group_{n}_*"], when: "args.amount > {n}", then: deny}}\n'
    return f'  - {{name: rule {n}, tools: [bench.read_{n}], when: "args.amount > {n + 10_000}", then: deny}}\n'


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A running one. ``ready_s`` is the time from its start to its ready line, ``admin`` the people's token."""

    child: Child
    port: int
    token: str
    ready_s: float
    control: int
    admin: str

    def request(self, tool: str, args: dict[str, Any], agent: str = "bench") -> str:
        """A whole ``POST /v1/call``."""
        body = {"tool": tool, "args": args, "agent": agent}
        return http_request("POST", "/v1/call", body, {"Authorization": f"Bearer {self.token}"})

    def environment(self) -> dict[str, str]:
        """What an adapter's process is told."""
        return {
            "OUTRIDER_URL": f"http://127.0.0.1:{self.port}",
            "OUTRIDER_TOKEN": self.token,
            "OUTRIDER_AGENT": "bench",
        }


def start_sidecar(
    household: Household,
    name: str,
    policy_text: str,
    data: Path | None = None,
    env: dict[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> Sidecar:
    """Write the policy, start the process, wait until it serves. Later ``arguments`` outdo ours. Raises Broken."""
    folder = household.folder / f"{name}-policy"
    folder.mkdir(exist_ok=True)
    (folder / "policy.yaml").write_text(policy_text)
    data = data or household.folder / f"{name}-data"
    argv = [sys.executable, "-m", "outrider", "serve", "--policy", str(folder), "--data", str(data)]
    child = household.start(name, [*argv, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", *arguments], env)
    line = child.line()
    ready_s = time.monotonic() - child.started
    found = READY.fullmatch(line.strip())
    if found is None:
        raise Broken(f"the sidecar printed another line than its ready one: {line!r}")
    if int(found.group(3)) != child.pid:
        raise Broken("the sidecar is not the process that was started, so its CPU time cannot be read")
    token, admin = ((data / f"{whose}.token").read_text().strip() for whose in ("agent", "admin"))
    return Sidecar(child, int(found.group(1)), token, ready_s, int(found.group(2)), admin)

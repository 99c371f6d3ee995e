"""Functions of an agent's process, a real sidecar, and SIGKILL on either side."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from outrider.ledger.verify import verify
from outrider.testing.gateway import GatewayProcess
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(120)
POLICY: dict[str, Any] = {
    "defaults": {"timeouts": {"total": "30s", "perTry": "20s"}},
    "limits": {"suspectFor": "2s"},
    "tools": [{"match": "local.read*", "effect": "read"}, {"match": "local.write*", "effect": "write"}],
    "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
}


def agent(gateway: GatewayProcess, folder: Path, program: str) -> subprocess.Popen[str]:
    """A process that runs ``program``; it appends a line to ``ran`` for each execution of a function."""
    source = "import sys, time, asyncio\nfrom pathlib import Path\nfrom outrider_adapters.governed import governed\n"
    source += "def ran(what):\n    with open('ran', 'a') as f: f.write(what + '\\n')\n"
    (folder / "agent.py").write_text(source + textwrap.dedent(program))
    return subprocess.Popen(
        [sys.executable, "agent.py"], cwd=folder, env={**os.environ, **gateway.env, "OUTRIDER_AGENT": "worker"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ran(folder: Path) -> list[str]:
    path = folder / "ran"
    return path.read_text().split() if path.exists() else []


def records(gateway: GatewayProcess) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{gateway.data}/outrider.db?mode=ro", uri=True)) as db:
        return [json.loads(line) for (line,) in db.execute("SELECT line FROM ledger ORDER BY seq")]


def of_type(gateway: GatewayProcess, kind: str) -> list[dict[str, Any]]:
    return [record for record in records(gateway) if record["type"] == kind]


SLOW_WRITE = """
    @governed(name="local.write")
    def write(n):
        ran("write"); time.sleep(3.0); return {"written": n}
    print("result", write(1), flush=True)
"""


def test_a_result_is_recorded_and_not_repeated_when_the_sidecar_is_killed_meanwhile(
    outrider_gateway: Any, tmp_path: Path
) -> None:
    """The agent gets the real result; the restarted sidecar learns it from the adapter's spool."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    process = agent(gateway, tmp_path, SLOW_WRITE + "    time.sleep(6)\n")
    assert eventually(lambda: ran(tmp_path) == ["write"])
    gateway.kill9()
    gateway.start()
    assert eventually(lambda: bool(of_type(gateway, "call.finished")), within_s=15)
    (start,) = of_type(gateway, "attempt.started")
    (end,) = of_type(gateway, "attempt.finished")
    (finished,) = of_type(gateway, "call.finished")
    assert (end["outcome"], end["data"]["recovered"], finished["outcome"]) == ("ok", True, "ok")
    assert start["call_id"] == end["call_id"] == finished["call_id"]
    out, err = process.communicate(timeout=30)
    assert "result {'written': 1}" in out, err
    assert ran(tmp_path) == ["write"]
    assert verify(gateway.data).ok


def test_an_agent_killed_in_the_middle_of_a_call_leaves_an_unknown_outcome(
    outrider_gateway: Any, tmp_path: Path
) -> None:
    """After the suspect window; its like is then barred for another process of that agent."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    process = agent(gateway, tmp_path, SLOW_WRITE)
    assert eventually(lambda: ran(tmp_path) == ["write"])
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert eventually(lambda: bool(of_type(gateway, "call.finished")), within_s=10)
    (end,) = of_type(gateway, "attempt.finished")
    assert end["outcome"] == "unknown"
    assert eventually(lambda: [record["data"]["change"] for record in of_type(gateway, "agent.lost")] == ["lost"])
    _, upstreams = gateway.control("GET", "/v1/upstreams")
    assert '"held": 1' not in json.dumps(upstreams)


def test_a_child_forked_inside_a_function_makes_calls_of_its_own(outrider_gateway: Any, tmp_path: Path) -> None:
    """It is another process, so the function is no parent of its calls; the run and the agent are the same."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    process = agent(
        gateway,
        tmp_path,
        """
        import os

        @governed(name="local.read_inner")
        def inner():
            return "inner"

        @governed(name="local.write_outer")
        def outer():
            child = os.fork()
            if child == 0:
                try:
                    ran(inner())
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            return "outer"

        outer()
        """,
    )
    _, err = process.communicate(timeout=60)
    assert (process.returncode, ran(tmp_path)) == (0, ["inner"]), err
    outer, inner = of_type(gateway, "call.received")
    assert "parent_call_id" not in inner
    assert (inner["run_id"], inner["agent"]["name"]) == (outer["run_id"], "worker")
    assert {record["outcome"] for record in of_type(gateway, "call.finished")} == {"ok"}


def test_both_killed_leaves_one_honest_end(outrider_gateway: Any, tmp_path: Path) -> None:
    """Nobody comes back to say how it ended: unknown, once."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    process = agent(gateway, tmp_path, SLOW_WRITE)
    assert eventually(lambda: ran(tmp_path) == ["write"])
    gateway.kill9()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    gateway.start()
    assert eventually(lambda: bool(of_type(gateway, "call.finished")), within_s=15)
    ends = Counter((r["call_id"], r["attempt"]) for r in of_type(gateway, "attempt.finished"))
    assert set(ends.values()) == {1}
    assert of_type(gateway, "call.finished")[0]["outcome"] == "unknown"
    assert verify(gateway.data).ok


def test_a_kill_acknowledged_while_an_agents_loop_is_blocked_lets_nothing_start_afterwards(
    outrider_gateway: Any, tmp_path: Path
) -> None:
    """`aborted: not_started` is a proof: the receipt says not_executed, and the function never runs."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    process = agent(
        gateway,
        tmp_path,
        """
        @governed(name="local.write")
        async def write(n):
            ran("write"); return n
        async def main():
            warm = asyncio.create_task(write(0))
            await warm
            task = asyncio.create_task(write(1))
            await asyncio.sleep(0)          # the call is opened ...
            ran("blocked"); time.sleep(3)   # ... and the loop is blocked before it can begin
            try:
                print("result", await task, flush=True)
            except Exception as error:
                print("error", getattr(error, "code", error), flush=True)
        asyncio.run(main())
        """,
    )
    assert eventually(lambda: "blocked" in ran(tmp_path))
    time.sleep(0.5)
    status, receipt = gateway.control("POST", "/v1/kills", {"scope": "agent:worker", "reason": "stop"})
    assert status == 201
    assert receipt["counts"] == {"not_executed": 1, "completed": 0, "unknown": 0}
    out, err = process.communicate(timeout=30)
    assert "error killed" in out, out + err
    assert ran(tmp_path) == ["write", "blocked"]


def test_a_killed_call_inside_a_running_thread_is_unknown_and_its_slot_stays_taken_until_it_ends(
    outrider_gateway: Any, tmp_path: Path
) -> None:
    """A thread cannot be stopped; that is said, and not papered over."""
    policy = POLICY | {"domain": {"bulkhead": {"maxConcurrent": 1, "maxQueue": 0}}}
    gateway: GatewayProcess = outrider_gateway(policy)
    process = agent(
        gateway,
        tmp_path,
        """
        @governed(name="local.write")
        def write(n):
            ran("write"); time.sleep(3.0); return n
        try:
            write(1)
        except Exception as error:
            print("first", error.code, flush=True)
        Path("ended").touch()
        time.sleep(6)
        """,
    )
    assert eventually(lambda: ran(tmp_path) == ["write"])
    _, receipt = gateway.control("POST", "/v1/kills", {"scope": "tool:local.write", "reason": "stop"})
    assert receipt["counts"] == {"not_executed": 0, "completed": 0, "unknown": 1}
    assert eventually((tmp_path / "ended").exists)  # the caller is freed at once

    def held() -> int:
        return json.dumps(gateway.control("GET", "/v1/upstreams")[1]).count('"held": 1')

    assert held() == 1
    assert eventually(lambda: held() == 0, within_s=8)
    settled = of_type(gateway, "attempt.settled")
    assert [record["outcome"] for record in settled] in (["ok"], [])
    process.terminate()
    process.communicate(timeout=10)

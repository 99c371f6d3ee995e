"""SIGKILL of the sidecar: nothing acknowledged is lost, every attempt gets one end, no write is sent twice."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from outrider.ledger.verify import verify
from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import hang, respond
from outrider.testing.upstream_process import UpstreamProcess

pytestmark = pytest.mark.timeout(120)
CALLS = 200


def policy(upstream: UpstreamProcess) -> dict[str, Any]:
    return {
        "defaults": {"timeouts": {"total": "20s", "perTry": "10s"}},
        "domain": {"bulkhead": {"maxConcurrent": 100, "maxQueue": 500, "maxWait": "20s"}},
        "upstreams": {"up": {"http": {"url": upstream.url}}},
        "tools": [{"match": "up.read*", "effect": "read"}, {"match": "up.write*", "effect": "write"}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }


def lines(data: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{data}/outrider.db?mode=ro", uri=True)) as db:
        return [json.loads(line) for (line,) in db.execute("SELECT line FROM ledger ORDER BY seq")]


def test_sigkill_amid_200_concurrent_calls(scripted_upstream: UpstreamProcess) -> None:
    """Half of them writes; killed while many are at the upstream; then a restart on the same data."""
    scripted_upstream.script("*", respond(json={"done": True}).after(0.15))
    with GatewayProcess(policy(scripted_upstream)) as gateway:
        answered: dict[str, int] = {}
        lock = threading.Lock()

        def one(n: int) -> None:
            tool = "up.write" if n % 2 else "up.read"
            try:
                status, answer = gateway.call(tool, {"n": n}, run=f"run-{n}")
            except OSError:
                return
            if status == 200:
                with lock:
                    answered[answer["call_id"]] = n

        with ThreadPoolExecutor(CALLS) as pool:
            futures = [pool.submit(one, n) for n in range(CALLS)]
            scripted_upstream.wait_for(40)
            time.sleep(0.2)
            gateway.kill9()
            for future in futures:
                future.result()
        before = scripted_upstream.count()
        gateway.start()
        report = verify(gateway.data)
        assert report.ok, report
        records = lines(gateway.data)
        started = Counter((r["call_id"], r["attempt"]) for r in records if r["type"] == "attempt.started")
        ended = Counter((r["call_id"], r["attempt"]) for r in records if r["type"] == "attempt.finished")
        assert started == ended and set(started.values()) == {1}
        taken = {r["call_id"] for r in records if r["type"] == "call.received"}
        finished = Counter(r["call_id"] for r in records if r["type"] in {"call.finished", "call.refused"})
        assert set(finished) == taken and set(finished.values()) == {1}
        acknowledged = {r["call_id"] for r in records if r["type"] == "call.finished" and r["outcome"] == "ok"}
        assert set(answered) <= acknowledged  # nothing acknowledged is lost
        sent_writes = scripted_upstream.requests("/write")
        writes = Counter(r.body for r in sent_writes)
        assert writes and set(writes.values()) == {1}  # no write was sent twice
        known = {r["call_id"] for r in records if r["type"] == "attempt.started"}
        at_upstream = {r.headers["outrider-call"] for r in sent_writes}
        assert at_upstream <= known  # no effect was sent whose intent is not in the ledger
        assert scripted_upstream.count() == before
        recovered = [r for r in records if r["type"] == "recovered"]
        assert len(answered) < CALLS and recovered and recovered[-1]["data"]["attempts"] > 0


def test_a_write_that_a_crash_left_open_bars_its_like_until_it_is_settled(scripted_upstream: UpstreamProcess) -> None:
    """The agent saw a broken connection; its model will try again."""
    scripted_upstream.script("*", hang())
    with GatewayProcess(policy(scripted_upstream)) as gateway:

        def lost() -> None:
            with pytest.raises(OSError):
                gateway.call("up.write", {"amount": 5}, run="r1")

        caller = threading.Thread(target=lost)
        caller.start()
        scripted_upstream.wait_for(1)
        gateway.kill9()
        caller.join()
        scripted_upstream.script("*", respond(json={"done": True}))
        gateway.start()
        status, problem = gateway.call("up.write", {"amount": 5}, run="r1")
        assert (status, problem["code"]) == (409, "prior_outcome_unknown")
        (end,) = [r for r in lines(gateway.data) if r["type"] == "call.finished"]
        assert (end["outcome"], end["data"]["recovered"]) == ("unknown", True)
        status, _ = gateway.control(
            "POST", f"/v1/calls/{end['call_id']}/settle", {"as": "not_executed", "reason": "looked it up"}
        )
        assert status == 200
        assert gateway.call("up.write", {"amount": 5}, run="r1")[0] == 200


def test_kills_survive_sigkill(scripted_upstream: UpstreamProcess) -> None:
    """An acknowledged kill is on disk."""
    with GatewayProcess(policy(scripted_upstream)) as gateway:
        status, receipt = gateway.control("POST", "/v1/kills", {"scope": "tool:up.*", "reason": "stop"})
        assert status == 201 and receipt["durable"]
        gateway.kill9()
        gateway.start()
        status, problem = gateway.call("up.read", {})
        assert (status, problem["code"]) == (403, "killed")
        assert gateway.control("DELETE", f"/v1/kills/{receipt['id']}", {"reason": "mended"})[0] in {200, 204}
        assert gateway.call("up.read", {})[0] == 200


def test_sigterm_drains_and_exits_0(scripted_upstream: UpstreamProcess) -> None:
    """What runs ends, new calls are refused, the ledger says stopped."""
    scripted_upstream.script("*", respond(json={"done": True}).after(1.0))
    with GatewayProcess(policy(scripted_upstream)) as gateway, ThreadPoolExecutor(1) as pool:
        running = pool.submit(gateway.call, "up.write", {})
        scripted_upstream.wait_for(1)
        data = gateway.data
        assert gateway.terminate() == 0
        status, answer = running.result()
        assert status == 200 and answer["outcome"] == "ok"
        assert lines(data)[-1]["type"] == "sidecar.stopped"
        assert verify(data).ok


def test_the_kill_file_stops_everything_within_a_second(scripted_upstream: UpstreamProcess) -> None:
    """For when HTTP is gone; removing it lifts nothing."""
    scripted_upstream.script("*", hang())
    with GatewayProcess(policy(scripted_upstream)) as gateway, ThreadPoolExecutor(1) as pool:
        running = pool.submit(gateway.call, "up.write", {})
        scripted_upstream.wait_for(1)
        began = time.monotonic()
        (gateway.data / "KILL").write_text("the pager said so")
        status, problem = running.result()
        assert time.monotonic() - began < 1.5
        assert (status, problem["code"], problem["outcome"]) == (403, "killed", "unknown")
        (gateway.data / "KILL").unlink()
        assert gateway.call("up.read", {})[1]["code"] == "killed"


def test_a_second_sidecar_on_the_same_data_is_refused(scripted_upstream: UpstreamProcess) -> None:
    """Two writers would make two histories."""
    with GatewayProcess(policy(scripted_upstream)) as gateway:
        second = GatewayProcess(policy(scripted_upstream), data=gateway.data)
        with pytest.raises(Exception, match="lock|use|sidecar"):
            second.start(timeout_s=10)
        second.close()
        assert gateway.call("up.read", {})[0] == 200

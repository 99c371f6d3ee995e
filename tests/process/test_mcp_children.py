"""MCP servers that are children of a real sidecar: governed as everything, and gone with it however it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from outrider.cli import main
from outrider.testing.gateway import GatewayProcess
from tests.support.child_kit import command, is_alive
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(120)


def policy(journal: Path, *words: str, **mcp: Any) -> dict[str, Any]:
    return {
        "defaults": {"timeouts": {"total": "20s", "perTry": "15s"}},
        "upstreams": {
            "files": {
                "mcp": {"command": list(command(journal, *words)), **mcp},
                "domain": {"bulkhead": {"maxConcurrent": 200}, "breaker": {"enabled": False}},
            }
        },
        "tools": [{"match": "files.get_*", "effect": "read"}, {"match": "files.die", "effect": "read"}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }


def lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def family(journal: Path) -> list[int]:
    """The child, its helper, and the helper that left its process group."""
    (pid,) = (int(line.split()[1]) for line in lines(journal) if line.startswith("pid "))
    return [pid, *(int(word) for word in journal.with_suffix(".family").read_text().split())]


def child_of(upstreams: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (upstream["mcp"]["child"] for upstream in upstreams if upstream["name"] == "files")
    return dict(found)


def test_two_hundred_calls_at_once_share_one_child(tmp_path: Path) -> None:
    """Through the whole pipeline, with a bulkhead that lets them."""
    journal = tmp_path / "journal"
    with GatewayProcess(policy(journal)) as gateway, ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda n: gateway.call("files.slow", {"n": n, "s": 0.5}), range(200)))
    assert [status for status, _ in answers] == [200] * 200
    assert [answer["result"]["value"] for _, answer in answers] == list(range(200))
    assert sum(line.startswith("pid ") for line in lines(journal)) == 1


@pytest.mark.parametrize("words", [("family",), ("family", "stubborn")])
def test_nothing_of_a_child_outlives_a_sidecar_that_was_killed(tmp_path: Path, words: tuple[str, ...]) -> None:
    """SIGKILL in the middle of a call: child, helper and daemon are gone, also where they ignore SIGTERM."""
    journal = tmp_path / "journal"
    with GatewayProcess(policy(journal, *words, start="atStart")) as gateway, ThreadPoolExecutor(1) as pool:
        assert gateway.call("files.echo", {"n": 1})[0] == 200
        pids = family(journal)
        assert all(is_alive(pid) for pid in pids)
        slow = pool.submit(gateway.call, "files.slow", {"n": 2, "s": 60})
        assert eventually(lambda: "slow 2" in lines(journal))
        gateway.kill9()
        assert slow.exception() is not None
        assert eventually(lambda: not any(is_alive(pid) for pid in pids), within_s=15)


def test_nothing_of_a_child_outlives_an_orderly_end(tmp_path: Path) -> None:
    """SIGTERM: a call under way is answered first."""
    journal = tmp_path / "journal"
    with GatewayProcess(policy(journal, "family")) as gateway, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(gateway.call, "files.slow", {"n": 2, "s": 1.5})
        assert eventually(lambda: "slow 2" in lines(journal))
        pids = family(journal)
        assert gateway.terminate() == 0
        assert slow.result()[0] == 200
    assert [pid for pid in pids if is_alive(pid)] == []


def test_a_read_is_repeated_on_the_child_that_comes_next_and_a_write_is_not(tmp_path: Path) -> None:
    """The server ends in the middle of each: one attempt more for the read, none for the write."""
    journal = tmp_path / "journal"
    with GatewayProcess(policy(journal)) as gateway:
        status, problem = gateway.call("files.die", {"n": 1})
        assert status >= 500 and lines(journal).count("die 1") >= 2, problem
    journal.unlink()
    written = policy(journal)
    written["tools"] = []
    with GatewayProcess(written) as gateway:
        status, problem = gateway.call("files.die", {"n": 1})
        assert (status, problem["outcome"]) == (502, "unknown") and lines(journal).count("die 1") == 1


def test_people_see_how_a_child_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its process, its crashes, and what it said last; in the table and in JSON."""
    journal = tmp_path / "journal"
    with GatewayProcess(policy(journal, start="atStart")) as gateway:
        shown = ["upstreams", "ls", "--data", str(gateway.data)]

        def child() -> dict[str, Any]:
            return child_of(gateway.control("GET", "/v1/upstreams")[1]["upstreams"])

        assert eventually(lambda: child()["state"] == "up")
        assert main(shown) == 0
        assert f"up, pid {child()['pid']}" in capsys.readouterr().out
        gateway.call("files.stderr", {"text": "out of ideas"})
        for n in range(2):
            assert eventually(lambda n=n: child()["state"] == "up" and child()["restarts"] == n)  # type: ignore[misc]
            os.kill(child()["pid"], signal.SIGKILL)
        assert eventually(lambda: child()["state"] == "waiting" and child()["crashes"] == 2)
        assert child()["last_line"] == "out of ideas" and child()["wait_s"] > 5
        assert main(shown) == 0
        assert "crashed, waits" in (told := capsys.readouterr().out) and "was ended by SIGKILL" in told
        assert main([*shown, "--json"]) == 0
        assert child_of(json.loads(capsys.readouterr().out))["restarts"] == 1


def test_a_changed_command_is_a_child_of_its_own(tmp_path: Path) -> None:
    """From the next call on; the one before is kept for calls pinned to the older policy. Both end with the sidecar."""
    journal = tmp_path / "journal"

    def pids() -> list[int]:
        return [int(line.split()[1]) for line in lines(journal) if line.startswith("pid ")]

    with GatewayProcess(policy(journal)) as gateway:
        assert gateway.call("files.echo", {"n": 1})[0] == 200
        gateway.write_policy(policy(journal, "modern"))
        assert eventually(lambda: gateway.call("files.echo", {"n": 2})[0] == 200 and len(pids()) == 2)
        assert all(is_alive(pid) for pid in pids())
        begun = time.monotonic()
        assert gateway.terminate() == 0 and time.monotonic() - begun < 20
    assert [pid for pid in pids() if is_alive(pid)] == []

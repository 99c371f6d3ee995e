"""Runs of a real sidecar: limits under concurrency and over SIGKILL, the routes, and the command line."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from outrider.cli import main
from outrider.ledger.verify import verify
from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import respond
from outrider.testing.upstream_process import UpstreamProcess

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine."""
    for name in [name for name in os.environ if name.startswith("OUTRIDER_")]:
        monkeypatch.delenv(name)


def policy(upstream: UpstreamProcess, **runs: Any) -> dict[str, Any]:
    upstream.script("*", respond(json={"done": True}))
    return {
        "domain": {"bulkhead": {"maxConcurrent": 100, "maxQueue": 500, "maxWait": "20s"}},
        "upstreams": {"up": {"http": {"url": upstream.url}}},
        "tools": [{"match": "up.get_*", "effect": "read"}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
        "runs": runs,
    }


def code(answer: tuple[int, dict[str, Any]]) -> str:
    status, body = answer
    return "ok" if status == 200 else str(body["code"])


def run_away(gateway: GatewayProcess, run: str) -> None:
    """Two equal calls, a warning, and once more: paused."""
    assert [code(gateway.call("up.get_page", {"n": 1}, run=run)) for _ in range(3)] == ["ok", "ok", "runaway"]
    time.sleep(1.1)  # another turn of the model
    assert code(gateway.call("up.get_page", {"n": 1}, run=run)) == "runaway"


WATCH = {"maxCalls": 12, "runaway": {"sameCall": 2, "refusals": 2}}


def test_no_more_calls_reach_the_upstream_than_a_run_may_make(scripted_upstream: UpstreamProcess) -> None:
    """From fifty connections at once, of two agents in one run each."""
    with GatewayProcess(policy(scripted_upstream, maxCalls=12)) as gateway, ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(gateway.call, "up.pay", {"n": n}, run="r", agent="ab"[n % 2]) for n in range(100)]
        answers = [code(one.result()) for one in asked]
        assert answers.count("ok") == 24 == scripted_upstream.count()
        assert set(answers) == {"ok", "run_limit"}


def test_sigkill_gives_no_run_its_calls_back_and_lifts_no_pause(scripted_upstream: UpstreamProcess) -> None:
    """What was acknowledged counts, and a pause is on disk."""
    with GatewayProcess(policy(scripted_upstream, **WATCH)) as gateway:
        assert [code(gateway.call("up.pay", {"n": n}, run="r")) for n in range(9)] == ["ok"] * 9
        run_away(gateway, "p")
        gateway.kill9()
        gateway.start()
        assert [code(gateway.call("up.pay", {"n": n}, run="r")) for n in range(4)] == ["ok"] * 3 + ["run_limit"]
        assert code(gateway.call("up.get_page", {"n": 7}, run="p")) == "runaway"
        assert gateway.control("POST", "/v1/runs/p/resume", {"reason": "mended"})[0] == 200
        assert gateway.control("POST", "/v1/runs/r/resume", {"reason": "more"})[0] == 200
        gateway.kill9()
        gateway.start()
        assert code(gateway.call("up.get_page", {"n": 7}, run="p")) == "ok"
        assert [code(gateway.call("up.pay", {"n": n + 50}, run="r")) for n in range(13)] == ["ok"] * 12 + ["run_limit"]
        assert gateway.terminate() == 0
        assert verify(gateway.data).ok


def test_a_new_token_is_no_new_run_and_anothers_token_is(scripted_upstream: UpstreamProcess) -> None:
    """A run outlasts the credential that it began with, and no other credential spends it."""
    with GatewayProcess(policy(scripted_upstream, maxCalls=3)) as gateway:

        def calls(agent: str, times: int) -> list[str]:
            token = gateway.control("POST", "/v1/tokens", {"agent": agent})[1]["token"]
            body = {"tool": "up.pay", "run": "r"}
            url = f"{gateway.url}/v1/call"
            return [code(gateway.request("POST", url, body | {"args": {"n": n}}, token)) for n in range(times)]

        assert calls("ann", 2) == ["ok", "ok"]
        assert calls("eve", 2) == ["ok", "ok"]
        assert calls("ann", 2) == ["ok", "run_limit"]
        assert {run["owner"] for run in gateway.control("GET", "/v1/runs")[1]["runs"]} == {"agent:ann", "agent:eve"}


def test_the_routes_tell_of_runs_and_refuse_what_they_cannot_do(scripted_upstream: UpstreamProcess) -> None:
    """Each refusal says what and how to mend it."""
    with GatewayProcess(policy(scripted_upstream, **WATCH)) as gateway:
        ask = gateway.control
        gateway.call("up.get_page", {"n": 1}, run="calm", agent="ann")
        run_away(gateway, "wild")
        _, listed = ask("GET", "/v1/runs")
        assert {run["run"]: run["state"] for run in listed["runs"]} == {"calm": "idle", "wild": "paused"}
        assert listed["runs"][0]["run"] == "wild" and listed["more"] == 0
        assert [run["run"] for run in ask("GET", "/v1/runs?agent=ann")[1]["runs"]] == ["calm"]
        assert [run["run"] for run in ask("GET", "/v1/runs?state=paused")[1]["runs"]] == ["wild"]
        narrow = ask("GET", "/v1/runs?limit=1")[1]
        assert (len(narrow["runs"]), narrow["more"]) == (1, 1)
        _, shown = ask("GET", "/v1/runs/wild")
        assert [(call["outcome"], call["code"]) for call in shown["calls"]] == [
            ("ok", ""), ("ok", ""), ("not_executed", "runaway"), ("not_executed", "runaway"),
        ]  # fmt: skip
        assert shown["runs"][0]["limits"]["same_call"] == 2
        for method, path, body, status, word in (
            ("GET", "/v1/runs?state=stopped", None, 400, "running, idle, limited, paused, killed"),
            ("GET", "/v1/runs?stat=idle", None, 400, "did you mean 'state'"),
            ("GET", "/v1/runs?limit=x", None, 400, "not a whole number"),
            ("GET", "/v1/runs/nobody", None, 404, "No run 'nobody'"),
            ("POST", "/v1/runs/nobody/resume", {"reason": "x"}, 404, "No run 'nobody'"),
            ("POST", "/v1/runs/calm/resume", {"reason": "x"}, 409, "Nothing stops the run 'calm'"),
            ("POST", "/v1/runs/wild/resume", {}, 400, "'reason' is missing"),
            ("POST", "/v1/runs/wild/resume", {"reason": " "}, 400, "is empty"),
        ):
            found, problem = ask(method, path, body)
            assert (found, word in problem["detail"]) == (status, True), problem


def test_what_an_unlimited_run_did_is_told_from_the_ledger(scripted_upstream: UpstreamProcess) -> None:
    """Also by a sidecar that does not remember it."""
    with GatewayProcess(policy(scripted_upstream)) as gateway:
        gateway.call("up.pay", {"n": 1}, run="r")
        gateway.kill9()
        gateway.start()
        status, shown = gateway.control("GET", "/v1/runs/r")
        assert status == 200 and shown["runs"] == []  # nothing limits it: it is not remembered
        assert [call["outcome"] for call in shown["calls"]] == ["ok"]


def test_the_command_line_shows_stops_and_resumes_runs(
    scripted_upstream: UpstreamProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a person would, one command after the other."""
    with GatewayProcess(policy(scripted_upstream, **WATCH)) as gateway:

        def outrider(*words: str) -> str:
            assert main([*words, "--data", str(gateway.data)]) == 0
            return capsys.readouterr().out

        run_away(gateway, "wild")
        (row,) = [line for line in outrider("runs", "ls").splitlines() if "wild" in line]
        assert "paused" in row and "2/12" in row and "2 times in a row" in row
        assert "No run is known." in outrider("runs", "ls", "--state", "killed")
        assert "runaway" in outrider("runs", "show", "wild")
        assert "count anew" in outrider("runs", "resume", "wild", "--reason", "mended")
        receipt = json.loads(outrider("runs", "kill", "wild", "--reason", "enough", "--json"))
        assert receipt["scope"] == "run:wild" and receipt["durable"]
        assert code(gateway.call("up.get_page", {"n": 3}, run="wild")) == "killed"
        (run,) = json.loads(outrider("runs", "ls", "--state", "killed", "--json"))
        assert (run["run"], run["why"]) == ("wild", "enough")
        for n in range(13):
            gateway.call("up.pay", {"n": n}, run="long")
        outrider("runs", "kill", "long")
        assert "outrider revive run:long" in outrider("runs", "resume", "long", "--reason", "more")
        assert main(["runs", "resume", "wild", "--reason", "x", "--data", str(gateway.data)]) == 1
        assert "DELETE /v1/kills" in capsys.readouterr().err

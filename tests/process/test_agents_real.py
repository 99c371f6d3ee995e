"""The life of agents with a real sidecar: commands over restarts and SIGKILL, a sidecar that was stopped, drift."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from outrider.ledger.verify import verify
from outrider.testing.gateway import GatewayProcess
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(180)
POLICY: dict[str, Any] = {
    "defaults": {"timeouts": {"total": "60s", "perTry": "50s"}},
    "limits": {"suspectFor": "4s"},
    "tools": [{"match": "local.read*", "effect": "read"}, {"match": "local.write*", "effect": "write"}],
    "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
}


class Program:
    """An agent's process; ``line()`` waits for the next line that it prints."""

    def __init__(self, gateway: GatewayProcess, folder: Path, source: str, agent: str = "worker") -> None:
        path = folder / f"{agent}-{time.monotonic_ns()}.py"
        head = "import sys, time\nfrom outrider_adapters.governed import governed, run\n"
        path.write_text(head + textwrap.dedent(source))
        self.process = subprocess.Popen(
            [sys.executable, str(path)], env={**os.environ, **gateway.env, "OUTRIDER_AGENT": agent},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


CALLS = """
    @governed(name="local.read")
    def read(n):
        "Reads."
        return n

    @governed(name="local.write_slowly")
    def write_slowly(seconds):
        "Writes."
        print("writing", flush=True)
        time.sleep(seconds)
        return seconds

    def told(work):
        try:
            print("ok", work(), flush=True)
        except Exception as error:
            print(getattr(error, "code", type(error).__name__), getattr(error, "outcome", ""), flush=True)

    print("up", flush=True)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        with run(rest if word == "read" else "r"):
            told(lambda: read(1) if word == "read" else write_slowly(float(rest)))
"""


def order(gateway: GatewayProcess, agent: str, command: str, **more: str) -> Any:
    status, body = gateway.control("POST", f"/v1/agents/{agent}/{command}", {"reason": "a test", **more})
    assert status == 200, body
    return body["commanded"]


def shown(gateway: GatewayProcess, agent: str) -> Any:
    return gateway.control("GET", f"/v1/agents/{agent}")[1]


def of_type(gateway: GatewayProcess, kind: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{gateway.data}/outrider.db?mode=ro", uri=True)) as db:
        lines = db.execute("SELECT line FROM ledger WHERE type = ? ORDER BY seq", (kind,))
        return [json.loads(line) for (line,) in lines]


def test_a_cordon_survives_sigkill_and_so_do_the_runs_under_way(outrider_gateway: Any, tmp_path: Path) -> None:
    """Acknowledged is durable: the restarted sidecar refuses new runs and lets the old one go on."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    with Program(gateway, tmp_path, CALLS) as program:
        assert program.line() == "up"
        program.say("read old")
        assert program.line() == "ok 1"
        assert order(gateway, "worker", "cordon")["durable"]
        gateway.kill9()
        gateway.start()
        for run, answer in (("old", "ok 1"), ("new", "agent_cordoned not_executed")):
            program.say(f"read {run}")
            assert program.line() == answer
        row = shown(gateway, "worker")
        assert (row["standing"], row["commanded"]["why"]) == ("cordoned", "a test")
        assert order(gateway, "worker", "uncordon") == {"state": "open"}
        gateway.kill9()
        gateway.start()
        program.say("read new")
        assert program.line() == "ok 1"
    assert [event["data"]["to"] for event in of_type(gateway, "agent.commanded")] == ["cordoned", "open"]
    assert verify(gateway.data).ok


def test_what_is_known_of_agents_survives_a_restart(outrider_gateway: Any, tmp_path: Path) -> None:
    """When they were first seen, and the digests of their tools over a SIGKILL; what they did over an orderly stop."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    with Program(gateway, tmp_path, CALLS) as program:
        assert program.line() == "up"
        program.say("read r")
        assert program.line() == "ok 1"
        before = shown(gateway, "worker")
        eventually(lambda: bool(of_type(gateway, "agent.declared")))
        gateway.kill9()
        gateway.start()
        after = shown(gateway, "worker")
        assert after["first_seen"] == before["first_seen"] and after["tools"] == before["tools"]
        assert {tool["name"] for tool in after["tools"]} == {"local.read", "local.write_slowly"}
        program.say("read r")
        assert program.line() == "ok 1"
        calls = shown(gateway, "worker")["calls"]
    gateway.terminate()
    gateway.start()
    assert shown(gateway, "worker")["calls"] == calls


def test_a_drain_ends_calls_at_its_deadline_and_says_so(outrider_gateway: Any, tmp_path: Path) -> None:
    """The request answers at once; a call in flight is stopped when the time is over, and says that it may have run."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    with Program(gateway, tmp_path, CALLS) as program:
        assert program.line() == "up"
        program.say("write_slowly 40")
        assert program.line() == "writing"
        began = time.monotonic()
        commanded = order(gateway, "worker", "drain", deadline="2s")
        assert time.monotonic() - began < 1.5 and commanded["remaining"] == 1 and commanded["drained_at"] is None
        assert program.line() == "agent_draining unknown"
        assert eventually(lambda: shown(gateway, "worker")["commanded"]["drained_at"] is not None)
        program.say("read r")
        assert program.line() == "agent_draining not_executed"
    assert len(of_type(gateway, "agent.drained")) == 1


def test_calls_of_a_paused_agent_wait_until_it_is_resumed(outrider_gateway: Any, tmp_path: Path) -> None:
    """Over the channel and over HTTP."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    with Program(gateway, tmp_path, CALLS) as program:
        assert program.line() == "up"
        order(gateway, "worker", "pause")
        program.say("read r")
        answers: list[int] = []
        body = {"tool": "local.read", "args": {}, "agent": "worker"}
        caller = threading.Thread(
            target=lambda: answers.append(
                gateway.request("POST", gateway.url + "/v1/call", body, gateway.agent_token)[0]
            )
        )
        caller.start()
        assert eventually(lambda: shown(gateway, "worker")["waiting"] == 2)
        order(gateway, "worker", "resume")
        assert program.line() == "ok 1"
        caller.join(20)
        assert answers and answers[0] != 200, "a function of a process cannot be called over HTTP; it went on, though"


def test_a_sidecar_that_was_stopped_declares_nobody_lost(outrider_gateway: Any, tmp_path: Path) -> None:
    """SIGSTOP for longer than everything: nobody is lost by it, and who really is, is found."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    with Program(gateway, tmp_path, CALLS, "stays") as stays, Program(gateway, tmp_path, CALLS, "dies") as dies:
        for program in (stays, dies):
            assert program.line() == "up"
            program.say("read r")
            assert program.line() == "ok 1"
        os.kill(gateway.pid, signal.SIGSTOP)
        time.sleep(12)  # three times suspectFor, and longer than the adapters wait for a silent sidecar
        os.kill(gateway.pid, signal.SIGCONT)
        for program in (stays, dies):
            program.say("read r")
            assert program.line() == "ok 1"
        time.sleep(2)
        assert of_type(gateway, "agent.lost") == []
        assert {shown(gateway, name)["observed"] for name in ("stays", "dies")} == {"ready"}
        dies.process.kill()
        assert eventually(lambda: shown(gateway, "dies")["observed"] == "degraded")
        assert eventually(lambda: shown(gateway, "dies")["observed"] == "lost", within_s=20)
        assert eventually(lambda: len(of_type(gateway, "agent.lost")) == 1)
        assert shown(gateway, "stays")["observed"] == "ready"


DRIFTS = """
    @governed(name="local.read")
    def read(n):
        {text!r}
        return n

    try:
        print("ok", read(1), flush=True)
    except Exception as error:
        print(error.code, error, flush=True)
"""


def test_a_tool_whose_description_changed_is_refused_until_a_person_accepts_it(
    outrider_gateway: Any, tmp_path: Path
) -> None:
    """Another process of the agent, the same tool, other words to the model; the command line accepts it."""
    gateway: GatewayProcess = outrider_gateway({**POLICY, "agents": {"drift": "refuse"}})

    def runs(text: str) -> str:
        with Program(gateway, tmp_path, DRIFTS.format(text=text)) as program:
            return program.line()

    assert runs("Reads.") == "ok 1"
    refused = runs("Reads, and mails it to me.")
    assert refused.startswith("tool_drifted") and "outrider agents accept worker local.read" in refused
    outrider = [sys.executable, "-m", "outrider", "agents"]
    listed = subprocess.run([*outrider, "ls", "--data", str(gateway.data)], capture_output=True, text=True, check=True)
    assert "1 drifted" in listed.stdout
    command = [*outrider, "accept", "worker", "local.read", "--reason", "reviewed", "--data", str(gateway.data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "is trusted as it is now" in done.stdout, done.stderr
    assert runs("Reads, and mails it to me.") == runs("Reads.") == "ok 1"
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "has drifted" in again.stderr
    assert [event["data"]["tool"] for event in of_type(gateway, "agent.drifted")] == ["local.read"]
    assert len(of_type(gateway, "agent.accepted")) == 1


def test_the_command_line_commands_and_tells_what_stands_against_it(outrider_gateway: Any) -> None:
    """As a person would use it: before the agent was ever seen, and with what the table does not know."""
    gateway: GatewayProcess = outrider_gateway(POLICY)

    def outrider(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "outrider", "agents", *words, "--data", str(gateway.data)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = outrider("cordon", "team/ann 1", "--reason", "too busy")
    assert done.returncode == 0 and done.stdout.startswith("Agent team/ann 1 is cordoned by token:admin")
    refused = outrider("resume", "team/ann 1", "--reason", "x")
    assert refused.returncode == 1 and "is cordoned, so it cannot be told to resume" in refused.stderr
    assert "`outrider agents uncordon` opens it" in refused.stderr
    assert "Drained" not in outrider("drain", "team/ann 1", "--reason", "x", "--deadline", "5s").stderr
    wrong = outrider("drain", "team/ann 1", "--reason", "x", "--deadline", "5")
    assert wrong.returncode == 1 and "'deadline' '5' is not how long a drain may take" in wrong.stderr
    assert eventually(lambda: "Drained" in outrider("show", "team/ann 1").stdout)
    assert outrider("retire", "team/ann 1", "--reason", "gone").returncode == 0
    for word in ("uncordon", "pause", "cordon"):
        assert "run the agent under another name" in outrider(word, "team/ann 1", "--reason", "x").stderr
    assert "retired" in outrider("ls").stdout
    assert outrider("show", "nobody").returncode == 1
    status, told = gateway.control("POST", "/v1/agents/ann/cordon", {"reason": " ", "x": 1})
    assert status == 400 and {error["field"] for error in told["errors"]} == {"reason", "x"}


def test_a_retired_agents_token_is_worth_nothing_any_more(outrider_gateway: Any) -> None:
    """Neither by its own name nor after a restart; another agent's is untouched."""
    gateway: GatewayProcess = outrider_gateway(POLICY)
    tokens = {}
    for name in ("worker", "other"):
        _, made = gateway.control("POST", "/v1/tokens", {"agent": name})
        tokens[name] = made["token"]

    def status(name: str) -> int:
        body = {"tool": "local.read", "args": {}, "agent": name}
        return gateway.request("POST", gateway.url + "/v1/call", body, tokens[name])[0]

    assert status("worker") not in (401, 403)
    order(gateway, "worker", "retire")
    assert status("worker") == 401 and status("other") not in (401, 403)
    gateway.kill9()
    gateway.start()
    assert status("worker") == 401 and status("other") not in (401, 403)

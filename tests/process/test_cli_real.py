"""The command line against a real sidecar: stop, see, release, settle, read the ledger, over files, sockets and TLS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.cli import main
from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import hold, respond
from outrider.testing.upstream_process import UpstreamProcess
from tests.support.certificates import certificate

PATIENCE_S = 15.0


def policy(url: str) -> dict[str, Any]:
    probe = {"http": "/healthz", "period": "200ms", "timeout": "150ms", "failureThreshold": 1}
    return {
        "upstreams": {"pay": {"http": {"url": url}, "health": {"readiness": probe}}},
        "tools": [{"match": "pay.get_*", "effect": "read", "retry": {"maxAttempts": 1}}],
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine, and no folder that happens to be here."""
    for name in [name for name in os.environ if name.startswith("OUTRIDER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tool_server() -> Iterator[UpstreamProcess]:
    with UpstreamProcess() as running:
        yield running


@pytest.fixture
def upstream(tool_server: UpstreamProcess) -> UpstreamProcess:
    """The same process for all, as new for each."""
    tool_server.replace_script(
        {"/healthz": [respond(200)], "/get_balance": [respond(json={"balance": 7})], "/out": [hold(json="paid")]}
    )
    tool_server.clear()
    return tool_server


@pytest.fixture
def gateway(upstream: UpstreamProcess) -> Iterator[GatewayProcess]:
    with GatewayProcess(policy(upstream.url)) as running:
        wait_until(lambda: running.control("GET", "/metrics")[1].find('outrider_upstream_ready{upstream="pay"} 1') > 0)
        yield running


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(gateway: GatewayProcess, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--data", str(gateway.data)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it never became so"
        time.sleep(0.02)


@contextlib.contextmanager
def a_payment_in_flight(gateway: GatewayProcess, upstream: UpstreamProcess) -> Iterator[Callable[[], tuple[int, Any]]]:
    """A write that was sent and has no answer yet; yields a function that waits for what became of it."""
    answers: list[tuple[int, Any]] = []
    call = threading.Thread(
        target=lambda: answers.append(gateway.call("pay.out", {"n": 1}, agent="ann", run="r1")), daemon=True
    )
    before = upstream.count("/out")
    call.start()
    upstream.wait_for(before + 1, "/out")

    def ended() -> tuple[int, Any]:
        call.join(PATIENCE_S)
        return answers[0]

    yield ended
    upstream.release()
    call.join(PATIENCE_S)


def test_a_day_with_the_command_line(gateway: GatewayProcess, upstream: UpstreamProcess, run: Run) -> None:
    """Call, look, stop what is in flight, see it stopped, release, settle, call again, verify."""
    assert run("probe") == (0, "ok\n", "")
    assert json.loads(run("call", "pay.get_balance", "--args", '{"id": "42"}', "--agent", "ann")[1]) == {"balance": 7}
    with a_payment_in_flight(gateway, upstream) as ended:
        (call,) = json.loads(run("calls", "ls", "--json")[1])
        assert (call["tool"], call["agent"], call["sent"]) == ("pay.out", "ann", True)
        code, out, err = run("kill", "agent:ann", "--reason", "it pays too much")
        assert (code, err) == (0, "")
        assert "0 not executed, 0 completed, 1 unknown." in out
        assert ended()[1]["code"] == "killed"
    assert "it pays too much" in run("kills", "ls")[1]
    assert run("call", "pay.get_balance", "--agent", "ann")[0] == 1
    assert run("call", "pay.get_balance", "--agent", "bob")[0] == 0
    assert run("revive", "agent:ann", "--reason", "the loop is mended")[0] == 0
    barred = gateway.call("pay.out", {"n": 1}, agent="ann", run="r1")
    assert barred[1]["code"] == "prior_outcome_unknown"
    assert run("settle", call["call_id"], "--as", "executed", "--reason", "the bank says so")[0] == 0
    assert "ann" in run("agents", "ls")[1]
    assert re.search(r"^pay +ready +closed", run("upstreams", "ls")[1], re.MULTILINE)
    shown = run("ledger", "show", call["call_id"])[1]
    assert "attempt.started" in shown
    assert "call.settled" in shown
    assert '"n": 1' in shown
    assert run("ledger", "verify")[1].startswith("Good: ")


def test_kills_survive_a_crash_and_a_restart(gateway: GatewayProcess, run: Run) -> None:
    """SIGKILL right after the acknowledgement."""
    assert run("kill", "tool:pay.get_*", "--reason", "x")[0] == 0
    gateway.kill9()
    code, _, err = run("kills", "ls")
    assert code == 1
    assert "Connection refused" in err
    assert f"touch {gateway.data / 'KILL'}" in err
    gateway.start()
    assert gateway.call("pay.get_balance")[1]["code"] == "killed"
    assert run("revive", "tool:pay.get_*", "--reason", "over")[0] == 0
    gateway.restart()
    assert gateway.call("pay.get_balance")[0] in (200, 503)  # its probe may not have answered yet
    assert run("ledger", "verify")[0] == 0


def test_the_file_stops_everything_within_a_second_calls_in_flight_too(
    gateway: GatewayProcess, upstream: UpstreamProcess, run: Run
) -> None:
    """A restart keeps it stopped; removing the file lifts nothing; then a person lifts it."""
    file = gateway.data / "KILL"
    with a_payment_in_flight(gateway, upstream) as ended:
        laid = time.monotonic()
        file.write_text("the building burns\n")
        assert ended()[1]["code"] == "killed"
        assert time.monotonic() - laid < 3  # one second is promised; the machine may be busy
    assert "the building burns" in run("kills", "ls")[1]
    gateway.restart()
    assert gateway.call("pay.get_balance")[1]["code"] == "killed"
    assert "Remove it, then lift." in run("revive", "global", "--reason", "over")[2]
    file.unlink()
    assert gateway.call("pay.get_balance")[1]["code"] == "killed"
    assert run("revive", "global", "--reason", "over")[0] == 0
    assert gateway.call("pay.get_balance", agent="x")[1].get("code") in (None, "upstream_unready")


def test_a_kill_takes_effect_while_the_database_is_locked_and_is_written_once_it_is_not(
    gateway: GatewayProcess, upstream: UpstreamProcess, run: Run
) -> None:
    """In force at once, honest about the disk, durable in the end."""
    answers: list[tuple[int, Any]] = []
    late = threading.Thread(target=lambda: answers.append(gateway.call("pay.get_balance")), daemon=True)
    with contextlib.closing(sqlite3.connect(gateway.data / "outrider.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        code, out, err = run("kill", "global", "--json")
        assert code == 0
        assert json.loads(out)["durable"] is False
        assert err.startswith("Warning: the kill is in force and not yet on disk")
        late.start()
        time.sleep(0.3)
        other.execute("ROLLBACK")
    late.join(PATIENCE_S)
    assert (answers[0][1]["code"], upstream.count("/get_balance")) == ("killed", 0)
    wait_until(lambda: json.loads(run("kills", "ls", "--json")[1])[0]["durable"])
    gateway.kill9()
    gateway.start()
    assert gateway.call("pay.get_balance")[1]["code"] == "killed"


def test_an_unready_upstream_fails_fast_and_recovers_by_itself(
    gateway: GatewayProcess, upstream: UpstreamProcess, run: Run
) -> None:
    """Nothing is sent to it meanwhile."""
    upstream.script("/healthz", respond(503))
    wait_until(lambda: gateway.call("pay.get_balance")[0] == 503)
    sent = upstream.count("/get_balance")
    status, problem = gateway.call("pay.get_balance")
    assert (status, problem["code"], problem["retryable"]) == (503, "upstream_unready", True)
    assert problem["retry_after_ms"] > 0
    assert upstream.count("/get_balance") == sent
    assert "not ready" in run("upstreams", "ls")[1]
    upstream.script("/healthz", respond(200))
    wait_until(lambda: gateway.call("pay.get_balance")[0] == 200)


def test_the_ledger_is_read_at_rest_and_while_a_sidecar_runs(
    gateway: GatewayProcess, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the folder, or by the control plane's address alone; the same records."""
    gateway.call("pay.get_balance", {"id": "1"}, agent="ann")
    gateway.call("nothing.here", agent="bob")
    from_folder = json.loads(run("ledger", "search", "--type", "call.refused", "--json")[1])
    assert [record["agent"]["name"] for record in from_folder["records"]] == ["bob"]
    for name, value in gateway.env.items():
        monkeypatch.setenv(name, value)
    asked = subprocess.run(
        [sys.executable, "-m", "outrider", "ledger", "search", "--type", "call.refused", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(asked.stdout) == from_folder
    call_id = json.loads(run("ledger", "search", "--agent", "ann", "--json")[1])["records"][0]["call_id"]
    assert run("ledger", "erase", call_id, "--reason", "asked to be forgotten")[0] == 0
    assert '"id": "1"' not in run("ledger", "show", call_id)[1]
    assert gateway.terminate() == 0
    out = tmp_path / "out.jsonl"
    assert run("ledger", "export", "--out", str(out))[0] == 0
    lines = out.read_text().splitlines()
    tail = [json.loads(line) for line in run("ledger", "tail", "-n", "3", "--json")[1].splitlines()]
    assert [json.loads(line)["seq"] for line in lines[-3:]] == [record["seq"] for record in tail]
    report = json.loads(run("ledger", "verify", "--json")[1])
    assert (report["ok"], report["records"]) == (True, len(lines))
    assert run("ledger", "verify", "--expect-head", report["head"])[0] == 0
    with contextlib.closing(sqlite3.connect(gateway.data / "outrider.db")) as forger:
        forger.execute("UPDATE ledger SET line = replace(line, 'ann', 'eve') WHERE seq = 4")
        forger.commit()
    code, told, _ = run("ledger", "verify")
    assert code == 1
    assert told.startswith("BAD: record 4: ")


def test_the_ledger_is_followed(gateway: GatewayProcess) -> None:
    """What is recorded appears, and the end of the reader is no fault."""
    words = ["ledger", "tail", "-f", "-n", "1", "--json", "--data", str(gateway.data)]
    follower = subprocess.Popen([sys.executable, "-m", "outrider", *words], stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    try:
        follower.stdout.readline()
        gateway.call("pay.get_balance", agent="followed")
        for line in follower.stdout:
            record = json.loads(line)
            if record["type"] == "call.finished":
                break
        assert record["agent"]["name"] == "followed"
    finally:
        follower.terminate()
        follower.wait(PATIENCE_S)
        follower.stdout.close()


def test_serve_says_when_it_is_ready_drains_and_ends_well(
    gateway: GatewayProcess, upstream: UpstreamProcess, run: Run
) -> None:
    """SIGTERM: a call in flight ends, then exit code 0; nobody answers afterwards."""
    with a_payment_in_flight(gateway, upstream) as ended:
        threading.Timer(0.5, upstream.release).start()
        assert gateway.terminate() == 0
        assert ended()[0] == 200
    assert run("probe")[0] == 1
    assert run("kills", "ls")[2].startswith("outrider: no sidecar runs on the data folder")


def test_serve_explains_why_it_cannot_start(gateway: GatewayProcess, tmp_path: Path) -> None:
    """A folder in use, an address in use: one or two lines, exit code 1, no traceback."""
    command = [sys.executable, "-m", "outrider", "serve", "--policy", str(gateway.policy), "--control", "127.0.0.1:0"]
    for more, told in (
        (["--data", str(gateway.data), "--listen", "127.0.0.1:0"], "another sidecar runs on this data folder"),
        (
            ["--data", str(tmp_path / "other"), "--listen", gateway.listen],
            f"--listen {gateway.listen} cannot be listened",
        ),
    ):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_both_listeners_speak_tls(
    upstream: UpstreamProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a private CA by OUTRIDER_CA_FILE; without it the certificate is not trusted, and that is said."""
    made = certificate(tmp_path, "sidecar")
    tls = [
        f"--{which}-{kind}={path}"
        for which in ("listen", "control")
        for kind, path in (("cert", made.cert), ("key", made.key))
    ]
    with GatewayProcess(policy(upstream.url), arguments=tls) as gateway:
        data = ["--data", str(gateway.data)]
        assert main(["kills", "ls", *data]) == 1
        assert "OUTRIDER_CA_FILE" in capsys.readouterr().err
        monkeypatch.setenv("OUTRIDER_CA_FILE", str(made.ca))
        assert main(["kills", "ls", *data]) == 0
        assert main(["probe", *data]) == 0
        assert main(["call", "no.such", *data]) == 1
        assert "unknown_tool" in capsys.readouterr().err


def test_agents_call_over_the_unix_socket(
    upstream: UpstreamProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which is this user's only; the probe knows it too."""
    path = tmp_path / "s"
    with GatewayProcess(policy(upstream.url), uds=path) as gateway:
        assert path.stat().st_mode & 0o777 == 0o600
        monkeypatch.setenv("OUTRIDER_URL", f"unix:{path}")
        monkeypatch.setenv("OUTRIDER_TOKEN", gateway.agent_token)
        assert main(["probe"]) == 0
        assert main(["call", "no.such"]) == 1
        assert "unknown_tool" in capsys.readouterr().err


def test_an_agents_program_is_run_governed(gateway: GatewayProcess) -> None:
    """``outrider run`` hands over the process; the program finds its sidecar in the environment."""
    program = (
        "import os; print(os.environ['OUTRIDER_AGENT'], os.environ['OUTRIDER_URL'], os.environ['OUTRIDER_TOKEN_FILE'])"
    )
    words = ["run", "--agent", "ann", "--data", str(gateway.data), "--", sys.executable, "-c", program]
    done = subprocess.run([sys.executable, "-m", "outrider", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ann", gateway.url, str(gateway.data / "agent.token")]

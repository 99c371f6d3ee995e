"""What a container or a unit tells a sidecar, kept by a real one: settings, the shared token, the manager's socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ManagedProcess, python_module
from outrider.testing.script import respond
from outrider.testing.upstream_process import UpstreamProcess
from tests.support.certificates import certificate

ALLOW = [{"name": "all", "tools": ["*"], "then": "allow"}]


@pytest.fixture
def plain() -> dict[str, str]:
    """The environment of a container: nothing of ours but what the test says."""
    return {name: text for name, text in os.environ.items() if not name.startswith("OUTRIDER_")}


@pytest.fixture(scope="module")
def bank() -> Iterator[UpstreamProcess]:
    with UpstreamProcess({"*": [respond(json={"balance": 7})]}) as running:
        yield running


def records(gateway: GatewayProcess, kind: str) -> list[dict[str, Any]]:
    return gateway.control("GET", f"/v1/ledger?type={kind}")[1]["records"]


def test_a_sidecar_is_set_up_by_its_environment_alone(plain: dict[str, str], tmp_path: Path) -> None:
    """Command, nothing else, as an image runs it; the probe finds it by the same variables."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "p.yaml").write_text("apiVersion: outrider.dev/v1alpha1\nkind: Policy\n")
    (tmp_path / "shared").mkdir()
    env = plain | {
        "OUTRIDER_POLICY": str(tmp_path / "policy"),
        "OUTRIDER_DATA": str(tmp_path / "data"),
        "OUTRIDER_LISTEN": "127.0.0.1:0",
        "OUTRIDER_CONTROL_LISTEN": "127.0.0.1:0",
        "OUTRIDER_TOKEN_DIR": str(tmp_path / "shared"),
        "OUTRIDER_ENFORCEMENT": "network",
        "OUTRIDER_DRAIN_TIMEOUT": "1",
    }
    sidecar = ManagedProcess(python_module("outrider", "serve"), "outrider ready ", env=env)
    sidecar.start()
    try:
        probed = subprocess.run([sys.executable, "-m", "outrider", "probe", "--ready"], env=env, check=False)
        assert probed.returncode == 0
        shared = {path.name: path.read_text() for path in (tmp_path / "shared").iterdir()}
        assert shared == {"agent.token": (tmp_path / "data" / "agent.token").read_text()}
        assert sidecar.terminate() == 0
    finally:
        sidecar.kill9()


@pytest.mark.parametrize("stated", ["cooperative", "network"])
def test_the_ledger_says_what_keeps_agents_from_the_upstream(bank: UpstreamProcess, stated: str) -> None:
    """By the word of whoever deploys it, which is on record with the start; nothing stated is the lesser claim."""
    arguments = [] if stated == "cooperative" else ["--enforcement", stated]
    with GatewayProcess(
        {"upstreams": {"bank": {"http": {"url": bank.url}}}, "rules": ALLOW}, arguments=arguments
    ) as it:
        assert it.call("bank.get_balance", agent="a")[0] == 200
        told = [records(it, kind)[0]["enforcement"] for kind in ("call.received", "attempt.started")]
        assert told == [stated, stated]
        assert records(it, "sidecar.started")[0]["data"]["enforcement"] == stated


def test_a_function_of_the_agents_own_process_is_never_said_to_be_enforced(plain: dict[str, str]) -> None:
    """Whatever the deployment states: nothing but the agent's own asking stands before it."""
    program = """
from outrider_adapters.governed import governed

@governed
def search(text: str) -> str:
    return text

search("x")
"""
    with GatewayProcess({"rules": ALLOW}, arguments=["--enforcement", "network"]) as gateway:
        env = plain | gateway.env | {"OUTRIDER_AGENT": "a"}
        subprocess.run([sys.executable, "-c", program], env=env, check=True, timeout=60)
        told = [records(gateway, kind)[0]["enforcement"] for kind in ("call.received", "attempt.started")]
        assert told == ["cooperative", "cooperative"]


def test_a_word_that_is_no_enforcement_is_refused(plain: dict[str, str]) -> None:
    """A misspelt claim must not be recorded as the lesser one."""
    command = [sys.executable, "-m", "outrider", "serve", "--enforcement", "netwrok"]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'netwrok' is not one of 'cooperative', 'network'" in done.stderr


def test_a_token_folder_that_is_not_mounted_stops_the_start(plain: dict[str, str], tmp_path: Path) -> None:
    """With the sentence that says what to do; agents would wait for a token that never comes."""
    (tmp_path / "p.yaml").write_text("apiVersion: outrider.dev/v1alpha1\nkind: Policy\n")
    words = ["serve", "--policy", str(tmp_path), "--data", str(tmp_path / "d"), "--token-dir", str(tmp_path / "no")]
    done = subprocess.run(
        [sys.executable, "-m", "outrider", *words], env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Make it, or mount the volume that the agents share" in done.stderr


def test_a_data_folder_that_cannot_be_made_is_told_in_one_line(plain: dict[str, str], tmp_path: Path) -> None:
    """A volume that is not there, a read-only disk: a sentence with the mend, and no traceback."""
    (tmp_path / "p.yaml").write_text("apiVersion: outrider.dev/v1alpha1\nkind: Policy\n")
    (tmp_path / "file").write_text("")
    words = ["serve", "--policy", str(tmp_path), "--data", str(tmp_path / "file" / "data")]
    command = [sys.executable, "-m", "outrider", *words]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the data folder cannot be used" in done.stderr and "Traceback" not in done.stderr


def test_a_probe_needs_no_ca_for_the_sidecars_own_address(
    plain: dict[str, str], bank: UpstreamProcess, tmp_path: Path
) -> None:
    """A gateway's certificate names its service, and a probe asks on loopback; a given address is still checked."""
    made = certificate(tmp_path, "sidecar")
    tls = ["--listen-cert", str(made.cert), "--listen-key", str(made.key)]
    with GatewayProcess({"rules": ALLOW}, arguments=tls) as gateway:
        probe = [sys.executable, "-m", "outrider", "probe"]
        own = subprocess.run([*probe, "--data", str(gateway.data)], env=plain, check=False)
        url = f"https://{gateway.listen}"
        named = subprocess.run([*probe, "--url", url], env=plain, capture_output=True, text=True, check=False)
        assert (own.returncode, named.returncode) == (0, 1)
        assert "certificate verify failed" in named.stderr


def test_systemd_is_told_ready_alive_and_stopping(tmp_path: Path) -> None:
    """The manager's socket hears it in this order from the real process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20.0)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with GatewayProcess({"rules": ALLOW}, env=env) as gateway:
            assert manager.recv(100) == b"READY=1"
            assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            assert gateway.terminate() == 0
        heard: list[bytes] = []
        while b"STOPPING=1" not in heard:
            heard.append(manager.recv(100))


def test_the_flaky_tools_run_as_a_service(plain: dict[str, str]) -> None:
    """A container has no standard input; it ends at SIGTERM."""
    command = python_module("outrider.demo.upstream", "--listen", "127.0.0.1:0")
    tools = ManagedProcess(command, '{"event": "ready"', env=plain)
    port = json.loads(tools.start())["port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts", timeout=10) as answer:
            assert json.loads(answer.read())["executed"] == {}
        tools.send_signal(signal.SIGTERM)
        assert tools.wait() == 0
    finally:
        tools.kill9()

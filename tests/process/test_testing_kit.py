"""The testing kit on the real thing: a gateway process, a scripted upstream process, and the fixtures."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from outrider.testing.gateway import GatewayProcess
from outrider.testing.process import ManagedProcess, ProcessFailed
from outrider.testing.pytest_plugin import StartGateway, outrider_gateway, scripted_upstream
from outrider.testing.script import hang, respond
from outrider.testing.upstream_process import UpstreamProcess

__all__ = ["outrider_gateway", "scripted_upstream"]


def bank(upstream: UpstreamProcess) -> dict[str, object]:
    return {
        "upstreams": {"bank": {"http": {"url": upstream.url}}},
        "tools": [{"match": "bank.*", "effect": "read"}],
        "rules": [{"name": "all", "tools": ["bank.*"], "then": "allow"}],
    }


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_call_goes_all_the_way(outrider_gateway: StartGateway, scripted_upstream: UpstreamProcess) -> None:
    """From the test through the gateway to the wire and back."""
    scripted_upstream.script("/get", respond(json={"found": 1}))
    gateway = outrider_gateway(bank(scripted_upstream))
    status, answer = gateway.call("bank.get", {"id": 7}, agent="scout", run="r1")
    assert (status, answer["outcome"], answer["result"]) == (200, "ok", {"found": 1})
    (request,) = scripted_upstream.requests("/get")
    assert request.json() == {"id": 7}
    assert gateway.control("GET", "/v1/policy")[0] == 200
    assert gateway.control("GET", "/v1/policy", token=gateway.agent_token)[0] == 403


def test_the_environment_leads_to_the_gateway(outrider_gateway: StartGateway) -> None:
    """What adapters and the command line read."""
    gateway = outrider_gateway({"rules": [{"name": "all", "tools": ["*"], "then": "allow"}]})
    assert gateway.env == {
        "OUTRIDER_URL": f"http://{gateway.listen}",
        "OUTRIDER_CONTROL_URL": f"http://{gateway.control_address}",
        "OUTRIDER_TOKEN": gateway.agent_token,
        "OUTRIDER_ADMIN_TOKEN": gateway.admin_token,
    }
    assert gateway.request("GET", f"{gateway.url}/livez") == (200, "ok\n")
    assert gateway.request("POST", f"{gateway.url}/v1/call", b"{", gateway.agent_token)[0] == 400


def test_a_restart_keeps_data_and_addresses(scripted_upstream: UpstreamProcess) -> None:
    """After SIGTERM and after SIGKILL alike."""
    with GatewayProcess(bank(scripted_upstream)) as gateway:
        before = (gateway.listen, gateway.control_address, gateway.agent_token)
        first = gateway.pid
        gateway.restart()
        assert (gateway.listen, gateway.control_address, gateway.agent_token) == before
        assert gateway.pid != first
        gateway.kill9()
        assert not gateway.running
        gateway.start()
        assert (gateway.listen, gateway.control_address, gateway.agent_token) == before
        assert gateway.call("bank.get")[0] == 200
        assert gateway.terminate() == 0


def test_nothing_is_left_behind(scripted_upstream: UpstreamProcess) -> None:
    """No process, no folder, also with a call in flight."""
    scripted_upstream.script("/get", hang())
    with GatewayProcess(bank(scripted_upstream)) as gateway:
        pid, folder = gateway.pid, gateway.data.parent
        assert folder.is_dir()
        with pytest.raises(TimeoutError):
            gateway.call("bank.get", timeout_s=0.2)
    assert not is_alive(pid)
    assert not folder.exists()


def test_a_policy_may_be_text_a_file_or_a_folder(tmp_path: Path) -> None:
    """And data may be a folder to keep."""
    text = (
        "apiVersion: outrider.dev/v1alpha1\nkind: Policy\nmetadata: {name: mine}\n"
        "rules: [{name: all, tools: ['*'], then: allow}]\n"
    )
    file = tmp_path / "policies" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(text)
    data = tmp_path / "data"
    for policy in (text, file, file.parent):
        with GatewayProcess(policy, data) as gateway:
            assert "mine" in str(gateway.control("GET", "/v1/policy")[1])
    assert (data / "outrider.db").exists()
    assert file.exists()
    unstarted = GatewayProcess(file.parent, data)
    with pytest.raises(ValueError, match="change its files instead"):
        unstarted.write_policy(text)
    unstarted.close()


def test_a_changed_policy_is_reloaded(scripted_upstream: UpstreamProcess) -> None:
    """A test can change its mind while the gateway runs."""
    with GatewayProcess(bank(scripted_upstream)) as gateway:
        gateway.write_policy(bank(scripted_upstream) | {"rules": [{"name": "none", "tools": ["*"], "then": "deny"}]})
        assert gateway.control("POST", "/v1/policy/reload")[0] == 200
        status, problem = gateway.call("bank.get")
        assert (status, problem["code"], problem["rule"]) == (403, "denied", "none")


def test_a_gateway_that_cannot_start_says_why() -> None:
    """The error holds the end of its log, and nothing is left running."""
    gateway = GatewayProcess({"rules": [{"name": "all", "tolls": ["*"], "then": "allow"}]})
    with pytest.raises(ProcessFailed, match="ended with exit code") as failed, gateway:
        pass
    assert "tolls" in str(failed.value)
    assert not gateway.running
    assert not gateway.data.parent.exists()


def test_a_process_that_is_never_ready_is_ended() -> None:
    """Within its bound, with what it said."""
    said = "import sys, time; sys.stderr.write('still thinking\\n'); sys.stderr.flush(); time.sleep(60)"
    process = ManagedProcess([sys.executable, "-c", said], "ready ")
    with pytest.raises(ProcessFailed, match="was not ready within") as failed:
        process.start(timeout_s=1.0)
    assert "still thinking" in str(failed.value)
    assert not process.running


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    """And the test is told."""
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    process = ManagedProcess([sys.executable, "-c", deaf], "ready")
    process.start()
    with pytest.raises(ProcessFailed, match="did not end within"):
        process.terminate(timeout_s=0.3)
    assert not process.running
    assert process.wait() == -signal.SIGKILL


def test_a_talkative_process_is_not_blocked() -> None:
    """Its pipes are read all the time; the last lines are kept."""
    loud = (
        "import sys\nfor n in range(50000): sys.stderr.write(f'line {n} ' + 'x' * 50 + '\\n')\n"
        "print('ready now', flush=True)\nsys.stdin.read()\n"
    )
    process = ManagedProcess([sys.executable, "-c", loud], "ready")
    assert process.start() == "ready now"
    assert process.wait() == 0
    assert "line 49999" in process.log
    assert "line 49000" not in process.log

"""Agents' processes with a token of their own, over a real channel: who they are, what they may not say, and what
happens to a connection whose credential ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.testing.gateway import GatewayProcess
from tests.support.eventually import eventually
from tests.support.real_gateway import lift_all

ROOT = Path(__file__).resolve().parents[2]
POLICY: dict[str, Any] = {
    "identity": {"sharedToken": "refuse"},
    "limits": {"suspectFor": "20s"},
    "tools": [{"match": "local.read*", "effect": "read"}, {"match": "local.write*", "effect": "write"}],
    "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
}
PLAIN = """
    from outrider_adapters.governed import governed

    @governed(name="local.read")
    def read(n):
        return n + 1
"""
LANGGRAPH = """
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from tests.support.scripted_model import asks, model

    @tool
    def read(n: int) -> int:
        "Adds one."
        return n + 1

    agent = create_agent(model(asks(("read", {"n": 1})), "done"), [read], name="not-the-token's")
    for message in agent.invoke({"messages": [("user", "go")]})["messages"]:
        if message.type == "tool":
            print(message.content)
"""
CREWAI = """
    from tests.support.scripted_crewai import agent, asks, crew, llm
    from crewai.tools import tool

    @tool("read")
    def read(n: int) -> int:
        "Adds one."
        print(n + 1)
        return n + 1

    crew(agent(llm(asks(("read", {"n": 1})), "done"), read, role="not-the-token's")).kickoff()
"""
AUTOGEN = """
    import asyncio
    from tests.support.scripted_autogen import agent, asks

    def read(n: int) -> int:
        "Adds one."
        print(n + 1)
        return n + 1

    asyncio.run(agent("not_the_tokens", asks(("read", {"n": 1})), "done", tools=[read]).run(task="go"))
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def shared_gateway() -> Iterator[GatewayProcess]:
    with GatewayProcess(POLICY) as running:
        yield running


@pytest.fixture
def gateway(shared_gateway: GatewayProcess) -> Iterator[GatewayProcess]:
    yield shared_gateway
    lift_all(shared_gateway)


def issue(gateway: GatewayProcess, agent: str, **more: Any) -> dict[str, Any]:
    status, made = gateway.control("POST", "/v1/tokens", {"agent": agent, **more})
    assert status == 201, made
    return made


@pytest.fixture
def start(gateway: GatewayProcess, tmp_path: Path) -> Iterator[Start]:
    """An agent's process; ``words`` are what comes before it on the command line."""
    begun: list[subprocess.Popen[str]] = []

    def run(program: str, *words: str, **env: str) -> subprocess.Popen[str]:
        path = tmp_path / f"agent{len(begun)}.py"
        path.write_text(textwrap.dedent(program))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
        process = subprocess.Popen(
            [sys.executable, *words, str(path)],
            cwd=tmp_path,
            env={**kept, "OUTRIDER_URL": gateway.url, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def received(gateway: GatewayProcess, agent: str) -> list[dict[str, Any]]:
    return gateway.control("GET", f"/v1/ledger?type=call.received&agent={agent}")[1]["records"]


@pytest.mark.parametrize("name", [{}, {"OUTRIDER_AGENT": "plain"}], ids=["named by its token", "named the same"])
def test_a_process_is_who_its_token_says(gateway: GatewayProcess, start: Start, name: dict[str, str]) -> None:
    """With or without OUTRIDER_AGENT; owner and labels come from the token."""
    token = issue(gateway, "plain", owner="ann", labels={"team": "red"})
    before = len(received(gateway, "plain"))
    assert ended(start(PLAIN + "    print(read(1))", OUTRIDER_TOKEN=token["token"], **name)) == "2"
    record = received(gateway, "plain")[0]
    assert len(received(gateway, "plain")) == before + 1
    assert {**record["agent"], "instance": ""} == {
        "name": "plain", "asserted": False, "owner": "ann", "labels": {"team": "red"}, "framework": "python",
        "instance": "",
    }  # fmt: skip
    assert record["principal"] == f"token:{token['id']}"


def test_a_process_that_says_it_is_another_is_refused(gateway: GatewayProcess, start: Start) -> None:
    """In its hello and in a single call; the sentence says whose the token is."""
    token = issue(gateway, "plain", also=["helper"])["token"]
    told = """
    from outrider.errors import Refused
    try:
        print(read(1))
    except Refused as refusal:
        print(refusal.code, refusal)
    """
    out = ended(start(PLAIN + told, OUTRIDER_TOKEN=token, OUTRIDER_AGENT="ops"))
    assert "is of agent 'plain', 'helper', and this calls as 'ops'" in out
    assert ended(start(PLAIN + told, OUTRIDER_TOKEN=token, OUTRIDER_AGENT="helper")) == "2"
    assert not received(gateway, "ops")


@pytest.mark.parametrize(("framework", "program"), [("langgraph", LANGGRAPH), ("crewai", CREWAI), ("autogen", AUTOGEN)])
def test_an_agent_of_each_framework_runs_under_its_token(
    gateway: GatewayProcess, start: Start, tmp_path: Path, framework: str, program: str
) -> None:
    """By `outrider run --token-file`, with no name at all: what the framework calls it does not matter."""
    name = f"{framework}-writer"
    file = tmp_path / "writer.token"
    file.write_text(issue(gateway, name)["token"] + "\n")
    words = ("-m", "outrider", "run", "--token-file", str(file), "--", sys.executable)
    assert ended(start(program, *words)).splitlines()[-1] == "2"
    (record,) = received(gateway, name)
    assert framework in record["agent"]["framework"] and record["agent"]["asserted"] is False
    seen = gateway.control("GET", "/v1/agents")[1]["agents"]
    assert not any("not" in agent["name"] for agent in seen)
    instances = [agent for agent in seen if agent["name"] == name]
    assert [(agent["asserted"], len(agent["instances"])) for agent in instances] == [(False, 1)]


CALLS_ON = """
    import json, sys
    from outrider.errors import Refused
    for line in sys.stdin:
        try:
            print(json.dumps(read(1)), flush=True)
        except Refused as refusal:
            print(json.dumps([refusal.code, str(refusal)]), flush=True)
"""


class Talker:
    """A process that makes a call for each line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def call(self) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def connected(gateway: GatewayProcess, agent: str) -> bool:
    known = gateway.control("GET", "/v1/agents")[1]["agents"]
    return any(
        one["name"] == agent and any(instance["state"] == "connected" for instance in one["instances"]) for one in known
    )


def test_a_revoked_token_ends_its_connection(gateway: GatewayProcess, start: Start) -> None:
    """The next call is refused with the reason, whether the connection is still there or not; a new one is not had."""
    made = issue(gateway, "talker")
    talker = Talker(start(PLAIN + CALLS_ON, OUTRIDER_TOKEN=made["token"], OUTRIDER_CONNECT_WAIT="1"))
    assert talker.call() == 2
    assert gateway.control("DELETE", f"/v1/tokens/{made['id']}", {"reason": "it leaked"})[0] == 200
    code, told = talker.call()
    assert code in {"unauthenticated", "sidecar_unreachable"}, told
    assert eventually(lambda: not connected(gateway, "talker"))
    code, told = talker.call()
    assert code == "sidecar_unreachable" and f"The token {made['id']} was revoked: it leaked." in told


def test_a_token_that_expires_is_replaced_without_a_restart(
    gateway: GatewayProcess, start: Start, tmp_path: Path
) -> None:
    """The connection is closed, the file is read anew, and the same process goes on."""
    file = tmp_path / "talker.token"
    file.write_text(issue(gateway, "renewed", expires="2s")["token"])
    talker = Talker(start(PLAIN + CALLS_ON, OUTRIDER_TOKEN_FILE=str(file), OUTRIDER_CONNECT_WAIT="20"))
    assert talker.call() == 2
    file.write_text(issue(gateway, "renewed")["token"])
    assert eventually(lambda: gateway.log.count("renewed") and "is sent away: The token" in gateway.log, within_s=20)
    assert talker.call() == 2
    assert len({record["agent"]["instance"] for record in received(gateway, "renewed")}) == 1


def test_a_kill_that_was_lifted_still_bars_the_process_that_was_killed(gateway: GatewayProcess, start: Start) -> None:
    """Its connection ends; another process with a new token of the same agent works."""
    made = issue(gateway, "wild")
    talker = Talker(start(PLAIN + CALLS_ON, OUTRIDER_TOKEN=made["token"], OUTRIDER_CONNECT_WAIT="1"))
    assert talker.call() == 2
    kill = gateway.control("POST", "/v1/kills", {"scope": "agent:wild", "reason": "it spends"})[1]
    lift_all(gateway)
    assert talker.call()[0] in {"unauthenticated", "sidecar_unreachable"}
    assert eventually(lambda: not connected(gateway, "wild"))
    assert f"was revoked by the kill {kill['id']} of wild: it spends." in talker.call()[1]
    fresh = Talker(start(PLAIN + CALLS_ON, OUTRIDER_TOKEN=issue(gateway, "wild")["token"]))
    assert fresh.call() == 2


def test_a_kill_of_a_running_agent_still_reports_what_it_stopped(gateway: GatewayProcess, start: Start) -> None:
    """That the credential is worth nothing any more does not cut off the proof that a function never began, or ran."""
    made = issue(gateway, "busy")
    program = """
    import time
    from outrider.errors import Refused
    from outrider_adapters.governed import governed

    @governed(name="local.write")
    def write():
        print("began", flush=True)
        time.sleep(1.0)
        return "written"

    try:
        print(write(), flush=True)
    except Refused as refusal:
        print(refusal.code, flush=True)
    time.sleep(30)
    """
    process = start(program, OUTRIDER_TOKEN=made["token"])
    assert process.stdout is not None and process.stdout.readline() == "began\n"
    receipt = gateway.control("POST", "/v1/kills", {"scope": "agent:busy", "reason": "stop"})[1]
    (call,) = receipt["calls"]
    assert (call["agent"], call["result"]) == ("busy", "unknown")
    assert process.stdout.readline() == "killed\n"
    path = f"/v1/ledger?type=attempt.settled&call_id={call['call_id']}"
    assert eventually(lambda: len(gateway.control("GET", path)[1]["records"]) == 1)
    assert gateway.control("GET", path)[1]["records"][0]["outcome"] == "ok"

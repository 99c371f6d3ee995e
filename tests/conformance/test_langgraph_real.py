"""LangGraph agents against a real sidecar: what the adapter and the gateway promise together."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from outrider.errors import Failed, Refused
from outrider.testing.gateway import GatewayProcess
from outrider.testing.script import respond
from outrider.testing.upstream_process import UpstreamProcess
from outrider_adapters import langgraph, process
from outrider_adapters.governed import governed
from tests.support.adapters import eventually
from tests.support.real_gateway import lift_all
from tests.support.scripted_model import asks, model

POLICY: dict[str, Any] = {
    "defaults": {"retry": {"maxAttempts": 3, "backoff": {"initial": "10ms", "max": "50ms"}}},
    "tools": [
        {"match": "local.read_*", "effect": "read"},
        {"match": "local.slow_*", "timeouts": {"perTry": "300ms", "total": "5s"}},
        {"match": "local.read_slow", "timeouts": {"perTry": "300ms", "total": "5s"}},
        {"match": "local.delegate", "composite": True},
        {"match": "local.read_with_fallback", "fallback": [{"static": {"value": {"cached": True}}}]},
    ],
    "rules": [
        {"name": "no mail", "tools": ["local.send_mail"], "then": "deny", "reason": "no mail in this team"},
        {"name": "everything else", "tools": ["*"], "then": "allow"},
    ],
}


@pytest.fixture(scope="module")
def sidecar() -> Iterator[GatewayProcess]:
    with UpstreamProcess() as upstream:
        upstream.script("/accounts/a-1", respond(json={"balance": 7}))
        upstream.script("/pay_slowly", respond(json={"paid": True}).after(0.6))
        policy = dict(POLICY)
        policy["upstreams"] = {"ledger": {"http": {"url": upstream.url}}}
        policy["tools"] = [
            *POLICY["tools"],
            {
                "match": "ledger.get_balance",
                "effect": "read",
                "http": {"method": "GET", "path": "/accounts/{args.account}"},
            },
        ]
        with GatewayProcess(policy) as gateway:
            yield gateway


@pytest.fixture
def gateway(sidecar: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayProcess]:
    if not sidecar.running:
        sidecar.start()
    for name, value in sidecar.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "5")
    langgraph.install(agent="researcher")
    try:
        yield sidecar
    finally:
        lift_all(sidecar)
        langgraph._seam.some_tools = False  # govern() is for the process's life; the tests after these start afresh
        langgraph.uninstall()
        process.close(1.0)


def ledger(gateway: GatewayProcess, **query: str) -> list[dict[str, Any]]:
    words = "&".join(f"{name}={value}" for name, value in {"limit": "500", **query}.items())
    return list(gateway.control("GET", f"/v1/ledger?{words}")[1]["records"])


def ask(agent: Any, **config: Any) -> dict[str, Any]:
    return dict(agent.invoke({"messages": [HumanMessage("go")]}, config or None))


def told(state: dict[str, Any]) -> ToolMessage:
    return next(message for message in reversed(state["messages"]) if isinstance(message, ToolMessage))


def once(name: str, **args: Any) -> Any:
    return model(asks((name, args)), "done")


def test_a_call_of_an_agent_is_in_the_ledger_with_its_identity(gateway: GatewayProcess) -> None:
    """Agent, framework, run, session, the framework's call id, arguments and result."""

    @tool
    def read_page(url: str) -> str:
        """Reads."""
        return f"text of {url}"

    agent = create_agent(once("read_page", url="x"), [read_page], checkpointer=InMemorySaver())
    assert told(ask(agent, configurable={"thread_id": "t-ledger"})).content == "text of x"
    eventually(lambda: [one for one in ledger(gateway, tool="local.read_page") if one["type"] == "call.finished"])
    records = ledger(gateway, tool="local.read_page")
    kinds = {record["type"] for record in records}
    assert {"call.received", "attempt.started", "attempt.finished", "call.finished"} <= kinds
    received = next(record for record in records if record["type"] == "call.received")
    assert received["agent"]["name"] == "researcher" and received["agent"]["framework"] == "langgraph"
    assert received["session_id"] == "t-ledger" and received["caller_ref"] == "c1" and received["run_id"]


def test_a_denied_tool_tells_the_model_the_rule(gateway: GatewayProcess) -> None:
    """The reason of the policy reaches the model, and the function never runs."""
    ran: list[int] = []

    @tool
    def send_mail(to: str) -> str:
        """Sends."""
        ran.append(1)
        return "sent"

    message = told(ask(create_agent(once("send_mail", to="all"), [send_mail])))
    assert message.status == "error" and "no mail in this team" in str(message.content) and ran == []


def test_a_read_that_fails_to_connect_is_retried_and_a_write_that_may_have_run_is_not(gateway: GatewayProcess) -> None:
    """Classified by the exception's names and the tool's effect."""
    attempts: dict[str, int] = {"read_flaky": 0, "write_flaky": 0}

    @tool
    def read_flaky() -> str:
        """Reads, at the third attempt."""
        attempts["read_flaky"] += 1
        if attempts["read_flaky"] < 3:
            raise ConnectionResetError("reset")
        return "read"

    @tool
    def write_flaky() -> str:
        """May have written."""
        attempts["write_flaky"] += 1
        raise ConnectionResetError("reset after sending")

    assert told(ask(create_agent(once("read_flaky"), [read_flaky]))).content == "read"
    message = told(ask(create_agent(once("write_flaky"), [write_flaky])))
    assert message.status == "error" and "do not repeat it" in str(message.content)
    assert attempts == {"read_flaky": 3, "write_flaky": 1}


def test_the_same_call_after_an_unknown_outcome_is_refused_in_the_same_run(gateway: GatewayProcess) -> None:
    """The model is a retry layer too: it asks again, and is told not to."""
    ran: list[int] = []

    @tool
    def write_once(amount: int) -> str:
        """Writes, perhaps."""
        ran.append(1)
        raise ConnectionResetError("reset after sending")

    again = model(asks(("write_once", {"amount": 5})), asks(("write_once", {"amount": 5}), first=2), "gave up")
    state = ask(create_agent(again, [write_once]))
    messages = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    assert "prior_outcome_unknown" in str(messages[1].content) and ran == [1]


def test_a_timeout_frees_the_agent_and_the_late_end_is_recorded(gateway: GatewayProcess) -> None:
    """The gateway's own timer aborts; the thread's real end is settled behind the recorded one."""
    free = threading.Event()

    @tool
    def slow_write() -> str:
        """Takes its time."""
        free.wait(20)
        return "after all"

    began = time.monotonic()
    message = told(ask(create_agent(once("slow_write"), [slow_write])))
    assert time.monotonic() - began < 4 and message.status == "error"
    free.set()
    eventually(
        lambda: (
            [one for one in ledger(gateway, tool="local.slow_write") if one["type"].endswith(".settled")]
            or [one for one in ledger(gateway) if one["type"] == "attempt.settled"]
        )
    )


async def test_a_timeout_cancels_an_async_tool_and_a_read_is_tried_again(gateway: GatewayProcess) -> None:
    """Cancelled on the agent's own loop, which stays free."""
    attempts: list[int] = []

    @tool
    async def read_slow() -> str:
        """Slow, once."""
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.sleep(30)
        return "quick"

    agent = create_agent(once("read_slow"), [read_slow])
    state = await agent.ainvoke({"messages": [HumanMessage("go")]})
    assert told(state).content == "quick" and len(attempts) == 2


def test_a_fallback_value_reaches_the_model(gateway: GatewayProcess) -> None:
    """Made by the gateway, shaped as a tool message."""

    @tool
    def read_with_fallback() -> str:
        """Never works."""
        raise ConnectionRefusedError("down")

    message = told(ask(create_agent(once("read_with_fallback"), [read_with_fallback])))
    assert (message.status, message.content) == ("success", '{"cached":true}')


def test_a_tool_whose_metadata_names_an_http_upstream_is_called_there(gateway: GatewayProcess) -> None:
    """The function never runs; the answer is the upstream's."""

    @tool
    def get_balance(account: str) -> str:
        """Reads a balance."""
        raise AssertionError("this lives elsewhere")

    langgraph.govern(get_balance, name="ledger.get_balance")
    message = told(ask(create_agent(once("get_balance", account="a-1"), [get_balance])))
    assert (message.status, message.content) == ("success", '{"balance":7}')


def test_a_composite_parent_and_its_children_are_one_run(gateway: GatewayProcess) -> None:
    """Agent as tool: the parent's id is in the children's records."""

    @tool
    def read_leaf() -> str:
        """A leaf."""
        return "leaf"

    inner = create_agent(once("read_leaf"), [read_leaf])

    @tool
    def delegate(question: str) -> str:
        """Delegates."""
        return str(ask(inner)["messages"][-1].content)

    assert told(ask(create_agent(once("delegate", question="q"), [delegate]))).content == "done"
    (parent,) = [one for one in ledger(gateway, tool="local.delegate") if one["type"] == "call.received"]
    (child,) = [one for one in ledger(gateway, tool="local.read_leaf") if one["type"] == "call.received"]
    assert child["parent_call_id"] == parent["call_id"] and child["run_id"] == parent["run_id"]


def test_ten_parents_at_once_do_not_starve_their_children(gateway: GatewayProcess) -> None:
    """They hold no slot while their children run, also where nobody declared them composite."""

    @governed
    def read_child(number: int) -> int:
        return number

    @governed
    def undeclared_parent(number: int) -> int:
        time.sleep(0.05)
        return read_child(number) + read_child(number)

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(undeclared_parent, range(10))) == [2 * number for number in range(10)]


@pytest.mark.parametrize("scope", ["agent:researcher", "tool:local.read_*", "global"])
def test_a_kill_stops_an_agent_before_its_next_call(gateway: GatewayProcess, scope: str) -> None:
    """The run ends with Killed; nothing of it starts afterwards."""
    ran: list[int] = []

    @tool
    def read_step() -> str:
        """A step; the first one is the last."""
        ran.append(1)
        status, _ = gateway.control("POST", "/v1/kills", {"scope": scope, "reason": "a test"})
        assert status == 201
        return "stepped"

    agent = create_agent(model(asks(("read_step", {})), asks(("read_step", {}), first=2), "done"), [read_step])
    with pytest.raises(langgraph.Killed):
        ask(agent)
    assert ran == [1]


def test_a_kill_of_a_running_tool_frees_the_agent_and_says_unknown(gateway: GatewayProcess) -> None:
    """The receipt names the call; the agent gets Killed while the thread still runs."""
    begun, free = threading.Event(), threading.Event()

    @tool
    def write_forever() -> str:
        """Waits."""
        begun.set()
        free.wait(20)
        return "late"

    agent = create_agent(once("write_forever"), [write_forever])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, agent)
        assert begun.wait(10)
        status, receipt = gateway.control("POST", "/v1/kills", {"scope": "agent:researcher", "reason": "a test"})
        with pytest.raises(langgraph.Killed):
            running.result(10)
        free.set()
    assert status == 201 and receipt["counts"]["unknown"] == 1
    assert [call["tool"] for call in receipt["calls"]] == ["local.write_forever"]


async def test_a_kill_acknowledged_while_the_agents_loop_is_blocked_lets_nothing_start(gateway: GatewayProcess) -> None:
    """The abort is answered by the channel's own thread, with a proof; the receipt says not_executed."""
    ran: list[int] = []

    @governed
    async def write_later() -> None:
        ran.append(1)

    await asyncio.to_thread(eventually, lambda: process.current().up)
    task = asyncio.create_task(write_later())
    await asyncio.sleep(0)  # the call is on its way, and from here on the agent's loop is blocked
    eventually(lambda: process.current()._attempts)  # it was ordered, and cannot begin
    receipt = gateway.control("POST", "/v1/kills", {"scope": "tool:local.write_later", "reason": "a test"})[1]
    assert receipt["counts"]["not_executed"] == 1, receipt
    with pytest.raises(Refused):
        await task
    await asyncio.sleep(0.05)
    assert ran == []


def test_a_sidecar_killed_while_a_function_runs_records_its_result_when_it_is_back(gateway: GatewayProcess) -> None:
    """SIGKILL, restart: the agent goes on with the real result, which is recorded and not repeated."""
    ran: list[int] = []

    @tool
    def write_through() -> str:
        """Outlives the sidecar."""
        ran.append(1)
        gateway.kill9()
        return "the real result"

    state = ask(create_agent(once("write_through"), [write_through]))
    assert told(state).content == "the real result" and ran == [1]
    gateway.start()
    eventually(
        lambda: [
            one
            for one in ledger(gateway)
            if one["type"] in ("attempt.finished", "attempt.settled", "call.settled") and one["outcome"] == "ok"
            and one["call_id"] in {r["call_id"] for r in ledger(gateway, tool="local.write_through")}
        ],
        20,
    )  # fmt: skip
    started = [one for one in ledger(gateway, tool="local.write_through") if one["type"] == "attempt.started"]
    assert len(started) == 1 and ran == [1]


def break_the_connection() -> None:
    """What a network does, or a sidecar that took this process for dead."""
    (descriptor, *_) = process.current()._link.descriptors
    broken = socket.socket(fileno=os.dup(descriptor))
    broken.shutdown(socket.SHUT_RDWR)
    broken.close()


def test_a_broken_connection_ends_no_call_where_the_sidecar_lives(gateway: GatewayProcess) -> None:
    """A function's end and an upstream's answer arrive over the next connection; nothing is done twice."""
    ran: list[int] = []

    @governed
    def write_across() -> str:
        ran.append(1)
        break_the_connection()
        time.sleep(0.3)
        return "across"

    @governed(name="ledger.pay_slowly")
    def pay_slowly() -> dict[str, bool]:
        raise AssertionError("this lives elsewhere")

    assert write_across() == "across" and ran == [1]
    eventually(lambda: process.current().up)
    with ThreadPoolExecutor(1) as pool:
        paying = pool.submit(pay_slowly)
        eventually(lambda: gateway.control("GET", "/v1/calls?state=in_flight")[1]["calls"])
        break_the_connection()
        assert paying.result(10) == {"paid": True}
    finished = [one for one in ledger(gateway, tool="local.write_across") if one["type"] == "attempt.finished"]
    assert [one["outcome"] for one in finished] == ["ok"]


def test_a_sidecar_that_restarts_in_good_order_is_found_again(gateway: GatewayProcess) -> None:
    """The next call waits a moment and works."""

    @governed
    def read_again() -> str:
        return "here"

    assert read_again() == "here"
    gateway.restart()
    eventually(lambda: process.current().up)
    assert read_again() == "here"


def test_an_agent_killed_in_the_middle_of_a_call_is_lost_and_its_write_unknown(gateway: GatewayProcess) -> None:
    """SIGKILL of the agent's process: nobody knows how far its function came."""
    code = """
        import time
        from outrider_adapters.governed import governed

        @governed
        def write_and_die():
            print("working", flush=True)
            time.sleep(600)

        write_and_die()
    """
    agent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **gateway.env, "OUTRIDER_AGENT": "doomed"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert agent.stdout is not None and agent.stdout.readline() == "working\n"
    agent.kill()
    agent.communicate(timeout=10)
    eventually(
        lambda: [agent for agent in gateway.control("GET", "/v1/agents")[1]["agents"] if agent["name"] == "doomed"
                 and agent["state"] in ("away", "lost")]
    )  # fmt: skip


def test_outrider_run_starts_a_program_governed(gateway: GatewayProcess) -> None:
    """The command itself: no line of code in the program."""
    code = """
        from langchain_core.tools import tool

        @tool
        def read_something(what: str) -> str:
            "Reads."
            return "read " + what

        print(read_something.invoke({"what": "this"}))
    """
    done = subprocess.run(
        [sys.executable, "-m", "outrider", "run", "--agent", "stranger", "--", sys.executable, "-c",
         textwrap.dedent(code)],
        env={**os.environ, **gateway.env}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "read this\n"), done.stderr
    (received,) = [one for one in ledger(gateway, tool="local.read_something") if one["type"] == "call.received"]
    assert received["agent"]["name"] == "stranger"


def test_a_plain_functions_failure_and_refusal_are_exceptions(gateway: GatewayProcess) -> None:
    """``@governed``: Failed with the function's own exception as its cause, Refused with the rule."""

    @governed
    def write_badly() -> None:
        raise KeyError("nowhere")

    @governed(name="local.send_mail")
    def send() -> None: ...

    with pytest.raises(Failed, match="KeyError") as failed:
        write_badly()
    assert isinstance(failed.value.__cause__, KeyError) and failed.value.outcome == "definite"
    with pytest.raises(Refused, match="no mail") as refused:
        send()
    assert refused.value.problem["rule"] == "no mail"

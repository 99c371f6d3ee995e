"""Run guards with real LangGraph agents: nested agents share a run, and the sentence of a refusal reaches the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool

from outrider.testing.gateway import GatewayProcess
from outrider_adapters import langgraph, process
from tests.support.scripted_model import asks, model

POLICY: dict[str, Any] = {
    "tools": [{"match": "local.read*", "effect": "read"}, {"match": "local.ask_*", "composite": True}],
    "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    "runs": {
        "maxCalls": 8,
        "runaway": {"sameCall": 3, "action": "refuse", "exempt": ["local.read_clock"]},
    },
}


@pytest.fixture(scope="module")
def sidecar() -> Iterator[GatewayProcess]:
    with GatewayProcess(POLICY) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def installed(sidecar: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in sidecar.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OUTRIDER_CONNECT_WAIT", "5")
    langgraph.install(agent="researcher")
    try:
        yield
    finally:
        langgraph._seam.some_tools = False
        langgraph.uninstall()
        process.close(1.0)


READ: list[int] = []


@tool
def read(page: int) -> str:
    """Reads a page."""
    READ.append(page)
    return f"page {page}"


@tool
def read_clock() -> str:
    """Tells the time."""
    return "noon"


def heard(state: dict[str, Any]) -> list[ToolMessage]:
    """What the model was told of its tools, in order."""
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


def invoke(agent: Any) -> dict[str, Any]:
    return dict(agent.invoke({"messages": [HumanMessage("go")]}))


def reading(*pages: int) -> Any:
    """A model that reads one page a turn."""
    return model(*(asks(("read", {"page": page}), first=n) for n, page in enumerate(pages, 1)), "done")


def test_nested_agents_share_what_their_run_may_do(sidecar: GatewayProcess) -> None:
    """The first agent's tool is an agent: both together make eight calls, and the inner model reads why not nine."""
    READ.clear()
    inner: list[ToolMessage] = []

    @tool
    def ask_librarian(question: str) -> str:
        """Another agent."""
        state = invoke(create_agent(reading(*range(10, 20)), [read]))
        inner.extend(heard(state))
        return str(state["messages"][-1].content)

    both = model(asks(("read", {"page": 1})), asks(("ask_librarian", {"question": "?"}), first=2), "done")
    state = invoke(create_agent(both, [read, ask_librarian]))
    assert state["messages"][-1].content == "done"
    assert [1, *range(10, 16)] == READ  # with the call of the librarian: eight
    refused = [str(message.content) for message in inner if message.status == "error"]
    assert len(refused) == 4 and "made 8 calls, as many as it may (runs.maxCalls)" in refused[0]
    assert "Finish with what you have" in refused[0]
    (run,) = [one for one in sidecar.control("GET", "/v1/runs")[1]["runs"] if one["state"] == "limited"]
    assert (run["counted"]["calls"], run["refused"], run["agent"]) == (8, 4, "researcher")
    calls = sidecar.control("GET", f"/v1/runs/{run['run']}")[1]["calls"]
    (parent,) = [call["call_id"] for call in calls if call["tool"] == "local.ask_librarian"]
    assert [call["parent"] for call in calls if call["tool"] == "local.read"] == ["", *[parent] * 10]


def test_a_model_that_repeats_itself_reads_what_to_do_instead(sidecar: GatewayProcess) -> None:
    """It goes on after it does something else, and its next run begins anew."""
    READ.clear()
    state = invoke(create_agent(reading(1, 1, 1, 1, 2, 1), [read]))
    told = heard(state)
    assert [message.status for message in told] == ["success"] * 3 + ["error"] + ["success"] * 2
    assert "You have called local.read with the same arguments 3 times in a row" in str(told[3].content)
    assert "change the arguments, do something else, or finish" in str(told[3].content)
    assert READ == [1, 1, 1, 2, 1]
    assert heard(invoke(create_agent(reading(1), [read])))[0].status == "success"


def test_a_tool_that_is_polled_on_purpose_is_left_alone(sidecar: GatewayProcess) -> None:
    """It is exempt by the policy."""
    polls = model(*(asks(("read_clock", {}), first=n) for n in range(1, 7)), "done")
    told = heard(invoke(create_agent(polls, [read_clock])))
    assert [message.status for message in told] == ["success"] * 6

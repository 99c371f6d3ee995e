"""The registry of agents: who was seen, who is connected, and that names cannot fill the memory."""

from __future__ import annotations

from typing import Any

import pytest

from outrider import clock
from outrider.agents import IDLE_S, MAX_GONE, MAX_TOOLS, OVERFLOW, Agents
from outrider.calls import Agent, Call, Outcome, OutcomeKind
from outrider.policy.plans import Limits
from outrider.wire import Hello, Tool


class Here:
    """A registry, the events it emitted, and a wall clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        self.limits = Limits()
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        monkeypatch.setattr(clock, "wall", lambda: self.now)
        self.agents = Agents(limits=lambda: self.limits, emit=self.emit)

    def emit(self, change: str, agent: Agent, data: dict[str, Any]) -> None:
        self.events.append((change, agent.name, data))

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.agents.snapshot() if row["name"] == name)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(monkeypatch)


def call(number: int, agent: str = "researcher") -> Call:
    return Call(id=f"c{number}", tool="local.search", args={}, agent=Agent(agent, "langgraph", {"team": "x"}, "ann"))


def hello(agent: str = "researcher", instance: str = "i1", **fields: Any) -> Hello:
    told: dict[str, Any] = {"host": "box", "pid": 7, "versions": {"langgraph": "1.2"}, "tools": (Tool("search"),)}
    return Hello(1, agent, "langgraph", instance, "k" * 16, **(told | fields))


OK = Outcome(OutcomeKind.OK)


def test_calls_are_counted_by_what_became_of_them(here: Here) -> None:
    """Failures were tried; refusals never ran; what is under way is in flight."""
    kinds = [OutcomeKind.OK, OutcomeKind.DEFINITE, OutcomeKind.UNKNOWN, OutcomeKind.NOT_EXECUTED, OutcomeKind.SUSPENDED]
    for number, _ in enumerate([*kinds, None]):
        here.agents.seen(call(number))
    for number, kind in enumerate(kinds):
        here.agents.finished(call(number), Outcome(kind))
    row = here.row("researcher")
    assert (row["calls"], row["failures"], row["refused"], row["in_flight"]) == (6, 2, 1, 1)
    assert (row["framework"], row["labels"], row["owner"], row["state"]) == ("langgraph", {"team": "x"}, "ann", "seen")


def test_an_end_without_a_beginning_changes_nothing(here: Here) -> None:
    """Nor does a second one."""
    here.agents.finished(call(1), OK)
    here.agents.seen(call(1))
    here.agents.finished(call(1), OK)
    here.agents.finished(call(1), OK)
    assert here.row("researcher")["in_flight"] == 0


def test_an_instance_connects_is_lost_and_comes_back(here: Here) -> None:
    """Each change is an event; the time it has been here is kept over a short absence."""
    here.agents.connected(hello(), "s-1")
    row = here.row("researcher")
    (instance,) = row["instances"]
    assert row["state"] == "connected" and row["tools"] == ["search"] and row["versions"] == {"langgraph": "1.2"}
    assert (instance["instance"], instance["host"], instance["pid"], instance["session"]) == ("i1", "box", 7, "s-1")
    here.now += 5
    here.agents.disconnected("s-1", orderly=False)
    assert here.row("researcher")["state"] == "lost"
    here.now += 5
    here.agents.connected(hello(), "s-1")
    (again,) = here.row("researcher")["instances"]
    assert again["state"] == "connected" and again["since"] == instance["since"] and again["until"] is None
    assert [(change, data.get("resumed")) for change, _, data in here.events] == [
        ("connected", False),
        ("lost", None),
        ("connected", True),
    ]


def test_goodbye_is_not_a_loss(here: Here) -> None:
    """``bye`` makes it left."""
    here.agents.connected(hello(), "s-1")
    here.agents.disconnected("s-1", orderly=True)
    here.agents.disconnected("s-1", orderly=False)
    assert here.row("researcher")["state"] == "left"
    assert [change for change, _, _ in here.events] == ["connected", "left"]


def test_an_agent_is_connected_while_one_of_its_instances_is(here: Here) -> None:
    """Two processes, one gone."""
    here.agents.connected(hello(instance="a"), "s-1")
    here.agents.connected(hello(instance="b", tools=(Tool("fetch"),)), "s-2")
    here.agents.disconnected("s-1", orderly=False)
    row = here.row("researcher")
    assert row["state"] == "connected" and row["tools"] == ["fetch", "search"]


def test_new_names_beyond_the_limit_are_counted_as_overflow(here: Here) -> None:
    """Nothing a caller sends makes the registry grow without end; the counters still balance."""
    here.limits = Limits(max_agents=3)
    for number in range(50):
        here.agents.seen(call(number, f"agent-{number}"))
    rows = here.agents.snapshot()
    assert len(rows) == 4 and rows[-1]["name"] == OVERFLOW and rows[-1]["calls"] == 47
    for number in range(50):
        here.agents.finished(call(number, f"agent-{number}"), OK)
    assert all(row["in_flight"] == 0 for row in here.agents.snapshot())


def test_an_agent_idle_for_an_hour_makes_room(here: Here) -> None:
    """Names that are never heard of again do not block new ones for good; who is connected or busy stays."""
    here.limits = Limits(max_agents=3)
    here.agents.seen(call(1, "busy"))
    here.agents.connected(hello("connected"), "s-1")
    here.agents.seen(call(2, "idle"))
    here.agents.finished(call(2, "idle"), OK)
    here.now += IDLE_S + 1
    for number in range(3, 6):  # each newcomer looks at one candidate only
        here.agents.seen(call(number, "newcomer"))
    assert {row["name"] for row in here.agents.snapshot()} == {"busy", "connected", "newcomer", OVERFLOW}


def test_an_instance_of_the_overflow_keeps_its_own_name_in_events(here: Here) -> None:
    """The ledger is told who connected, even when the registry is full."""
    here.limits = Limits(max_agents=1)
    here.agents.seen(call(1, "first"))
    here.agents.connected(hello("second"), "s-1")
    here.agents.disconnected("s-1", orderly=False)
    assert [(change, name) for change, name, _ in here.events] == [("connected", "second"), ("lost", "second")]


def test_instances_tools_and_texts_are_bounded(here: Here) -> None:
    """A process that restarts for ever, and one that declares without end."""
    for number in range(MAX_GONE + 30):
        here.agents.connected(hello(instance=f"i{number}"), f"s-{number}")
        here.agents.disconnected(f"s-{number}", orderly=False)
    huge = hello(
        instance="x" * 9000,
        host="h" * 9000,
        versions={f"v{n}": "1" * 9000 for n in range(1000)},
        tools=tuple(Tool(f"t{n}") for n in range(MAX_TOOLS * 3)),
    )
    here.agents.connected(huge, "s-huge")
    row = here.row("researcher")
    assert len(row["instances"]) == MAX_GONE + 1 and row["instances"][-1]["state"] == "connected"
    assert len(row["tools"]) <= MAX_TOOLS and len(str(row)) < 60_000

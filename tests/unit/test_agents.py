"""The registry of agents: who was seen, who is connected, and that names cannot fill the memory."""

from __future__ import annotations

from typing import Any

import pytest

from outrider import clock
from outrider.agents import OVERFLOW, Agents
from outrider.agents.entry import IDLE_S, KEEP_TOOLS_S, MAX_GONE
from outrider.agents.observed import LATE_S, TICK_S
from outrider.agents.registry import MAX_TOOLS
from outrider.calls import Agent, Call, Outcome, OutcomeKind
from outrider.policy.plans import Limits
from outrider.wire import Hello, Tool


class Here:
    """A registry, the events it emitted, and a wall clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        self.mono = 50.0
        self.limits = Limits()
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.rows: list[tuple[str, tuple[object, ...]]] = []
        monkeypatch.setattr(clock, "wall", lambda: self.now)
        monkeypatch.setattr(clock, "monotonic", lambda: self.mono)
        self.agents = Agents(limits=lambda: self.limits, emit=self.emit)

    def emit(self, change: str, agent: Agent, data: dict[str, Any], rows: Any) -> None:
        self.events.append((change, agent.name, data))
        self.rows += rows

    def told(self, *changes: str) -> list[tuple[str, str]]:
        return [(change, name) for change, name, _ in self.events if change in changes]

    def pass_s(self, seconds: float) -> None:
        """The observer looks every second."""
        for _ in range(round(seconds / TICK_S)):
            self.mono += TICK_S
            self.agents.tick()

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
    assert here.row("researcher")["state"] == "away"
    here.now += 5
    here.agents.connected(hello(), "s-1")
    (again,) = here.row("researcher")["instances"]
    assert again["state"] == "connected" and again["since"] == instance["since"] and again["until"] is None
    here.agents.disconnected("s-1", orderly=False)
    here.pass_s(here.limits.suspect_s)
    assert here.row("researcher")["state"] == "lost"
    assert [(change, data.get("resumed")) for change, _, data in here.events] == [
        ("seen", None),
        ("connected", False),
        ("declared", None),
        ("connected", True),
        ("lost", None),
    ]


def test_goodbye_is_not_a_loss(here: Here) -> None:
    """``bye`` makes it left."""
    here.agents.connected(hello(), "s-1")
    here.agents.disconnected("s-1", orderly=True)
    here.agents.disconnected("s-1", orderly=False)
    assert here.row("researcher")["state"] == "left"
    here.pass_s(100)
    assert here.told("connected", "left", "lost") == [("connected", "researcher"), ("left", "researcher")]


def test_a_process_that_comes_back_under_another_name_has_left_the_first(here: Here) -> None:
    """Else the first would wait for it for ever, and sessions that change their names would fill the memory."""
    for number in range(2 * MAX_GONE):
        for name in ("researcher", "impostor"):
            here.agents.connected(hello(name), f"s-{number}")
            here.agents.disconnected(f"s-{number}", orderly=False)
    here.pass_s(here.limits.suspect_s)
    assert [row["state"] for row in here.agents.snapshot()] == ["lost", "left"]
    assert [len(row["instances"]) for row in here.agents.snapshot()] == [MAX_GONE, MAX_GONE]


def test_processes_that_may_come_back_are_bounded(here: Here) -> None:
    """One that connects and breaks off without end: of those away the one longest away is lost at once."""
    here.limits = Limits(max_channels=30)
    for number in range(300):
        here.agents.connected(hello(), f"s-{number}")
        here.agents.disconnected(f"s-{number}", orderly=False)
    states = [instance["state"] for instance in here.row("researcher")["instances"]]
    assert (states.count("away"), states.count("lost")) == (30, MAX_GONE)
    assert here.told("lost") == [("lost", "researcher")] * 270
    here.agents.connected(hello(), "s-299")
    here.agents.disconnected("s-299", orderly=True)
    here.pass_s(here.limits.suspect_s)
    assert len(here.told("lost")) == 299


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
    here.agents.disconnected("s-1", orderly=True)
    assert here.told("connected", "left") == [("connected", "second"), ("left", "second")]


def test_instances_tools_and_texts_are_bounded(here: Here) -> None:
    """A process that restarts for ever, and one that declares without end."""
    for number in range(MAX_GONE + 30):
        here.agents.connected(hello(instance=f"i{number}"), f"s-{number}")
        here.agents.disconnected(f"s-{number}", orderly=True)
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


def test_an_agent_that_declared_tools_is_kept_for_a_month(here: Here) -> None:
    """Who is forgotten after an hour could come back with other tools under the same names, as if first seen."""
    here.limits = Limits(max_agents=1)
    here.agents.connected(hello(tools=(Tool("search", "d1"),)), "s-1")
    here.agents.disconnected("s-1", orderly=True)
    here.now += IDLE_S + 1
    here.agents.seen(call(1, "newcomer"))
    assert {row["name"] for row in here.agents.snapshot()} == {"researcher", OVERFLOW}
    here.now += KEEP_TOOLS_S
    here.agents.seen(call(2, "newcomer"))
    assert "researcher" not in {row["name"] for row in here.agents.snapshot()}
    assert ("DELETE FROM agent_tools WHERE agent = ?", ("researcher",)) in here.rows


# ── observing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_silence_makes_degraded_then_lost_and_a_heartbeat_restores(here: Here) -> None:
    """The same session restores itself, even when it was lost."""
    here.agents.connected(hello(), "s-1")
    here.pass_s(LATE_S - 1)
    assert here.row("researcher")["observed"] == "ready"
    here.pass_s(1)
    assert here.row("researcher")["observed"] == "degraded"
    here.pass_s(here.limits.suspect_s)
    assert here.row("researcher")["observed"] == "lost"
    here.agents.heartbeat("s-1")
    here.pass_s(1)
    row = here.row("researcher")
    assert (row["observed"], row["standing"], row["state"]) == ("ready", "ready", "connected")


def test_heartbeats_keep_it_ready_for_ever(here: Here) -> None:
    """One every five seconds is enough."""
    here.agents.connected(hello(), "s-1")
    for _ in range(100):
        here.pass_s(5)
        here.agents.heartbeat("s-1")
        assert here.row("researcher")["observed"] == "ready"


@pytest.mark.parametrize("gap_s", [5.0, 60.0, 86_400.0])
def test_a_sidecar_that_stood_still_declares_nobody_lost(here: Here, gap_s: float) -> None:
    """It heard nobody because it did not listen: everybody gets a fresh period, and really silent ones are found."""
    here.agents.connected(hello(instance="a"), "s-1")
    here.agents.connected(hello("away", instance="b"), "s-2")
    here.agents.disconnected("s-2", orderly=False)
    here.pass_s(LATE_S - 2)
    here.mono += gap_s
    here.agents.tick()
    assert here.told("lost") == [] and here.row("researcher")["observed"] == "ready"
    here.pass_s(LATE_S - 1)
    assert here.row("researcher")["observed"] == "ready" and here.row("away")["observed"] == "degraded"
    here.pass_s(here.limits.suspect_s)
    assert here.row("researcher")["observed"] == "lost" and here.told("lost") == [("lost", "away")]


def test_standing_still_again_and_again_declares_nobody_lost(here: Here) -> None:
    """A machine that is suspended every few seconds."""
    here.agents.connected(hello(), "s-1")
    for _ in range(100):
        here.pass_s(3)
        here.mono += 600
        here.agents.tick()
        assert here.row("researcher")["observed"] == "ready"


@pytest.mark.parametrize("jump_s", [-1e6, 1e6])
def test_the_wall_clock_decides_nothing(here: Here, jump_s: float) -> None:
    """It may jump as it likes."""
    here.agents.connected(hello(), "s-1")
    here.now += jump_s
    here.pass_s(LATE_S - 1)
    assert here.row("researcher")["observed"] == "ready" and here.told("lost") == []
    here.pass_s(here.limits.suspect_s)
    assert here.row("researcher")["observed"] == "lost"


def test_failing_calls_make_an_agent_degraded_until_they_succeed(here: Here) -> None:
    """Also one that calls over HTTP only, of which nothing else is observed. Refusals say nothing of it."""

    def ends(number: int, kind: OutcomeKind) -> None:
        here.agents.seen(call(number))
        here.agents.finished(call(number), Outcome(kind))

    for number in range(30):
        ends(number, OutcomeKind.NOT_EXECUTED)
    for number in range(9):
        ends(number, OutcomeKind.DEFINITE)
    assert here.row("researcher")["observed"] is None
    ends(1, OutcomeKind.UNKNOWN)
    assert here.row("researcher")["observed"] == "degraded"
    for number in range(11):
        ends(number, OutcomeKind.OK)
    assert here.row("researcher")["observed"] is None


def test_what_became_of_an_instance_is_told_beside_the_best_of_them(here: Here) -> None:
    """Two processes: one is lost, the agent is ready."""
    here.agents.connected(hello(instance="a"), "s-1")
    here.agents.connected(hello(instance="b"), "s-2")
    here.agents.disconnected("s-2", orderly=False)
    for _ in range(8):
        here.pass_s(5)
        here.agents.heartbeat("s-1")
    row = here.row("researcher")
    assert row["observed"] == "ready"
    assert {one["instance"]: one["observed"] for one in row["instances"]} == {"a": "ready", "b": "lost"}


# ── drift ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tool_that_changed_has_drifted_until_a_person_accepts_it(here: Here) -> None:
    """The way back does not end it; what was accepted stays trusted, and so does what was before."""
    agent = Agent("researcher")
    for digest in ("d1", "d1", "d2", "d2", "d1"):
        here.agents.declare(agent, "local.search", digest)
    assert here.row("researcher")["drift"] == ["local.search"]
    assert [change for change, _, _ in here.events] == ["seen", "declared", "drifted"]
    known = here.agents.accepted("researcher", "local.search", "ann", "reviewed")
    assert here.agents.accept("researcher", known)
    for digest in ("d2", "d1", "d2"):
        here.agents.declare(agent, "local.search", digest)
    assert here.row("researcher")["drift"] == []
    here.agents.declare(agent, "local.search", "d3")
    assert here.row("researcher")["drift"] == ["local.search"]
    (tool,) = here.agents.show("researcher")["tools"]
    assert (tool["digest"], tool["trusted"], tool["accepted_by"]) == ("d3", ["d1", "d2"], "ann")


def test_what_changed_again_while_it_was_accepted_is_not_accepted(here: Here) -> None:
    """A person looked at the other one."""
    for digest in ("d1", "d2"):
        here.agents.declare(Agent("researcher"), "local.search", digest)
    known = here.agents.accepted("researcher", "local.search", "ann", "reviewed")
    here.agents.declare(Agent("researcher"), "local.search", "d3")
    assert not here.agents.accept("researcher", known)
    assert here.row("researcher")["drift"] == ["local.search"]


def test_only_what_has_drifted_can_be_accepted(here: Here) -> None:
    """Not a tool that is as it was, nor one of nobody."""
    here.agents.declare(Agent("researcher"), "local.search", "d1")
    for agent, tool in (("researcher", "local.search"), ("researcher", "x"), ("nobody", "local.search")):
        with pytest.raises(KeyError):
            here.agents.accepted(agent, tool, "ann", "why")


def test_a_digest_is_not_lost_to_a_declaration_without_one(here: Here) -> None:
    """An older adapter declares none; the first that is told counts."""
    for digest in ("", "d1", "", "d1"):
        here.agents.declare(Agent("researcher"), "local.search", digest)
    assert here.row("researcher")["drift"] == []
    here.agents.declare(Agent("researcher"), "local.search", "d2")
    assert here.row("researcher")["drift"] == ["local.search"]


def test_a_short_window_does_not_make_a_connected_process_lost(here: Here) -> None:
    """``limits.suspectFor`` may be shorter than the time between two heartbeats."""
    here.limits = Limits(suspect_s=2.0)
    here.agents.connected(hello(), "s-1")
    for _ in range(20):
        here.pass_s(5)
        here.agents.heartbeat("s-1")
        assert here.row("researcher")["observed"] == "ready"
    here.agents.disconnected("s-1", orderly=False)
    here.pass_s(3)
    assert here.row("researcher")["observed"] == "lost"


def test_the_census_says_what_the_snapshot_says(here: Here) -> None:
    """In numbers."""
    here.agents.connected(hello(), "s-1")
    here.agents.seen(call(1, "other"))
    for digest in ("d1", "d2"):
        here.agents.declare(Agent("other"), "local.x", digest)
    found = here.agents.census()
    assert (found.connected, found.drifted, found.waiting, found.undeclared) == (1, 1, 0, 0)
    assert dict(found.observed) == {"ready": 1} and dict(found.commanded) == {"open": 2}


def test_a_flood_of_names_writes_no_more_than_the_limit_allows(here: Here) -> None:
    """Neither events nor rows: what is not told apart is not recorded apart."""
    here.limits = Limits(max_agents=5)
    for number in range(500):
        here.agents.seen(call(number, f"flood-{number}"))
        here.agents.declare(Agent(f"flood-{number}"), "local.x", f"d{number}")
    assert len(here.told("seen")) == 5 and len(here.told("declared")) == 5
    assert len(here.agents.snapshot()) == 6 and len(here.rows) <= 40

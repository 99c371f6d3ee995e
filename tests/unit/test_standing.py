"""How an agent stands, over the whole call path on virtual time: commanded by people, judged by the policy."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outrider.agents import Agents, Lifecycle
from outrider.agents import stored as stored_agents
from outrider.agents.commanded import Command
from outrider.agents.entry import MAX_RUNS, RUN_OVER_S
from outrider.agents.lifecycle import RETRY_S
from outrider.agents.observed import TICK_S
from outrider.calls import Agent, Call, Outcome, OutcomeKind
from outrider.errors import Code, Refused
from outrider.flight import Cause, Flight, Verdict
from outrider.ledger.record import EventType
from outrider.policy.plans import Limits
from tests.support.kill_kit import ScriptedLedger
from tests.support.rig import BASE, REFUSED, Rig

pytestmark = pytest.mark.looptime


async def order(rig: Rig, command: Command, agent: str = "a", deadline_s: float = 30.0) -> None:
    await rig.lifecycle.command(agent, command, "a reason", "ann", deadline_s)


async def look(rig: Rig, seconds: float = TICK_S) -> None:
    """The observer looks every second."""
    for _ in range(round(seconds / TICK_S)):
        await asyncio.sleep(TICK_S)
        rig.agents.tick()
        rig.lifecycle.tend()


def now() -> float:
    return asyncio.get_running_loop().time()


def over(flight: Flight) -> bool:
    assert flight.answer is not None
    return flight.answer.done()


async def ended(flight: Flight) -> Outcome:
    assert flight.answer is not None
    return await flight.answer


def refused(outcome: Outcome, code: Code) -> bool:
    return outcome.kind is OutcomeKind.NOT_EXECUTED and outcome.code is code and outcome.stage == "standing"


# ── cordon ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cordon_lets_runs_under_way_go_on_and_refuses_new_ones(tmp_path: Path) -> None:
    """A call without a run counts as new; other agents are free; the uncordon opens."""
    async with Rig(tmp_path) as rig:
        assert (await rig.call("up.read", run="old")).ok
        await order(rig, Command.CORDON)
        assert (await rig.call("up.read", run="old")).ok
        for run in ("new", ""):
            outcome = await rig.call("up.read", run=run)
            assert refused(outcome, Code.AGENT_CORDONED) and "a reason" in outcome.detail
        assert refused(await rig.call("up.read", run="new"), Code.AGENT_CORDONED), "a refused call begins no run"
        assert (await rig.call("up.read", agent="b", run="new")).ok
        await order(rig, Command.UNCORDON)
        assert (await rig.call("up.read", run="new")).ok


async def test_a_run_that_was_silent_for_an_hour_is_a_new_one(tmp_path: Path) -> None:
    """It is over; one that goes on stays under way for as long as it likes."""
    async with Rig(tmp_path) as rig:
        for run in ("over", "goes-on"):
            assert (await rig.call("up.read", run=run)).ok
        await order(rig, Command.CORDON)
        for _ in range(3):
            await asyncio.sleep(RUN_OVER_S - 10)
            assert (await rig.call("up.read", run="goes-on")).ok
        assert refused(await rig.call("up.read", run="over"), Code.AGENT_CORDONED)


async def test_the_runs_remembered_of_an_agent_are_bounded(tmp_path: Path) -> None:
    """Those heard of longest ago are forgotten first."""
    async with Rig(tmp_path) as rig:
        for number in range(MAX_RUNS + 20):
            await rig.call("up.read", run=f"r{number}")
        await order(rig, Command.CORDON)
        entry = rig.agents.get("a")
        assert entry is not None and len(entry.runs) == MAX_RUNS
        assert refused(await rig.call("up.read", run="r0"), Code.AGENT_CORDONED)
        assert (await rig.call("up.read", run=f"r{MAX_RUNS}")).ok


async def test_a_cordon_may_be_given_before_the_agent_was_seen(tmp_path: Path) -> None:
    """It is there when the agent comes."""
    async with Rig(tmp_path) as rig:
        await order(rig, Command.CORDON, "newcomer")
        assert refused(await rig.call("up.read", agent="newcomer"), Code.AGENT_CORDONED)
        (row,) = rig.agents.snapshot()
        assert (row["name"], row["standing"], row["commanded"]["by"]) == ("newcomer", "cordoned", "ann")


async def test_an_agent_is_seen_first_when_it_is_and_not_when_it_was_commanded(tmp_path: Path) -> None:
    """A restart in between changes nothing of that."""
    async with Rig(tmp_path) as rig:
        await order(rig, Command.CORDON)
        assert rig.agents.snapshot()[0]["first_seen"] is None and rig.agents.unsaved() == []
    async with Rig(tmp_path) as rig:
        rig.restore()
        assert rig.agents.snapshot()[0]["first_seen"] is None
        await rig.call("up.read")
        first = rig.agents.snapshot()[0]["first_seen"]
        assert first is not None and len(rig.events("agent.seen")) == 1
        await rig.call("up.read")
    async with Rig(tmp_path) as rig:
        rig.restore()
        await rig.call("up.read")
        assert rig.agents.snapshot()[0]["first_seen"] == first and len(rig.events("agent.seen")) == 1


async def test_a_cordon_and_its_runs_survive_a_restart(tmp_path: Path) -> None:
    """The same database, another process."""
    async with Rig(tmp_path) as rig:
        assert (await rig.call("up.read", run="old")).ok
        await order(rig, Command.CORDON)
    async with Rig(tmp_path) as rig:
        rig.restore()
        assert (await rig.call("up.read", run="old")).ok
        assert refused(await rig.call("up.read", run="new"), Code.AGENT_CORDONED)


# ── drain ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_drain_lets_calls_in_flight_end_and_begins_nothing(tmp_path: Path) -> None:
    """It answers at once; when the last call has ended it says so, in the registry and in the ledger."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 5.0
        flight = rig.start("up.write")
        await asyncio.sleep(0.1)
        began = now()
        await order(rig, Command.DRAIN)
        assert now() - began < 0.1 and rig.lifecycle.shown("a")["remaining"] == 1
        assert refused(await rig.call("up.write"), Code.AGENT_DRAINING)
        await look(rig)
        assert rig.lifecycle.shown("a")["drained_at"] is None
        assert (await ended(flight)).ok
        await look(rig)
        assert rig.lifecycle.shown("a")["drained_at"] and rig.lifecycle.shown("a")["remaining"] == 0
        assert len(rig.events("agent.drained")) == 1


async def test_a_drain_stops_what_is_left_at_its_deadline(tmp_path: Path) -> None:
    """What was sent may have run, and says so."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 7.0
        sent = rig.start("up.write")
        await asyncio.sleep(0.1)
        await order(rig, Command.DRAIN, deadline_s=3.0)
        began = now()
        outcome = await ended(sent)
        assert now() - began == pytest.approx(3.0, abs=0.1)
        assert (outcome.kind, outcome.code) == (OutcomeKind.UNKNOWN, Code.AGENT_DRAINING)


async def test_a_lifted_drain_stops_nobody(tmp_path: Path) -> None:
    """Its deadline has no meaning any more."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 7.0
        flight = rig.start("up.write")
        await asyncio.sleep(0.1)
        await order(rig, Command.DRAIN, deadline_s=3.0)
        await order(rig, Command.UNCORDON)
        assert (await ended(flight)).ok


async def test_a_call_inside_a_call_that_is_drained_may_be_made(tmp_path: Path) -> None:
    """It is a part of what may end; a call that only names the same run is not."""
    async with Rig(tmp_path, {"tools": [*BASE["tools"], {"match": "up.whole", "effect": "write"}]}) as rig:
        rig.upstream.takes_s = lambda attempt: 5.0 if attempt.tool == "up.whole" else 0.1
        parent = rig.start("up.whole")
        await asyncio.sleep(0.1)
        await order(rig, Command.DRAIN)
        assert (await rig.call("up.read", parent=parent.call.id)).ok
        assert refused(await rig.call("up.read"), Code.AGENT_DRAINING)


# ── pause ────────────────────────────────────────────────────────────────────────────────────────────────────────────

PAUSE = {"agents": {"pause": {"maxWait": "60s", "maxWaiting": 3}}}


async def test_calls_of_a_paused_agent_wait_and_go_on(tmp_path: Path) -> None:
    """Nothing is sent meanwhile; the policy's total time begins when the call goes on."""
    async with Rig(tmp_path, PAUSE) as rig:
        await order(rig, Command.PAUSE)
        flight = rig.start("up.read")
        await asyncio.sleep(50)
        assert not over(flight) and rig.upstream.count() == 0 and flight.deadline is None
        assert rig.agents.snapshot()[0]["waiting"] == 1
        await order(rig, Command.RESUME)
        assert (await ended(flight)).ok
        assert rig.agents.snapshot()[0]["waiting"] == 0 and rig.traffic.waiting == 0


async def test_a_call_waits_no_longer_than_the_policy_says(tmp_path: Path) -> None:
    """Pausing and resuming again and again does not make it longer."""
    async with Rig(tmp_path, PAUSE) as rig:
        await order(rig, Command.PAUSE)
        began = now()
        outcome = await rig.call("up.read")
        assert refused(outcome, Code.AGENT_PAUSED) and now() - began == pytest.approx(60, abs=0.1)
        assert outcome.retry_after_s


async def test_no_more_calls_wait_than_the_policy_says(tmp_path: Path) -> None:
    """The others are refused at once; each agent has its own places."""
    async with Rig(tmp_path, PAUSE) as rig:
        for agent in "ab":
            await order(rig, Command.PAUSE, agent)
        waiting = [rig.start("up.read", agent=agent) for agent in "aaabbb"]
        await asyncio.sleep(1)
        began = now()
        assert refused(await rig.call("up.read"), Code.AGENT_PAUSED) and now() == pytest.approx(began)
        assert not any(over(flight) for flight in waiting)
        for agent in "ab":
            await order(rig, Command.RESUME, agent)
        assert all([(await ended(flight)).ok for flight in waiting])


async def test_what_waits_counts_for_nothing(tmp_path: Path) -> None:
    """A paused agent's calls do not use up limits.maxInflight, and there are never more of them than that."""
    limits = {"limits": {"maxInflight": 4}, "agents": {"pause": {"maxWaiting": 100}}}
    async with Rig(tmp_path, limits) as rig:
        await order(rig, Command.PAUSE)
        waiting = [rig.start("up.read") for _ in range(4)]
        await asyncio.sleep(1)
        assert [(await rig.call("up.read", agent="b")).ok for _ in range(8)] == [True] * 8
        assert refused(await rig.call("up.read"), Code.AGENT_PAUSED)
        await order(rig, Command.RESUME)
        assert all([(await ended(flight)).ok for flight in waiting])


async def test_a_kill_and_the_callers_leaving_end_the_wait(tmp_path: Path) -> None:
    """At once, and nothing was sent."""
    async with Rig(tmp_path, PAUSE) as rig:
        await order(rig, Command.PAUSE)
        killed, left = rig.start("up.read"), rig.start("up.write")
        await asyncio.sleep(1)
        rig.supervisor.caller_gone(left)
        assert (await ended(left)).code is Code.CANCELLED
        receipt = await rig.supervisor.kill("agent:a", "stop", None, "ann")
        assert (await ended(killed)).code is Code.KILLED
        assert receipt.counts == {"not_executed": 1, "completed": 0, "unknown": 0} and rig.upstream.count() == 0


async def test_a_caller_who_said_how_long_it_waits_waits_no_longer(tmp_path: Path) -> None:
    """Not in the pause, and not for both together."""
    async with Rig(tmp_path, PAUSE) as rig:
        await order(rig, Command.PAUSE)
        began = now()
        assert refused(await rig.call("up.read", deadline_ms=2000), Code.AGENT_PAUSED)
        assert now() - began == pytest.approx(2.0, abs=0.05)
        rig.upstream.takes_s = lambda attempt: 20.0
        began, flight = now(), rig.start("up.read", deadline_ms=5000)
        await asyncio.sleep(3)
        await order(rig, Command.RESUME)
        assert (await ended(flight)).code is Code.DEADLINE_EXCEEDED
        assert now() - began == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize(
    ("command", "code"), [(Command.DRAIN, Code.AGENT_DRAINING), (Command.RETIRE, Code.AGENT_RETIRED)]
)
async def test_a_stricter_word_ends_the_wait(tmp_path: Path, command: Command, code: Code) -> None:
    """Who waits is refused by what is commanded now."""
    async with Rig(tmp_path, PAUSE) as rig:
        await order(rig, Command.PAUSE)
        flight = rig.start("up.read")
        await asyncio.sleep(1)
        await order(rig, command)
        assert refused(await ended(flight), code) and rig.upstream.count() == 0


async def test_a_shutdown_ends_the_wait(tmp_path: Path) -> None:
    """Nobody will resume the agent; the sidecar does not wait for those who wait."""
    async with Rig(tmp_path, PAUSE) as rig:
        await order(rig, Command.PAUSE)
        flight = rig.start("up.read")
        await asyncio.sleep(1)
        began = now()
        rig.lifecycle.release_waiting()
        await rig.supervisor.drain(25.0)
        assert now() - began < 1 and (await ended(flight)).code is Code.DRAINING


async def test_a_cordon_outlives_a_pause(tmp_path: Path) -> None:
    """``resume`` gives back what was before."""
    async with Rig(tmp_path, PAUSE) as rig:
        assert (await rig.call("up.read", run="old")).ok
        for command in (Command.CORDON, Command.PAUSE, Command.RESUME):
            await order(rig, command)
        assert (await rig.call("up.read", run="old")).ok
        assert refused(await rig.call("up.read", run="new"), Code.AGENT_CORDONED)


async def test_automation_pauses_and_a_person_resumes(tmp_path: Path) -> None:
    """It says whose word it is, and it is in the ledger; a person's word it never changes."""
    async with Rig(tmp_path, {"agents": {"pause": {"maxWaiting": 0}}}) as rig:
        assert rig.lifecycle.automate("a", "paused", "it calls up.read again and again")
        outcome = await rig.call("up.read")
        assert refused(outcome, Code.AGENT_PAUSED)
        assert "Outrider paused agent 'a'" in outcome.detail and "again and again" in outcome.detail
        assert not rig.lifecycle.automate("a", "paused", "once more")
        await order(rig, Command.RESUME)
        assert (await rig.call("up.read")).ok
        await order(rig, Command.CORDON)
        assert not rig.lifecycle.automate("a", "paused", "it runs away")
        events = [json.loads(row["line"]) for row in rig.events("agent.commanded")]
        assert [(event["actor"], event["data"]["to"]) for event in events] == [
            ("outrider", "paused"),
            ("ann", "open"),
            ("ann", "cordoned"),
        ]
        with pytest.raises(ValueError, match="may only pause"):
            rig.lifecycle.automate("a", "retired", "why not")


# ── retire, and the words' order ─────────────────────────────────────────────────────────────────────────────────────


async def test_retired_is_for_good(tmp_path: Path) -> None:
    """No word lifts it, a restart neither; what the agent holds is revoked."""
    revoked: list[tuple[str, str, str]] = []

    async def revoke(agent: str, why: str, by: str) -> None:
        revoked.append((agent, why, by))

    async with Rig(tmp_path) as rig:
        rig.lifecycle.on_retired = revoke
        await order(rig, Command.RETIRE)
        for command in (Command.UNCORDON, Command.RESUME, Command.CORDON, Command.PAUSE, Command.DRAIN):
            with pytest.raises(Refused, match="another name"):
                await order(rig, command)
        assert revoked == [("a", "a reason", "ann")]
    async with Rig(tmp_path) as rig:
        rig.restore()
        assert refused(await rig.call("up.read"), Code.AGENT_RETIRED)


async def test_a_failing_hook_does_not_undo_a_retirement(tmp_path: Path) -> None:
    """It is refused whatever it shows."""

    async def revoke(agent: str, why: str, by: str) -> None:
        raise OSError("no")

    async with Rig(tmp_path) as rig:
        rig.lifecycle.on_retired = revoke
        await order(rig, Command.RETIRE)
        assert refused(await rig.call("up.read"), Code.AGENT_RETIRED)


@pytest.mark.parametrize("mode", ["fail", "hang", "raise"])
async def test_every_command_reaches_the_ledger_once_the_disk_answers(mode: str) -> None:
    """Also those that later ones have replaced by then, each once, and the switch that stands is what a start finds."""
    ledger: Any = ScriptedLedger()
    agents = Agents(limits=Limits, emit=lambda *_: None)
    lifecycle = Lifecycle(agents, ledger, under_way=lambda name: 0, stop=lambda name, why: None)
    ledger.mode = mode
    for command in (Command.CORDON, Command.PAUSE, Command.DRAIN):
        switch = await lifecycle.command("a", command, command.value, "ann")
        assert switch is not None and not switch.durable
    for _ in range(3):
        lifecycle.tend()
        await asyncio.sleep(RETRY_S)
    ledger.mend()
    for _ in range(3):
        lifecycle.tend()
        await asyncio.sleep(RETRY_S)
    assert [event.reason for event in ledger.events if event.type is EventType.AGENT_COMMANDED] == [
        "cordon", "pause", "drain",
    ]  # fmt: skip
    assert [event.type for event in ledger.events].count(EventType.AGENT_DRAINED) == 1
    (row,) = ledger.read(stored_agents.SWITCHES)
    assert row["state"] == "draining" and row["drained_at"] is not None
    standing = lifecycle.get("a")
    assert standing is not None and standing.durable


async def test_a_kill_comes_before_what_is_commanded(tmp_path: Path) -> None:
    """A killed agent's call does not wait for a pause to end."""
    async with Rig(tmp_path, PAUSE) as rig:
        await order(rig, Command.PAUSE)
        await rig.kills.engage("agent:a", "stop")
        began = now()
        assert (await rig.call("up.read")).code is Code.KILLED and now() == pytest.approx(began)


# ── the policy's word ────────────────────────────────────────────────────────────────────────────────────────────────


def expecting(**more: Any) -> dict[str, Any]:
    return {"agents": {"expected": [{"name": "a", "owner": "ann"}, {"name": "batch-*"}], **more}}


async def test_undeclared_agents_are_denied_where_the_policy_says_so(tmp_path: Path) -> None:
    """Whether or not they were seen before; they are shown as undeclared in any case."""
    async with Rig(tmp_path, expecting()) as rig:
        assert (await rig.call("up.write", agent="stranger")).ok
        assert {row["name"]: row["declared"] for row in rig.agents.snapshot()} == {"stranger": False}
        await rig.reload(expecting(undeclared="deny"))
        for agent, ok in (("a", True), ("batch-7", True), ("stranger", False), ("batc", False)):
            outcome = await rig.call("up.read", agent=agent)
            assert outcome.ok is ok and (ok or refused(outcome, Code.AGENT_UNDECLARED))
        seen = [json.loads(row["line"]) for row in rig.events("agent.seen")]
        assert {line["agent"]["name"]: line["data"]["declared"] for line in seen} == {
            "stranger": False, "a": True, "batch-7": True, "batc": False,
        }  # fmt: skip


async def test_where_nobody_is_expected_by_name_nothing_is_said_of_anybody(tmp_path: Path) -> None:
    """The first day: no agent is called undeclared."""
    async with Rig(tmp_path) as rig:
        assert (await rig.call("up.write")).ok
        assert rig.agents.snapshot()[0]["declared"] is None


async def test_in_quarantine_an_agent_may_only_read(tmp_path: Path) -> None:
    """Not by way of a fallback either: another tool is another question."""
    read_or_write = {"match": "up.read_or_write", "effect": "read", "fallback": [{"tool": "spare.write"}]}
    policy = {**expecting(undeclared="quarantine"), "tools": [*BASE["tools"], read_or_write]}
    async with Rig(tmp_path, policy) as rig:
        assert (await rig.call("up.read", agent="stranger")).ok
        assert refused(await rig.call("up.write", agent="stranger"), Code.AGENT_UNDECLARED)
        assert (await rig.call("up.write", agent="a")).ok
        (row,) = [row for row in rig.agents.snapshot() if row["name"] == "stranger"]
        assert row["quarantined"]
        rig.upstream.answer = lambda attempt: (
            Outcome(OutcomeKind.OK) if attempt.tool == "spare.write" else Outcome(OutcomeKind.DEFINITE)
        )
        rig.upstream.sent.clear()
        await rig.call("up.read_or_write", agent="stranger")
        assert "spare.write" not in {sent.tool for sent in rig.upstream.sent}


async def test_an_owner_can_be_required(tmp_path: Path) -> None:
    """The credential's counts, then the policy's."""
    async with Rig(tmp_path, expecting(requireOwner=True)) as rig:
        assert (await rig.call("up.read", agent="a")).ok
        assert refused(await rig.call("up.read", agent="batch-1"), Code.AGENT_UNDECLARED)
        flight = rig.supervisor.submit(Call("c-owned", "up.read", {}, Agent("batch-1", owner="bob"), run="r"))
        assert (await ended(flight)).ok
        assert refused(await rig.call("up.read", agent="batch-1"), Code.AGENT_UNDECLARED), "asked for each call"


async def test_an_attempt_is_asked_again_when_the_policy_changed(tmp_path: Path) -> None:
    """Denies use the newest policy: an agent that is expected no more sends nothing more."""
    async with Rig(tmp_path, expecting()) as rig:
        rig.upstream.answer = lambda attempt: REFUSED
        flight = rig.start("up.read", agent="stranger")
        await asyncio.sleep(0.011)
        assert rig.upstream.count() == 1
        await rig.reload(expecting(undeclared="deny"))
        outcome = await ended(flight)
        assert outcome.code is Code.AGENT_UNDECLARED and rig.upstream.count() == 1


async def test_a_tool_that_drifted_is_refused_until_it_is_accepted(tmp_path: Path) -> None:
    """That tool only, of that agent only; flagged where the policy flags."""
    async with Rig(tmp_path, {"agents": {"drift": "refuse"}}) as rig:
        for digest in ("d1", "d2"):
            rig.agents.declare(Agent("a"), "up.read", digest)
        outcome = await rig.call("up.read")
        assert refused(outcome, Code.TOOL_DRIFTED) and "outrider agents accept a up.read" in outcome.detail
        assert (await rig.call("up.write")).ok and (await rig.call("up.read", agent="b")).ok
        await rig.lifecycle.accept("a", "up.read", "reviewed", "ann")
        assert (await rig.call("up.read")).ok
        rig.agents.declare(Agent("a"), "up.read", "d3")
        assert refused(await rig.call("up.read"), Code.TOOL_DRIFTED)
        await rig.reload({"agents": {"drift": "flag"}})
        assert (await rig.call("up.read")).ok and rig.agents.snapshot()[0]["drift"] == ["up.read"]
    async with Rig(tmp_path) as rig:
        rig.restore()
        known = rig.agents.show("a")["tools"]
        assert [(tool["name"], tool["digest"], tool["trusted"]) for tool in known] == [("up.read", "d3", ["d1", "d2"])]
        assert rig.agents.snapshot()[0]["drift"] == ["up.read"]


async def test_a_policy_that_observes_refuses_nothing_but_what_people_commanded(tmp_path: Path) -> None:
    """What would have been refused is recorded; a person's word is never observed away."""
    async with Rig(tmp_path, {"mode": "observe", **expecting(undeclared="deny")}) as rig:
        assert (await rig.call("up.write", agent="stranger")).ok
        (observed,) = [json.loads(row["line"]) for row in rig.events("call.observed")]
        assert observed["code"] == "agent_undeclared"
        await order(rig, Command.RETIRE, "stranger")
        assert refused(await rig.call("up.write", agent="stranger"), Code.AGENT_RETIRED)


async def test_an_agent_of_the_overflow_is_judged_by_its_own_name(tmp_path: Path) -> None:
    """A flood of names opens no door: denied names stay denied, and a command finds its agent."""
    policy = {"limits": {"maxAgents": 2}, **expecting(undeclared="deny")}
    async with Rig(tmp_path, policy) as rig:
        for number in range(20):
            assert refused(await rig.call("up.read", agent=f"flood-{number}"), Code.AGENT_UNDECLARED)
        assert (await rig.call("up.read", agent="a")).ok
        assert len(rig.agents.snapshot()) == 3
        await order(rig, Command.CORDON, "a")
        assert refused(await rig.call("up.read", agent="a", run="new"), Code.AGENT_CORDONED)


async def test_a_drain_counts_calls_that_began_in_the_overflow(tmp_path: Path) -> None:
    """Calls are counted by who makes them, not by who keeps the statistics."""
    async with Rig(tmp_path, {"limits": {"maxAgents": 1}}) as rig:
        await rig.call("up.read", agent="first")
        rig.upstream.takes_s = lambda attempt: 3.0
        flight = rig.start("up.read", agent="second")
        await asyncio.sleep(0.1)
        await order(rig, Command.DRAIN, "second")
        await look(rig)
        assert rig.lifecycle.shown("second")["remaining"] == 1 and rig.lifecycle.shown("second")["drained_at"] is None
        assert (await ended(flight)).ok
        await look(rig)
        assert rig.lifecycle.shown("second")["drained_at"]


async def test_a_stopped_call_of_a_paused_agent_is_not_let_go_by_the_resume(tmp_path: Path) -> None:
    """The verdict came first."""
    async with Rig(tmp_path, PAUSE) as rig:
        await order(rig, Command.PAUSE)
        flight = rig.start("up.write")
        await asyncio.sleep(1)
        flight.stop(Verdict(Cause.SHUTDOWN, "over"))
        await order(rig, Command.RESUME)
        assert (await ended(flight)).code is Code.DRAINING and rig.upstream.count() == 0


async def test_a_lift_does_not_overtake_what_it_lifts(tmp_path: Path) -> None:
    """Asked for while the drain's end is being written: what is in force and what is on disk are the same."""
    async with Rig(tmp_path) as rig:
        await order(rig, Command.DRAIN)
        lifting = asyncio.create_task(order(rig, Command.UNCORDON))
        rig.lifecycle.tend()
        await asyncio.sleep(0)
        rig.lifecycle.tend()
        await lifting
        assert (await rig.call("up.read")).ok and rig.lifecycle.get("a") is None
    async with Rig(tmp_path) as rig:
        rig.restore()
        assert (await rig.call("up.read")).ok


async def test_nothing_begins_inside_a_call_that_the_drain_has_ended(tmp_path: Path) -> None:
    """Its process is asked what became of it, which takes a while; what that process calls meanwhile is new."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 1000.0

        async def asked_for_long(*_: Any) -> Outcome:
            await asyncio.sleep(2)
            return Outcome(OutcomeKind.UNKNOWN)

        rig.upstream.stopped = asked_for_long  # type: ignore[method-assign]
        parent = rig.start("up.write", x=1)
        await asyncio.sleep(1)
        await order(rig, Command.DRAIN, deadline_s=5)
        child = rig.start("up.read", parent=parent.call.id, y=1)
        await asyncio.sleep(5.5)
        assert not over(parent) and parent.verdict is not None and parent.verdict.cause is Cause.DRAINED
        late = await rig.call("up.read", parent=parent.call.id, y=2)
        assert refused(late, Code.AGENT_DRAINING), "the deadline is over"
        assert (await ended(parent)).code is (await ended(child)).code is Code.AGENT_DRAINING
        await look(rig)
        switch = rig.lifecycle.get("a")
        assert switch is not None and switch.drained_at is not None


async def test_nothing_of_a_drained_agent_begins_inside_another_agents_call(tmp_path: Path) -> None:
    """An orchestrator's call may go on for long; who drained the agent that it delegates to was told: drained."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 1000.0 if attempt.tool == "up.write" else 0.01
        whole = rig.start("up.write", agent="b", x=1)
        whole.call = replace(whole.call, origin="s-1")
        await asyncio.sleep(1)

        async def part() -> Outcome:
            call = Call(f"part-{now()}", "up.read", {}, Agent("a"), run="r", parent=whole.call.id, origin="s-1")
            return await ended(rig.supervisor.submit(call))

        await order(rig, Command.DRAIN, deadline_s=60)
        assert (await part()).ok
        await look(rig)
        assert refused(await part(), Code.AGENT_DRAINING)

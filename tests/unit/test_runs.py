"""Runs: what is counted, what is refused, in which words, and who may lift it. The whole call path, on virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code
from outrider.ledger.record import Event
from outrider.ledger.writer import LedgerUnavailable
from outrider.runs.book import NothingToResume
from outrider.runs.run import State
from tests.support.rig import BUSY, OK, WRONG, Rig

pytestmark = pytest.mark.looptime

Rigged = Callable[..., AbstractAsyncContextManager[Rig]]


@pytest.fixture
def rigged(tmp_path: Path) -> Rigged:
    """``async with rigged(maxCalls=3) as rig:`` a call path whose policy limits runs so."""

    @asynccontextmanager
    async def make(*, also: dict[str, Any] | None = None, **runs: Any) -> AsyncIterator[Rig]:
        async with Rig(tmp_path, {"runs": runs, **(also or {})}) as rig:
            yield rig

    return make


def codes(outcomes: list[Outcome]) -> list[str]:
    return ["ok" if outcome.ok else str(outcome.code) for outcome in outcomes]


async def several(rig: Rig, count: int, tool: str = "up.read", *, apart_s: float = 2.0, **more: Any) -> list[Outcome]:
    """So many calls one after the other, each with arguments of its own unless ``same`` says otherwise."""
    same = more.pop("same", False)
    found = []
    for n in range(count):
        found.append(await rig.call(tool, **({"n": 0} if same else {"n": n}), **more))
        await asyncio.sleep(apart_s)
    return found


def events(rig: Rig, *types: str) -> list[dict[str, Any]]:
    return [json.loads(row["line"]) for row in rig.events(*types)]


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_makes_as_many_calls_as_it_may_and_not_one_more(rigged: Rigged) -> None:
    """The refusal tells the model to finish; nothing is sent; the ledger says once that the limit was reached."""
    async with rigged(maxCalls=3) as rig:
        found = await several(rig, 6)
        assert codes(found) == ["ok"] * 3 + ["run_limit"] * 3
        assert "made 3 calls, as many as it may (runs.maxCalls)" in found[3].detail and "Finish" in found[3].detail
        assert found[3].kind is OutcomeKind.NOT_EXECUTED and found[3].retryable is False
        assert rig.upstream.count() == 3
        (told,) = events(rig, "run.limited")
        assert (told["run_id"], told["data"]["limit"], told["data"]["calls"]) == ("r", "maxCalls", 3)
        assert rig.runs.named("r")[0].state is State.LIMITED


async def test_calls_side_by_side_do_not_exceed_the_limit(rigged: Rigged) -> None:
    """Deciding and counting are one step."""
    async with rigged(maxCalls=5) as rig:
        flights = [rig.start("up.read", n=n) for n in range(20)]
        found = [await flight.answer for flight in flights if flight.answer is not None]
        assert codes(found).count("ok") == 5 and rig.upstream.count() == 5


async def test_nested_agents_share_the_run_of_the_call_that_they_are_in(rigged: Rigged) -> None:
    """A child is of its parent's run, also where it names another run or none."""
    async with rigged(maxCalls=3) as rig:
        rig.upstream.takes_s = lambda attempt: 10.0 if attempt.tool == "up.read_team" else 0.01
        parent = rig.start("up.read_team")
        await asyncio.sleep(0.1)
        for run in ("r", "other", ""):
            child = await rig.call("up.read", run=run, parent=parent.call.id, n=run)
            assert child.ok == (run != "")
        assert child.code is Code.RUN_LIMIT
        assert parent.answer is not None and (await parent.answer).ok
        assert not rig.runs.named("other")
        assert {line["run_id"] for line in events(rig, "call.received")} == {"r"}


async def test_another_agent_that_names_the_same_run_does_not_spend_it(rigged: Rigged) -> None:
    """Ids are chosen by callers: a run is one owner's."""
    async with rigged(maxCalls=2) as rig:
        assert codes(await several(rig, 5, agent="mallory")) == ["ok"] * 2 + ["run_limit"] * 3
        assert codes(await several(rig, 2, agent="alice")) == ["ok"] * 2
        assert {run.root for run in rig.runs.named("r")} == {"mallory", "alice"}


async def test_a_call_without_a_run_is_in_none(rigged: Rigged) -> None:
    """Not counted, not limited, not listed."""
    async with rigged(maxCalls=1, runaway={"sameCall": 2}) as rig:
        assert codes(await several(rig, 5, run="", same=True)) == ["ok"] * 5
        assert rig.runs.all() == []


async def test_all_calls_of_a_run_share_its_retries(rigged: Rigged) -> None:
    """What fails for want of a retry says so, with the upstream's own failure."""
    async with rigged(maxRetries=3, also={"domain": {"breaker": {"enabled": False}}}) as rig:
        rig.upstream.answer = lambda attempt: BUSY
        found = [await rig.call("up.read", n=n) for n in range(4)]
        assert [rig.upstream.count(flight.call.id) for flight in rig.flights] == [3, 2, 1, 1]
        assert "runs.maxRetries" in found[1].detail and "HTTP 503" in found[1].detail
        assert found[1].code is Code.UPSTREAM_FAILED
        assert rig.runs.named("r")[0].retries == 3
        (told,) = events(rig, "run.limited")
        assert told["data"]["limit"] == "maxRetries"


async def test_a_retry_that_did_not_begin_is_given_back(rigged: Rigged) -> None:
    """A kill in the wait before it leaves the run's retries as they were."""
    async with rigged(maxRetries=5) as rig:
        rig.upstream.answer = lambda attempt: BUSY
        flight = rig.start("up.read")
        while not rig.runs.named("r") or rig.runs.named("r")[0].retries == 0:
            await asyncio.sleep(0.001)
        await rig.supervisor.kill("run:r", "enough", None, "me")
        assert flight.answer is not None and (await flight.answer).code is Code.KILLED
        assert rig.runs.named("r")[0].retries == rig.upstream.count() - 1


async def test_a_run_that_lasted_as_long_as_it_may_begins_no_call(rigged: Rigged) -> None:
    """Measured from its first call."""
    async with rigged(maxDuration="30s") as rig:
        assert codes(await several(rig, 4, apart_s=11.0)) == ["ok"] * 3 + ["run_limit"]
        late = await rig.call("up.read")
        assert "30s, runs.maxDuration" in late.detail


async def test_the_end_of_the_run_ends_its_calls_under_way(rigged: Rigged) -> None:
    """What remains of the run is the most that a call may take."""
    async with rigged(maxDuration="5s") as rig:
        rig.upstream.takes_s = lambda attempt: 60.0
        await asyncio.sleep(1.0)
        began = asyncio.get_running_loop().time()
        outcome = await rig.call("up.read")
        assert outcome.code is Code.DEADLINE_EXCEEDED and "runs.maxDuration" in outcome.detail
        assert asyncio.get_running_loop().time() - began == pytest.approx(5.0, abs=0.1)


async def test_overrides_are_for_the_runs_that_an_agent_began(rigged: Rigged) -> None:
    """Key by key, the more specific pattern over the less specific one."""
    overrides = [{"agents": ["support-*"], "maxCalls": 2}, {"agents": ["support-lead"], "maxCalls": 3}]
    async with rigged(maxCalls=1, overrides=overrides) as rig:
        for agent, may in (("clerk", 1), ("support-1", 2), ("support-lead", 3)):
            found = await several(rig, 5, agent=agent, run=agent)
            assert codes(found).count("ok") == may


async def test_a_changed_policy_holds_for_runs_under_way(rigged: Rigged) -> None:
    """What was counted before counts."""
    async with rigged() as rig:
        assert codes(await several(rig, 5)) == ["ok"] * 5
        await rig.reload({"runs": {"maxCalls": 6}})
        assert codes(await several(rig, 2)) == ["ok", "run_limit"]


# ── runaways ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_call_again_and_again_is_refused_with_words_that_help(rigged: Rigged) -> None:
    """Another call goes on, and ends the row."""
    async with rigged(runaway={"sameCall": 3, "action": "refuse"}) as rig:
        found = await several(rig, 5, same=True)
        assert codes(found) == ["ok"] * 3 + ["runaway"] * 2
        assert found[3].detail == (
            "You have called up.read with the same arguments 3 times in a row. Once more brings nothing new: change "
            "the arguments, do something else, or finish."
        )
        assert (await rig.call("up.read", n="other")).ok
        assert (await rig.call("up.read", n=0)).ok


async def test_equal_arguments_are_equal_in_any_order(rigged: Rigged) -> None:
    """A model writes its JSON as it likes."""
    async with rigged(runaway={"sameCall": 2, "action": "refuse"}) as rig:
        assert (await rig.call("up.read", a=1, b={"c": 2, "d": 3})).ok
        assert (await rig.call("up.read", b={"d": 3, "c": 2}, a=1)).ok
        assert (await rig.call("up.read", a=1, b={"c": 2, "d": 3})).code is Code.RUNAWAY


async def test_a_tool_whose_repetition_is_meant_may_be_exempt(rigged: Rigged) -> None:
    """It is not counted, and does not end the row of another."""
    async with rigged(runaway={"sameCall": 2, "exempt": ["up.read_status*"], "action": "refuse"}) as rig:
        assert codes(await several(rig, 10, "up.read_status", same=True)) == ["ok"] * 10
        found = []
        for _ in range(3):
            found.append(await rig.call("up.read", n=0))
            await rig.call("up.read_status")
        assert codes(found) == ["ok", "ok", "runaway"]


async def test_a_loop_of_denied_calls_is_a_runaway_too(rigged: Rigged) -> None:
    """The model reads something else than the denial that it did not heed."""
    rules = [{"name": "no", "tools": ["*"], "then": "deny"}]
    async with rigged(runaway={"sameCall": 3}, also={"rules": rules}) as rig:
        assert codes(await several(rig, 5, same=True)) == ["denied"] * 3 + ["runaway"] * 2


async def test_failures_in_a_row_are_answered_and_counted_anew(rigged: Rigged) -> None:
    """The agent may do something else; a success ends the row."""
    async with rigged(runaway={"failures": 3, "action": "refuse"}) as rig:
        rig.upstream.answer = lambda attempt: WRONG
        found = await several(rig, 5)
        assert codes(found) == ["upstream_failed"] * 3 + ["runaway", "upstream_failed"]
        assert "made 3 calls in a row that failed" in found[3].detail
        rig.upstream.answer = lambda attempt: OK
        assert (await rig.call("up.read")).ok
        rig.upstream.answer = lambda attempt: WRONG
        assert codes(await several(rig, 4)) == ["upstream_failed"] * 3 + ["runaway"]


async def test_a_run_that_goes_on_like_that_is_paused_until_a_person_resumes_it(rigged: Rigged) -> None:
    """Everything of it is in the ledger."""
    async with rigged(runaway={"sameCall": 2, "refusals": 2}) as rig:
        found = await several(rig, 4, same=True)
        assert codes(found) == ["ok", "ok", "runaway", "runaway"]
        assert "If this goes on, the run is paused." in found[2].detail
        assert "This run is now paused, until a person resumes it." in found[3].detail
        other = await rig.call("up.read", n="something else")
        assert other.code is Code.RUNAWAY
        assert "paused: it has called up.read with the same arguments 2 times in a row" in other.detail
        assert rig.runs.named("r")[0].state is State.PAUSED
        await rig.runs.resume("r", "the index was rebuilt", "token:admin (eve)")
        assert (await rig.call("up.read", n=0)).ok
        warned, paused = events(rig, "run.runaway")
        assert (warned["data"]["action"], paused["data"]["action"]) == ("refused", "paused")
        (resumed,) = events(rig, "run.resumed")
        assert (resumed["actor"], resumed["reason"]) == ("token:admin (eve)", "the index was rebuilt")


async def test_refusals_of_one_turn_count_once(rigged: Rigged) -> None:
    """A model that asks for ten calls at once has not read the first answer yet."""
    async with rigged(runaway={"sameCall": 2, "refusals": 2}) as rig:
        flights = [rig.start("up.read", n=0) for _ in range(10)]
        found = [await flight.answer for flight in flights if flight.answer is not None]
        assert codes(found) == ["ok"] * 2 + ["runaway"] * 8
        assert rig.runs.named("r")[0].paused is None


async def test_a_success_in_between_ends_the_warnings(rigged: Rigged) -> None:
    """Only refusals with no success in between add up."""
    async with rigged(runaway={"sameCall": 2, "refusals": 2}) as rig:
        for _ in range(4):
            assert codes(await several(rig, 3, same=True)) == ["ok", "ok", "runaway"]
            assert (await rig.call("up.read", n="else")).ok
        assert rig.runs.named("r")[0].paused is None


async def test_a_kill_does_not_count_as_the_runs_failure(rigged: Rigged) -> None:
    """What a person did says nothing about the agent."""
    async with rigged(runaway={"failures": 2}) as rig:
        rig.upstream.takes_s = lambda attempt: 60.0
        for n in range(3):
            flight = rig.start("up.read", n=n)
            await asyncio.sleep(0.1)
            receipt = await rig.supervisor.kill("tool:up.read", "no", None, "me")
            assert flight.answer is not None and (await flight.answer).code is Code.KILLED
            await rig.supervisor.revive(receipt.id, "yes", "me")
        assert rig.runs.named("r")[0].failed_in_row == 0


# ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_resumed_run_counts_anew(rigged: Rigged) -> None:
    """Calls, retries and time; what it did altogether stays visible."""
    async with rigged(maxCalls=3, maxDuration="1m") as rig:
        await several(rig, 4, apart_s=15.0)
        await rig.runs.resume("r", "go on", "me")
        assert codes(await several(rig, 4, apart_s=15.0)) == ["ok"] * 3 + ["run_limit"]
        assert rig.runs.named("r")[0].calls == 6


async def test_what_is_not_stopped_cannot_be_resumed(rigged: Rigged) -> None:
    """An unknown run, and one that goes on."""
    async with rigged(maxCalls=3) as rig:
        await rig.call("up.read")
        with pytest.raises(KeyError):
            await rig.runs.resume("x", "go on", "me")
        with pytest.raises(NothingToResume):
            await rig.runs.resume("r", "go on", "me")


async def test_a_policy_that_only_observes_refuses_and_pauses_nothing(rigged: Rigged) -> None:
    """What it would have refused is recorded."""
    watched = {"maxCalls": 4, "maxRetries": 0, "maxDuration": "1m", "runaway": {"sameCall": 2, "refusals": 1}}
    async with rigged(**watched, also={"mode": "observe"}) as rig:
        assert codes(await several(rig, 8, same=True, apart_s=5.0)) == ["ok"] * 8
        await asyncio.sleep(30.0)
        rig.upstream.answer = lambda attempt: BUSY
        rig.upstream.takes_s = lambda attempt: 1.0
        await rig.call("up.read", n=1)
        assert rig.upstream.sent[-1].n == 3
        run = rig.runs.named("r")[0]
        assert run.paused is None and run.refused == 7 and run.retries == 2
        assert {line["code"] for line in events(rig, "call.observed")} == {"runaway", "run_limit"}
        told = events(rig, "run.limited", "run.runaway")
        assert told and {line["data"]["action"] for line in told} == {"observed"}


async def test_a_pause_holds_though_it_cannot_be_written_and_a_resumption_does_not(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What restricts takes effect at once; what frees must be on disk first."""
    async with rigged(runaway={"sameCall": 2, "refusals": 1}) as rig:
        append = rig.ledger.append

        def failing(event: Event, **more: Any) -> asyncio.Future[int]:
            if not event.type.startswith("run."):
                return append(event, **more)
            failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            failed.set_exception(LedgerUnavailable("disk full"))
            failed.exception()
            return failed

        with monkeypatch.context() as patch:
            patch.setattr(rig.ledger, "append", failing)
            assert codes(await several(rig, 3, same=True)) == ["ok", "ok", "runaway"]
            with pytest.raises(LedgerUnavailable):
                await rig.runs.resume("r", "go on", "me")
            assert (await rig.call("up.read", n="else")).code is Code.RUNAWAY
        await rig.runs.resume("r", "go on", "me")
        assert (await rig.call("up.read", n="else")).ok


# ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_owner_takes_half_of_the_table_and_its_own_runs_make_room(rigged: Rigged) -> None:
    """A flood of ids costs nobody else's counts."""
    async with rigged(maxCalls=1, also={"limits": {"maxRuns": 10}}) as rig:
        await rig.call("up.read", agent="alice", run="hers")
        await rig.call("up.read", agent="alice", run="hers")
        for n in range(30):
            await rig.call("up.read", agent="mallory", run=f"m{n}")
        mine = [run.root for run in rig.runs.all()]
        assert mine.count("mallory") <= 5 and mine.count("alice") == 1
        assert (await rig.call("up.read", agent="alice", run="hers")).code is Code.RUN_LIMIT


async def test_a_run_that_is_stopped_is_not_forgotten_for_the_asking(rigged: Rigged) -> None:
    """Its owner cannot wash it away with new ids: while all its runs are stopped, a new one is refused."""
    async with rigged(maxCalls=1, also={"limits": {"maxRuns": 6}}) as rig:
        found = [await rig.call("up.read", run=f"r{n}") for n in range(5)]
        assert codes(found) == ["ok"] * 3 + ["overloaded"] * 2
        assert "limits.maxRuns" in found[3].detail and found[3].retryable is not False


async def test_where_there_is_no_room_a_run_that_nothing_limits_goes_on_uncounted(rigged: Rigged) -> None:
    """Nothing would be decided by its counts."""
    async with rigged(also={"limits": {"maxRuns": 4}}) as rig:
        rig.upstream.takes_s = lambda attempt: 5.0
        flights = [rig.start("up.read", run=f"r{n}") for n in range(6)]
        found = [await flight.answer for flight in flights if flight.answer is not None]
        assert codes(found) == ["ok"] * 6 and len(rig.runs.all()) == 2


# ── restarts ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_restart_goes_on_counting(tmp_path: Path) -> None:
    """Calls, retries and time of a limited run; a pause stays a pause; a resumption stays one."""
    policy = {"runs": {"maxCalls": 3, "maxRetries": 2, "runaway": {"failures": 2, "refusals": 1}}}
    async with Rig(tmp_path, policy) as rig:
        await several(rig, 2)
        rig.upstream.answer = lambda attempt: WRONG
        await several(rig, 3, run="p")
        await several(rig, 3, run="q")
        await rig.runs.resume("q", "go on", "me")
        rig.upstream.answer = lambda attempt: BUSY
        await rig.call("up.read", run="t")
    async with Rig(tmp_path, policy) as rig:
        runs = {run.id: run for run in rig.runs.all()}
        assert (runs["r"].counted_calls, runs["q"].counted_calls, runs["t"].counted_retries) == (2, 0, 2)
        assert runs["p"].state is State.PAUSED and "failed" in runs["p"].paused.why  # type: ignore[union-attr]
        assert codes(await several(rig, 2)) == ["ok", "run_limit"]
        assert (await rig.call("up.read", run="p")).code is Code.RUNAWAY
        assert (await rig.call("up.read", run="q")).ok
        await rig.runs.resume("p", "go on", "me")
    async with Rig(tmp_path, policy) as rig:
        assert rig.runs.named("p")[0].paused is None
        assert (await rig.call("up.read", run="p")).ok


async def test_of_more_runs_than_there_is_room_for_a_restart_knows_the_newest(tmp_path: Path) -> None:
    """And what is paused in any case."""
    policy = {"runs": {"maxCalls": 9, "runaway": {"sameCall": 2, "refusals": 1}}}
    async with Rig(tmp_path, policy) as rig:
        await several(rig, 3, run="p", same=True)
        for n in range(30):
            await rig.call("up.read", run=f"r{n}", agent=f"a{n}")
    async with Rig(tmp_path, {**policy, "limits": {"maxRuns": 10}}) as rig:
        known = {run.id for run in rig.runs.all()}
        assert len(known) == 10 and "p" in known and {f"r{n}" for n in range(21, 30)} <= known
        assert (await rig.call("up.read", run="p")).code is Code.RUNAWAY


async def test_an_observing_policy_lets_a_run_go_on_for_which_there_is_no_room(rigged: Rigged) -> None:
    """It refuses nothing, so it need not count."""
    async with rigged(maxCalls=1, also={"limits": {"maxRuns": 4}, "mode": "observe"}) as rig:
        rig.upstream.takes_s = lambda attempt: 5.0
        flights = [rig.start("up.read", run=f"r{n}") for n in range(6)]
        assert codes([await flight.answer for flight in flights if flight.answer is not None]) == ["ok"] * 6

"""One call's way, on virtual time: what is sent, what is waited for, what is answered, what is recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outrider.calls import Agent, Attempt, Call, Failure, Outcome, OutcomeKind, Reason
from outrider.errors import Code
from outrider.ledger.record import Event, EventType
from outrider.ledger.writer import LedgerUnavailable
from tests.support.rig import BASE, BROKEN, BUSY, OK, REFUSED, WRONG, Rig

pytestmark = pytest.mark.looptime

LATER = Outcome(OutcomeKind.NOT_EXECUTED, failure=Failure(Reason.STATUS, "HTTP 429", 429, retry_after_s=1.0))


def now() -> float:
    return asyncio.get_running_loop().time()


def in_turn(*outcomes: Outcome) -> Callable[[Attempt], Outcome]:
    """Each sending gets the next outcome; the last repeats."""
    left = list(outcomes)
    return lambda attempt: left.pop(0) if len(left) > 1 else left[0]


def tools(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [*BASE["tools"], *entries]}


async def test_a_read_is_retried_until_it_succeeds(tmp_path: Path) -> None:
    """Two failures, then the result; the caller sees one answer."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(BROKEN, BUSY, OK)
        outcome = await rig.call("up.read")
        assert outcome.ok and rig.upstream.count() == 3


async def test_max_attempts_is_the_number_of_sendings(tmp_path: Path) -> None:
    """Exhausted: not retryable, and honest about what happened."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(BUSY)
        flight = rig.start("up.read")
        assert flight.answer is not None
        outcome = await flight.answer
        problem = rig.supervisor.problem(flight, outcome)
        assert rig.upstream.count() == 3
        assert (problem["code"], problem["status"], problem["retryable"], problem["attempts"]) == (
            "upstream_failed", 502, False, 3,
        )  # fmt: skip
        assert "after 3 of 3 attempts" in problem["detail"]


@pytest.mark.parametrize(("failure", "sends"), [(BROKEN, 1), (BUSY, 1), (WRONG, 1), (REFUSED, 3)])
async def test_a_write_is_sent_again_only_if_it_never_ran(tmp_path: Path, failure: Outcome, sends: int) -> None:
    """A duplicate side effect is the worst bug we can have."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(failure)
        outcome = await rig.call("up.write")
        assert not outcome.ok and rig.upstream.count() == sends


async def test_a_write_that_may_have_run_bars_its_like_until_it_is_settled(tmp_path: Path) -> None:
    """The model tends to try again; that is refused, in this run, for these arguments."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(BROKEN, OK)
        first = rig.start("up.write", amount=5)
        assert first.answer is not None
        outcome = await first.answer
        assert (outcome.kind, outcome.code) == (OutcomeKind.UNKNOWN, Code.OUTCOME_UNKNOWN)
        assert rig.supervisor.problem(first, outcome)["status"] == 502
        again = await rig.call("up.write", amount=5)
        assert again.code is Code.PRIOR_OUTCOME_UNKNOWN and first.call.id in again.detail
        assert (await rig.call("up.write", amount=6)).ok
        await rig.supervisor.settle(first.call.id, "not_executed", "looked it up", "me")
        assert (await rig.call("up.write", amount=5)).ok
        with pytest.raises(KeyError):
            await rig.supervisor.settle(first.call.id, "executed", "twice", "me")


async def test_the_bar_survives_a_restart(tmp_path: Path) -> None:
    """It is written in the transaction of the call's end."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(BROKEN)
        await rig.call("up.write", amount=5)
    async with Rig(tmp_path) as rig:
        assert (await rig.call("up.write", amount=5)).code is Code.PRIOR_OUTCOME_UNKNOWN


async def test_a_keyed_call_is_sent_again_with_the_same_key_and_the_same_arguments(tmp_path: Path) -> None:
    """The upstream deduplicates; we must give it the chance to."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(BROKEN, BROKEN, OK)
        assert (await rig.call("up.keyed", amount=5)).ok
        assert {(sent.key, sent.args["amount"]) for sent in rig.upstream.sent} == {("call-1", 5)}
        await rig.call("up.keyed", amount=5)
        assert rig.upstream.sent[-1].key == "call-2"  # two intended identical calls stay two


async def test_the_deadline_ends_a_call_in_time(tmp_path: Path) -> None:
    """The smaller of the policy's total and the caller's deadline, over all attempts and waits."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 100.0
        began = now()
        outcome = await rig.call("up.read", deadline_ms=500)
        assert outcome.code is Code.DEADLINE_EXCEEDED and now() - began == pytest.approx(0.5, abs=0.01)
        assert "the caller's deadline" in outcome.detail
        began = now()
        outcome = await rig.call("up.read")
        assert now() - began <= 30.01


async def test_the_per_try_timeout_is_the_smaller_of_its_own_and_what_remains(tmp_path: Path) -> None:
    """8 s each, and the last is cut by the deadline's own verdict."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 100.0
        await rig.call("up.read")
        for sent in rig.upstream.sent:
            assert sent.timeout_s in {8.0, 0.0}
            assert sent.timeout_s == 8.0 or sent.at > 30.0 - 8.0
        assert len(rig.events("attempt.finished")) == rig.upstream.count()


async def test_a_call_with_too_little_time_left_is_not_sent(tmp_path: Path) -> None:
    """An attempt that could only be cut short is not begun."""
    async with Rig(tmp_path) as rig:
        outcome = await rig.call("up.write", deadline_ms=50)
        assert outcome.code is Code.DEADLINE_EXCEEDED and outcome.kind is OutcomeKind.NOT_EXECUTED
        assert rig.upstream.count() == 0


async def test_a_timed_out_write_is_unknown(tmp_path: Path) -> None:
    """504, not retryable, and the attempt's end says timeout."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 100.0
        flight = rig.start("up.write")
        assert flight.answer is not None
        outcome = await flight.answer
        problem = rig.supervisor.problem(flight, outcome)
        assert (problem["code"], problem["status"], problem["outcome"], problem["retryable"]) == (
            "outcome_unknown", 504, "unknown", False,
        )  # fmt: skip


async def test_a_kill_wakes_a_backoff_and_says_what_became_of_each_call(tmp_path: Path) -> None:
    """Sleeping retries, queued calls and calls in flight end at once; nothing is sent afterwards."""
    policy = {"domain": {"bulkhead": {"maxConcurrent": 1}, "breaker": {"consecutiveFailures": 100}}}
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.answer = lambda attempt: BUSY if attempt.tool == "up.read_b" else OK
        rig.upstream.takes_s = lambda attempt: 0.0 if attempt.tool == "up.read_b" else 50.0
        asleep = rig.start("up.read_b")
        await asyncio.sleep(0.001)
        flying = rig.start("up.write", n=1)
        await asyncio.sleep(0.001)
        queued = rig.start("up.write", n=2)
        await asyncio.sleep(0.001)
        sends = rig.upstream.count()
        receipt = await rig.supervisor.kill("agent:a", "runaway", None, "me")
        results = {call["call_id"]: call["result"] for call in receipt.calls}
        assert results[queued.call.id] == "not_executed" and results[flying.call.id] == "unknown"
        assert results[asleep.call.id] == "completed"  # its one attempt ran and failed
        assert receipt.counts == {"not_executed": 1, "completed": 1, "unknown": 1}
        assert receipt.took_ms < 1000
        await asyncio.sleep(60)
        assert rig.upstream.count() == sends
        for flight in (asleep, flying, queued):
            assert flight.answer is not None and flight.answer.result().code is Code.KILLED
        assert (await rig.call("up.read")).code is Code.KILLED
        await rig.supervisor.revive(receipt.id, "mended", "me")
        rig.upstream.takes_s = lambda attempt: 0.0
        assert (await rig.call("up.read")).ok


async def test_a_kill_of_a_run_leaves_other_runs_alone(tmp_path: Path) -> None:
    """The scope is what is stopped."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 5.0
        mine, other = rig.start("up.read", run="r1"), rig.start("up.read", run="r2")
        await asyncio.sleep(0.1)
        receipt = await rig.supervisor.kill("run:r1", "stop", None, "me")
        assert [call["call_id"] for call in receipt.calls] == [mine.call.id]
        assert other.answer is not None and (await other.answer).ok


async def test_open_breakers_refuse_and_are_not_retried(tmp_path: Path) -> None:
    """After five failures in a row: zero sends until the period is over."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(BUSY)
        await rig.call("up.read", n=1)
        await rig.call("up.read", n=2)
        sends = rig.upstream.count()
        outcome = await rig.call("up.read", n=3)
        assert outcome.code is Code.BREAKER_OPEN and outcome.retry_after_s is not None and outcome.retry_after_s > 0
        assert rig.upstream.count() == sends == 5
        rig.upstream.answer = in_turn(OK)
        await asyncio.sleep(20)
        assert (await rig.call("up.read", n=4)).ok


@pytest.mark.parametrize("failure", [WRONG, Outcome(OutcomeKind.DEFINITE, failure=Failure(Reason.RAISED, "x"))])
async def test_answers_that_say_no_do_not_open_a_breaker(tmp_path: Path, failure: Outcome) -> None:
    """A 404, or a function that raised: the upstream works."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(failure)
        for n in range(20):
            await rig.call("up.read", n=n)
        assert rig.upstream.count() == 20


async def test_an_exception_with_a_status_does_not_open_a_breaker(tmp_path: Path) -> None:
    """A function that raised a 503 answered; it is another service that has trouble."""
    raised = Outcome(OutcomeKind.DEFINITE, failure=Failure(Reason.RAISED, "x", 503))
    async with Rig(tmp_path, {"defaults": {"retry": {"maxAttempts": 1}}}) as rig:
        rig.upstream.answer = in_turn(raised)
        for n in range(20):
            await rig.call("up.read", n=n)
        assert rig.upstream.count() == 20


async def test_a_function_that_outlives_its_timeout_keeps_its_slot_and_no_other(tmp_path: Path) -> None:
    """The slot of the attempt that runs on; a later attempt that was refused gives its own back."""
    policy = {"domain": {"bulkhead": {"maxConcurrent": 2}, "breaker": {"consecutiveFailures": 1, "openFor": "60s"}}}
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.takes_s = lambda attempt: 100.0
        runs_on = asyncio.get_running_loop().create_future()

        def begins(attempt: Attempt) -> Outcome:
            attempt.still_running = runs_on
            return OK

        rig.upstream.answer = begins
        await rig.call("up.read")  # times out, and its retry meets an open breaker
        (domain,) = rig.domains
        assert domain.bulkhead.held == 1
        runs_on.set_result(None)
        await asyncio.sleep(0)
        assert domain.bulkhead.held == 0


async def test_a_queue_that_is_full_refuses_at_once(tmp_path: Path) -> None:
    """Overflow is 503, and nothing was sent."""
    policy = {"domain": {"bulkhead": {"maxConcurrent": 1, "maxQueue": 1, "maxWait": "2s"}}}
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.takes_s = lambda attempt: 1.0
        flights = [rig.start("up.read", n=n) for n in range(3)]
        outcomes = await asyncio.gather(*(flight.answer for flight in flights if flight.answer is not None))
        assert [outcome.code for outcome in outcomes] == [None, None, Code.OVERLOADED]
        assert rig.upstream.most == 1


async def test_slots_are_not_held_during_backoff(tmp_path: Path) -> None:
    """While one call sleeps before its retry, another runs."""
    policy = {"domain": {"bulkhead": {"maxConcurrent": 1, "maxQueue": 0}}}
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.answer = in_turn(LATER, OK)
        asleep = rig.start("up.read", n=1)
        while rig.upstream.count() < 1 or rig.upstream.running:
            await asyncio.sleep(0.001)
        assert (await rig.call("up.read", n=2)).ok
        assert asleep.answer is not None and (await asleep.answer).ok


async def test_a_parent_holds_no_slot_so_that_its_children_run(tmp_path: Path) -> None:
    """Ten parents with a bulkhead of one do not starve each other."""
    policy = {"domain": {"bulkhead": {"maxConcurrent": 1, "maxQueue": 20, "maxWait": "20s"}}}
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.takes_s = lambda attempt: 10.0 if attempt.tool == "up.read_parent" else 0.1

        async def parent(n: int) -> None:
            flight = rig.start("up.read_parent", n=n, agent=f"p{n}")
            while flight.attempt is None:
                await asyncio.sleep(0.01)
            assert (await rig.call("up.read_child", agent=f"p{n}", parent=flight.call.id)).ok
            assert flight.answer is not None and (await flight.answer).ok

        await asyncio.gather(*(parent(n) for n in range(10)))


NOT_YOURS = [
    pytest.param("", "b", "", id="another agent's, over HTTP"),
    pytest.param("s1", "a", "s2", id="another process's"),
    pytest.param("s1", "a", "", id="over HTTP, one made over a channel by the same name"),
    pytest.param("", "a", "s1", id="over a channel, one made over HTTP"),
]


@pytest.mark.parametrize(("parents", "agent", "childs"), NOT_YOURS)
async def test_a_call_of_somebody_else_is_no_parent(tmp_path: Path, parents: str, agent: str, childs: str) -> None:
    """To name it would free it of its time limit and its slot: refused, and the parent stays what it was."""
    policy = {"domain": {"bulkhead": {"maxConcurrent": 1}}, "defaults": {"timeouts": {"perTry": "8s"}}}
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.takes_s = lambda attempt: 9.0
        parent = rig.supervisor.submit(Call("theirs", "up.pay", {}, Agent("a"), run="r", origin=parents))
        await asyncio.sleep(0.1)
        child = rig.supervisor.submit(Call("mine", "up.read", {}, Agent(agent), parent="theirs", origin=childs))
        assert child.answer is not None and parent.answer is not None
        outcome = await child.answer
        assert (outcome.code, outcome.kind) == (Code.INVALID_REQUEST, OutcomeKind.NOT_EXECUTED)
        assert "'parent' names a call" in outcome.detail
        assert not parent.is_parent and parent.slot is not None
        assert (await parent.answer).code is Code.OUTCOME_UNKNOWN and now() < 8.5


async def test_a_process_is_its_own_parent_under_any_of_its_names(tmp_path: Path) -> None:
    """Nested agents of one process have names of their own."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 10.0 if attempt.tool == "up.read_parent" else 0.1
        parent = rig.supervisor.submit(Call("outer", "up.read_parent", {}, Agent("boss"), origin="s1"))
        await asyncio.sleep(0.1)
        child = rig.supervisor.submit(Call("inner", "up.read", {}, Agent("helper"), parent="outer", origin="s1"))
        assert child.answer is not None and (await child.answer).ok
        assert parent.answer is not None and (await parent.answer).ok  # beyond the per-try timeout


async def test_a_parent_whose_children_ran_is_not_said_never_to_have_run(tmp_path: Path) -> None:
    """Whatever it raised in the end: its first part was a call that was made."""
    async with Rig(tmp_path) as rig:
        parents = Failure(Reason.CONNECT, "refused", types=("builtins.ConnectionRefusedError",))
        refused = Outcome(OutcomeKind.NOT_EXECUTED, code=Code.UPSTREAM_FAILED, failure=parents)
        rig.upstream.answer = lambda attempt: refused if attempt.tool == "up.pay" else Outcome(OutcomeKind.OK)
        rig.upstream.takes_s = lambda attempt: 2.0 if attempt.tool == "up.pay" else 0.1
        parent = rig.start("up.pay")
        await asyncio.sleep(0.1)
        assert (await rig.call("up.read", parent=parent.call.id)).ok
        assert parent.answer is not None
        outcome = await parent.answer
        assert (outcome.kind, outcome.code) == (OutcomeKind.UNKNOWN, Code.OUTCOME_UNKNOWN)
        assert (await rig.call("up.pay")).code is Code.PRIOR_OUTCOME_UNKNOWN


async def test_a_parent_that_is_not_under_way_is_recorded_and_nothing_more(tmp_path: Path) -> None:
    """It ended, or a sidecar of before knew it: lineage is text."""
    async with Rig(tmp_path) as rig:
        assert (await rig.call("up.read", parent="long gone")).ok
        (received,) = rig.events("call.received")
        assert json.loads(received["line"])["parent_call_id"] == "long gone"


async def test_the_retry_budget_bounds_retries_over_a_window(tmp_path: Path) -> None:
    """Beyond the floor, retries are at most a share of the calls."""
    policy = {
        "domain": {"retryBudget": {"ratio": 0.1, "window": "60s", "minRetries": 2},
                   "breaker": {"consecutiveFailures": 1000, "minCalls": 10000}},
    }  # fmt: skip
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.answer = in_turn(BUSY)
        for n in range(20):
            await rig.call("up.read", n=n)
        assert rig.upstream.count() - 20 <= 2 + 0.1 * rig.upstream.count()


async def test_retry_after_is_honoured_and_drains_the_bucket_for_everyone(tmp_path: Path) -> None:
    """Never early."""
    policy = {"domain": {"rateLimits": [{"rate": "100/s", "burst": 100, "onLimit": "reject"}]}}
    asked = Outcome(OutcomeKind.NOT_EXECUTED, failure=Failure(Reason.STATUS, "HTTP 429", 429, retry_after_s=3.0))
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.answer = in_turn(asked, OK)
        first = rig.start("up.write", n=1)
        await asyncio.sleep(0.5)
        assert (await rig.call("up.write", n=2)).code is Code.RATE_LIMITED
        assert first.answer is not None and (await first.answer).ok
        assert rig.upstream.sent[1].at - rig.upstream.sent[0].at >= 3.0


async def test_a_fallback_is_tried_and_marked(tmp_path: Path) -> None:
    """Another tool with the same arguments, then a static value."""
    policy = tools({"match": "up.read_f", "fallback": [{"tool": "up.read_g"}, {"static": {"value": "stale"}}]})
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.answer = lambda attempt: OK if attempt.tool == "up.read_g" else BUSY
        outcome = await rig.call("up.read_f", q=1)
        assert outcome.ok and outcome.degraded and rig.upstream.sent[-1].args == {"q": 1}
        rig.upstream.answer = in_turn(BUSY)
        outcome = await rig.call("up.read_f", q=2)
        assert outcome.ok and outcome.degraded and outcome.value == "stale"


async def test_under_strict_durability_the_end_of_a_call_does_not_overtake_that_of_an_attempt(tmp_path: Path) -> None:
    """A write that was never sent fell back to a read. A crash must not find the call ended and the write open: it
    would end the write as unknown, and the call again."""
    fallback = [{"tool": "up.read_g", "onlyIf": "not_executed"}]
    policy = tools({"match": "up.write_f", "retry": {"maxAttempts": 1}, "fallback": fallback})
    async with Rig(tmp_path, {**policy, "ledger": {"durability": "strict"}}) as rig:
        submit, held = rig.ledger._hand.submit, list[Any]()

        def answer(attempt: Attempt) -> Outcome:
            rig.ledger._hand.submit = lambda *job: held.append(job)  # type: ignore[method-assign]
            return REFUSED if attempt.tool == "up.write_f" else OK

        rig.upstream.answer = answer
        flight = rig.start("up.write_f")
        assert flight.answer is not None
        await asyncio.wait([flight.answer], timeout=0.5)
        assert rig.upstream.count() > 1 and not flight.answer.done()
        rig.ledger._hand.submit = submit  # type: ignore[method-assign]
        for job in held:
            submit(*job)
        assert (await flight.answer).degraded


async def test_a_write_that_may_have_run_has_no_fallback(tmp_path: Path) -> None:
    """A second provider could do it a second time."""
    policy = tools({"match": "up.write_f", "fallback": [{"tool": "spare.write", "onlyIf": "not_executed"}]})
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.answer = lambda attempt: OK if attempt.tool == "spare.write" else BROKEN
        assert (await rig.call("up.write_f", n=1)).kind is OutcomeKind.UNKNOWN
        assert rig.upstream.count() == 1
        rig.upstream.answer = lambda attempt: OK if attempt.tool == "spare.write" else REFUSED
        outcome = await rig.call("up.write_f", n=2)
        assert outcome.ok and outcome.degraded


async def test_a_fallback_is_ruled_like_any_call(tmp_path: Path) -> None:
    """A denied tool is not reached by a detour."""
    policy = tools({"match": "up.read_f", "fallback": [{"tool": "up.read_g"}]}) | {
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"},
                  {"name": "no g", "tools": ["up.read_g"], "then": "deny", "reason": "secret"}],
    }  # fmt: skip
    async with Rig(tmp_path, policy) as rig:
        rig.upstream.answer = in_turn(BUSY)
        outcome = await rig.call("up.read_f")
        assert outcome.code is Code.DENIED and outcome.rule == "no g"
        assert all(sent.tool == "up.read_f" for sent in rig.upstream.sent)


async def test_a_caller_that_leaves_ends_a_read_and_lets_a_sent_write_finish(tmp_path: Path) -> None:
    """The write's outcome is learnt and recorded."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 2.0
        read, write = rig.start("up.read"), rig.start("up.write")
        await asyncio.sleep(0.1)
        began = now()
        rig.supervisor.caller_gone(read)
        rig.supervisor.caller_gone(write)
        assert read.answer is not None and write.answer is not None
        assert (await read.answer).code is Code.CANCELLED and now() == began
        assert (await write.answer).ok and now() - began >= 1.8


async def test_a_caller_that_leaves_gets_no_further_attempt(tmp_path: Path) -> None:
    """A write whose attempt failed is not sent again for nobody."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer, rig.upstream.takes_s = in_turn(REFUSED), lambda attempt: 1.0
        flight = rig.start("up.write")
        await asyncio.sleep(0.5)
        rig.supervisor.caller_gone(flight)
        assert flight.answer is not None
        await flight.answer
        assert rig.upstream.count() == 1


async def test_a_call_keeps_its_policy_and_denies_use_the_newest(tmp_path: Path) -> None:
    """Pinned plan, newest deny: a retry after the change is refused."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer, rig.upstream.takes_s = in_turn(BUSY), lambda attempt: 1.0
        flight = rig.start("up.read")
        await asyncio.sleep(0.5)
        digest = flight.policy.digest
        await rig.reload({"rules": [{"name": "stop", "tools": ["up.*"], "then": "deny", "reason": "now"}]})
        assert flight.answer is not None
        outcome = await flight.answer
        assert outcome.code is Code.DENIED and rig.upstream.count() == 1
        assert flight.policy.digest == digest != rig.policies.current.digest


async def test_a_stage_that_raises_means_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that errs refuses; it never passes on."""
    async with Rig(tmp_path) as rig:

        def broken(*_: object) -> bool:
            raise RuntimeError("a bug")

        monkeypatch.setattr(rig.health, "ready", broken)
        outcome = await rig.call("up.write")
        assert (outcome.code, outcome.kind) == (Code.INTERNAL, OutcomeKind.NOT_EXECUTED)
        assert rig.upstream.count() == 0


async def test_load_is_shed_above_the_limit(tmp_path: Path) -> None:
    """Too many at once: 503, with a hint when to come back."""
    async with Rig(tmp_path, {"limits": {"maxInflight": 2}}) as rig:
        rig.upstream.takes_s = lambda attempt: 1.0
        flights = [rig.start("up.read", n=n) for n in range(3)]
        assert flights[2].answer is not None
        assert (await flights[2].answer).code is Code.OVERLOADED
        receipt = await rig.supervisor.kill("global", "control is never shed", None, "me")
        assert receipt.counts["unknown"] == 2


async def test_every_start_has_one_end_and_every_call_one_answer_in_the_ledger(tmp_path: Path) -> None:
    """In order: received, decided, started, finished, finished."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = in_turn(REFUSED, OK)
        await rig.call("up.write")
        kinds = [event["type"] for event in rig.events() if event["call_id"] == "call-1"]
        assert kinds == [
            "call.received", "call.decided", "attempt.started", "attempt.finished",
            "attempt.started", "attempt.finished", "call.finished",
        ]  # fmt: skip


async def test_a_refused_call_is_recorded_as_refused(tmp_path: Path) -> None:
    """Also what never came so far as to be sent."""
    async with Rig(tmp_path) as rig:
        await rig.call("nowhere.x")
        assert [event["type"] for event in rig.events() if event["call_id"]] == ["call.received", "call.refused"]


async def test_draining_refuses_new_calls_and_lets_old_ones_end(tmp_path: Path) -> None:
    """SIGTERM's way."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 2.0
        flight = rig.start("up.write")
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(rig.supervisor.drain(25.0))
        await asyncio.sleep(0.1)
        assert (await rig.call("up.read")).code is Code.DRAINING
        await draining
        assert flight.answer is not None and flight.answer.result().ok


async def test_a_refusal_does_not_wait_for_a_ledger_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer "no" comes within a second; a call that was sent waits until its end is written."""
    async with Rig(tmp_path) as rig:
        hanging = now() + 10.0
        written = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_at(hanging, written.set_result, 1)
        with monkeypatch.context() as patch:
            patch.setattr(rig.supervisor._recorder, "finished", lambda *_: written)
            began = now()
            assert (await rig.call("nowhere.x")).code is Code.UNKNOWN_TOOL and now() - began <= 1.01
            assert (await rig.call("up.write")).ok and now() >= hanging


async def test_an_attempt_is_not_sent_through_a_breaker_that_opened_while_its_intent_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permit was given before; an open breaker sends nothing all the same."""
    async with Rig(tmp_path) as rig:
        assert (await rig.call("up.read")).ok
        (domain,) = rig.domains
        write = rig.supervisor._recorder.intended

        def opens_meanwhile(*call: Any) -> Any:
            domain.breaker.force_open(now())
            return write(*call)

        monkeypatch.setattr(rig.supervisor._recorder, "intended", opens_meanwhile)
        outcome = await rig.call("up.write")
        assert (outcome.code, outcome.kind) == (Code.BREAKER_OPEN, OutcomeKind.NOT_EXECUTED)
        assert rig.upstream.count() == 1


# ── nothing twice ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_write_whose_caller_left_bars_its_like(tmp_path: Path) -> None:
    """A client that gave up waiting and asks again must not pay twice: not while the first runs, not after it ran."""
    async with Rig(tmp_path) as rig:
        rig.upstream.takes_s = lambda attempt: 3.0
        first = rig.start("up.write", amount=5)
        await asyncio.sleep(1.0)
        rig.supervisor.caller_gone(first)
        assert (await rig.call("up.write", amount=5)).code is Code.PRIOR_OUTCOME_UNKNOWN
        assert first.answer is not None and (await first.answer).ok
        assert (await rig.call("up.write", amount=5)).code is Code.PRIOR_OUTCOME_UNKNOWN
        assert rig.upstream.count() == 1
        await rig.supervisor.settle(first.call.id, "executed", "the ledger says so", "me")
        assert (await rig.call("up.write", amount=5)).ok


async def test_a_write_that_failed_for_good_after_its_caller_left_bars_nothing(tmp_path: Path) -> None:
    """It is known not to have worked; asking again is right. A read bars nothing at all."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer, rig.upstream.takes_s = in_turn(WRONG, OK), lambda attempt: 3.0
        first = rig.start("up.write", amount=5)
        await asyncio.sleep(1.0)
        rig.supervisor.caller_gone(first)
        assert first.answer is not None and (await first.answer).kind is OutcomeKind.DEFINITE
        assert (await rig.call("up.write", amount=5)).ok
        read = rig.start("up.read")
        await asyncio.sleep(1.0)
        rig.supervisor.caller_gone(read)
        assert (await rig.call("up.read")).ok


def failing_ends(rig: Rig, error: Exception) -> Callable[..., asyncio.Future[int]]:
    """The ledger's ``append``, which takes everything but the ends of calls."""
    append = rig.ledger.append

    def failing(event: Event, **more: Any) -> asyncio.Future[int]:
        if event.type is not EventType.CALL_FINISHED:
            return append(event, **more)
        failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed

    return failing


@pytest.mark.parametrize("error", [LedgerUnavailable("disk full"), RuntimeError("a bug")])
async def test_a_write_whose_end_could_not_be_written_bars_its_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The caller is answered, is told that it may have run, and may then not do it again. Whatever the fault was."""
    async with Rig(tmp_path) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(rig.ledger, "append", failing_ends(rig, error))
            first = await asyncio.wait_for(rig.call("up.write", amount=5), 60.0)
        assert (first.kind, first.code) == (OutcomeKind.UNKNOWN, Code.LEDGER_UNAVAILABLE)
        assert not rig.supervisor.flights
        assert (await rig.call("up.write", amount=5)).code is Code.PRIOR_OUTCOME_UNKNOWN
        assert rig.upstream.count() == 1


async def test_a_call_whose_deadline_passed_while_the_loop_was_busy_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its timer rings too late to stop it; the clock is asked right before the send."""
    async with Rig(tmp_path) as rig:
        loop = asyncio.get_running_loop()
        append = rig.ledger.append

        def blocks_the_loop(event: Event, **more: Any) -> asyncio.Future[int]:
            if event.type is not EventType.ATTEMPT_STARTED:
                return append(event, **more)
            before = loop.time
            monkeypatch.setattr(loop, "time", lambda: before() + 100.0)
            append(event, **more)
            written: asyncio.Future[int] = loop.create_future()
            written.set_result(1)
            return written

        monkeypatch.setattr(rig.ledger, "append", blocks_the_loop)
        outcome = await rig.call("up.write", amount=5)
        assert (outcome.code, outcome.kind) == (Code.DEADLINE_EXCEEDED, OutcomeKind.NOT_EXECUTED)
        assert rig.upstream.count() == 0


# ── faults of ours ───────────────────────────────────────────────────────────────────────────────────────────────


def a_bug(*_: Any) -> Outcome:
    raise AssertionError("a bug")


async def test_a_fault_of_ours_does_not_forget_what_an_earlier_attempt_may_have_done(tmp_path: Path) -> None:
    """The second attempt fails by a bug before it is sent; the first may have run, and so may the call."""
    async with Rig(tmp_path) as rig:
        answers = [lambda attempt: BROKEN, a_bug]
        rig.upstream.answer = lambda attempt: answers.pop(0)(attempt)
        outcome = await rig.call("up.keyed", amount=5)
        assert (outcome.kind, outcome.code) == (OutcomeKind.UNKNOWN, Code.INTERNAL)
        rig.upstream.answer = in_turn(OK)
        assert (await rig.call("up.keyed", amount=5)).code is Code.PRIOR_OUTCOME_UNKNOWN


async def test_a_fault_of_ours_before_the_send_is_recorded_as_not_executed(tmp_path: Path) -> None:
    """The attempt's end and the call's say the same."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = a_bug
        outcome = await rig.call("up.write", amount=5)
        (end,) = rig.events("attempt.finished")
        assert outcome.kind is OutcomeKind.NOT_EXECUTED and '"outcome":"not_executed"' in end["line"]


async def test_a_fault_in_the_statistics_does_not_cost_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting comes after answering."""
    async with Rig(tmp_path) as rig:
        monkeypatch.setattr(rig.telemetry, "on_call_finished", a_bug)
        assert (await asyncio.wait_for(rig.call("up.write"), 60.0)).ok
        monkeypatch.undo()


async def test_a_child_does_not_lift_the_limit_of_a_queue(tmp_path: Path) -> None:
    """Only an attempt's time limit is a parent's no more; how long it waits for a slot stays bounded."""
    async with Rig(tmp_path, {"domain": {"bulkhead": {"maxConcurrent": 1, "maxWait": "1s"}}}) as rig:
        rig.upstream.takes_s = lambda attempt: 7.0
        rig.start("up.read")
        await asyncio.sleep(0.1)
        queued = rig.start("up.read")
        await asyncio.sleep(0.1)
        rig.start("up.read", parent=queued.call.id)
        assert queued.answer is not None
        assert (await queued.answer).code is Code.OVERLOADED and now() < 1.5

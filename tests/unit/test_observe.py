"""``mode: observe``: all is decided and recorded, nothing is refused by the policy; a person's switch acts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from outrider.calls import OutcomeKind
from outrider.errors import Code
from tests.support.rig import BASE, BROKEN, BUSY, OK, Rig

pytestmark = pytest.mark.looptime

OBSERVE: dict[str, Any] = {"mode": "observe"}
DENY_ALL = [{"name": "no", "tools": ["*"], "then": "deny", "reason": "not today"}]


def observing(**changes: Any) -> dict[str, Any]:
    return {**OBSERVE, **changes}


def observed(rig: Rig) -> list[dict[str, Any]]:
    return [json.loads(row["line"]) for row in rig.events("call.observed")]


def domain(**settings: Any) -> dict[str, Any]:
    return {"domain": settings}


@pytest.mark.parametrize(
    ("rules", "code", "rule"),
    [
        (DENY_ALL, Code.DENIED, "no"),
        ([], Code.NO_RULE, None),
        ([{"name": "ask", "tools": ["*"], "then": "require_approval"}], Code.APPROVAL_UNAVAILABLE, "ask"),
        ([{"name": "odd", "tools": ["*"], "when": "args.nothing > 1", "then": "deny"}], Code.DENIED, "odd"),
    ],
)
async def test_what_a_rule_refuses_is_let_go_and_recorded(
    tmp_path: Path, rules: list[dict[str, Any]], code: Code, rule: str | None
) -> None:
    """The caller gets its result; the ledger says what would have been refused, by which rule, and why."""
    async with Rig(tmp_path, observing(rules=rules)) as rig:
        outcome = await rig.call("up.write")
        assert outcome.ok and rig.upstream.count() == 1
        (record,) = observed(rig)
        assert (record["code"], record.get("rule"), record["stage"]) == (code, rule, "access")
        assert record["agent"] == {"name": "a"} and record["tool"] == "up.write" and record["detail"]
        assert f'outrider_observed_refusals_total{{code="{code}"}} 1' in rig.telemetry.render_metrics().decode()
        order = [row["type"] for row in rig.events()]
        assert order.index("call.received") < order.index("call.observed") < order.index("attempt.started")


async def test_the_same_policy_refuses_once_it_enforces(tmp_path: Path) -> None:
    """Not a property of the rule: the word ``enforce`` is all that changes."""
    async with Rig(tmp_path, {"mode": "enforce", "rules": DENY_ALL}) as rig:
        assert (await rig.call("up.write")).code is Code.DENIED
        assert rig.upstream.count() == 0 and observed(rig) == []


async def test_a_kill_acts_in_a_policy_that_observes(tmp_path: Path) -> None:
    """A person's switch: before the call, and while it waits where the policy would have let it go."""
    rules = {"rules": DENY_ALL}
    slow = domain(bulkhead={"maxConcurrent": 1, "maxQueue": 5, "maxWait": "5s"})
    async with Rig(tmp_path, observing(**rules, **slow)) as rig:
        rig.upstream.takes_s = lambda attempt: 60.0
        first, queued = rig.start("up.read1"), rig.start("up.read2")
        await asyncio.sleep(0.1)
        await rig.supervisor.kill("global", "stop", None, "ann")
        assert first.answer is not None and queued.answer is not None
        for outcome in (await first.answer, await queued.answer, await rig.call("up.read3")):
            assert outcome.code is Code.KILLED
        assert rig.upstream.count() == 1
        assert {record["code"] for record in observed(rig)} == {Code.DENIED}  # the queue's refusal was a kill's


async def test_a_full_bulkhead_is_let_go_without_a_slot(tmp_path: Path) -> None:
    """The sixth and the seventh of seven calls at once pass; those that hold slots keep them."""
    small = domain(bulkhead={"maxConcurrent": 2, "maxQueue": 1, "maxWait": "1s"})
    async with Rig(tmp_path, observing(**small)) as rig:
        rig.upstream.takes_s = lambda attempt: 3.0
        flights = [rig.start(f"up.read{n}") for n in range(7)]
        outcomes = [await flight.answer for flight in flights if flight.answer is not None]
        assert all(outcome.ok for outcome in outcomes) and rig.upstream.most == 7
        assert [record["code"] for record in observed(rig)] == [Code.OVERLOADED] * 5  # one waited in vain, four at once
        (shown,) = rig.domains.snapshot(0.0)
        assert shown["bulkhead"]["held"] == 0


async def test_an_open_breaker_is_let_go_and_learns_only_what_it_would(tmp_path: Path) -> None:
    """It opens, what passes it teaches nothing, and it closes by its own probes: as it will when it is enforced."""
    quick = domain(breaker={"consecutiveFailures": 2, "minCalls": 2, "openFor": "10s"})
    once = {"defaults": {"retry": {"maxAttempts": 1}}}
    async with Rig(tmp_path, observing(**quick, **once)) as rig:
        rig.upstream.answer = lambda attempt: BUSY
        for n in range(2):
            assert (await rig.call(f"up.read{n}")).code is Code.UPSTREAM_FAILED
        rig.upstream.answer = lambda attempt: OK
        for n in range(3):
            assert (await rig.call(f"up.read1{n}")).ok
        (shown,) = rig.domains.snapshot(0.0)
        assert shown["breaker"]["state"] == "open" and rig.upstream.count() == 5
        assert [record["code"] for record in observed(rig)] == [Code.BREAKER_OPEN] * 3
        await asyncio.sleep(30.0)
        for n in range(2):
            assert (await rig.call(f"up.read2{n}")).ok
        (shown,) = rig.domains.snapshot(0.0)
        assert shown["breaker"]["state"] == "closed" and len(observed(rig)) == 3


@pytest.mark.parametrize("on_limit", ["wait", "reject"])
async def test_a_rate_limit_is_let_go(tmp_path: Path, on_limit: str) -> None:
    """Every call is sent; each that the limit would have refused is told once."""
    limit = domain(
        rateLimits=[{"rate": "1/m", "burst": 1, "onLimit": on_limit}], breaker={"enabled": False},
    )  # fmt: skip
    async with Rig(tmp_path, observing(**limit)) as rig:
        assert [(await rig.call(f"up.read{n}")).ok for n in range(3)] == [True] * 3
        assert [record["code"] for record in observed(rig)] == [Code.RATE_LIMITED] * 2


async def test_an_unready_upstream_is_asked_all_the_same(tmp_path: Path) -> None:
    """The probe is the policy's guess of what ready means; told once, though two stages ask."""
    async with Rig(tmp_path, OBSERVE) as rig:
        rig.health.ready = lambda upstream: False  # type: ignore[method-assign]
        rig.health.retry_after_s = lambda upstream: 1.0  # type: ignore[method-assign]
        assert (await rig.call("up.read")).ok
        assert [record["code"] for record in observed(rig)] == [Code.UPSTREAM_UNREADY]


async def test_the_like_of_an_unknown_write_is_let_go(tmp_path: Path) -> None:
    """It is the agent's own second call. Outrider itself never sends a write again, in any mode."""
    async with Rig(tmp_path, OBSERVE) as rig:
        rig.upstream.answer = lambda attempt: BROKEN
        assert (await rig.call("up.write", amount=5)).kind is OutcomeKind.UNKNOWN
        assert rig.upstream.count() == 1
        rig.upstream.answer = lambda attempt: OK
        assert (await rig.call("up.write", amount=5)).ok
        assert [record["code"] for record in observed(rig)] == [Code.PRIOR_OUTCOME_UNKNOWN]


async def test_a_denied_fallback_is_let_go(tmp_path: Path) -> None:
    """The other tool's rules are observed like the first one's."""
    tools = [*BASE["tools"], {"match": "up.read", "fallback": [{"tool": "spare.read"}]}]
    rules = [*BASE["rules"], {"name": "no spare", "tools": ["spare.*"], "then": "deny"}]
    async with Rig(tmp_path, observing(tools=tools, rules=rules)) as rig:
        rig.upstream.answer = lambda attempt: OK if attempt.tool.startswith("spare") else BUSY
        outcome = await rig.call("up.read")
        assert outcome.ok and outcome.degraded
        assert [(record["code"], record["tool"]) for record in observed(rig)] == [(Code.DENIED, "spare.read")]


async def test_a_refusal_that_every_attempt_meets_is_recorded_once(tmp_path: Path) -> None:
    """Retries do not fill the ledger with the same sentence."""
    async with Rig(tmp_path, OBSERVE) as rig:
        rig.upstream.answer = lambda attempt: BUSY
        flight = rig.start("up.read")
        await rig.reload(observing(rules=DENY_ALL))
        assert flight.answer is not None and (await flight.answer).code is Code.UPSTREAM_FAILED
        assert rig.upstream.count() == 3
        assert [record["stage"] for record in observed(rig)] == ["attempt_gate"]


async def test_a_newer_policy_that_enforces_denies_a_call_that_began_under_one_that_observes(tmp_path: Path) -> None:
    """Denies are asked of the newest policy, and so is its mode."""
    async with Rig(tmp_path, OBSERVE) as rig:
        rig.upstream.answer = lambda attempt: BUSY
        flight = rig.start("up.read")
        await asyncio.sleep(0.005)
        await rig.reload({"mode": "enforce", "rules": DENY_ALL})
        assert flight.answer is not None and (await flight.answer).code is Code.DENIED
        assert rig.upstream.count() == 1


@pytest.mark.parametrize(
    ("tool", "code"), [("nowhere.read", Code.UNKNOWN_TOOL), ("up.read", Code.OVERLOADED)]
)  # fmt: skip
async def test_what_is_not_the_policys_word_is_refused_in_any_mode(tmp_path: Path, tool: str, code: Code) -> None:
    """A tool that does not exist cannot be called; ``limits`` keep the sidecar itself alive."""
    async with Rig(tmp_path, observing(limits={"maxInflight": 1})) as rig:
        rig.upstream.takes_s = lambda attempt: 5.0
        first = rig.start("up.read") if code is Code.OVERLOADED else None
        outcome = await rig.call(tool)
        assert outcome.code is code and observed(rig) == []
        assert first is None or (first.answer is not None and (await first.answer).ok)

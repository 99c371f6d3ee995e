"""A policy that observes is, for the caller and for the upstream, one that refuses nothing."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import looptime
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.calls import Attempt, Outcome
from tests.support.rig import BASE, BROKEN, BUSY, OK, REFUSED, WRONG, Rig

BY_POLICY = {
    "denied", "no_rule", "approval_unavailable", "rate_limited", "overloaded", "breaker_open", "upstream_unready",
    "prior_outcome_unknown", "run_limit", "runaway", "agent_undeclared",
}  # fmt: skip
ALLOW = {"name": "all", "tools": ["*"], "then": "allow"}
RULES = st.lists(
    st.sampled_from([
        ALLOW,
        {"name": "deny", "tools": ["up.*"], "then": "deny"},
        {"name": "ask", "tools": ["up.write"], "then": "require_approval"},
        {"name": "odd", "tools": ["*"], "when": "args.nothing == 1", "then": "deny"},
        {"name": "even", "tools": ["*"], "when": "args.n % 2 == 0", "then": "deny"},
    ]),
    max_size=4, unique_by=lambda rule: str(rule["name"]),
)  # fmt: skip
TIGHT: dict[str, Any] = {
    "breaker": {"consecutiveFailures": 1, "minCalls": 1, "openFor": "5s"},
    "bulkhead": {"maxConcurrent": 1, "maxQueue": 1, "maxWait": "100ms"},
    "rateLimits": [{"rate": "1/m", "burst": 1, "onLimit": "reject"}],
    "retryBudget": {"minRetries": 1000},
}
LOOSE: dict[str, Any] = {
    "breaker": {"enabled": False},
    "bulkhead": {"maxConcurrent": 1000},
    "retryBudget": {"minRetries": 1000},
}
STRICT = {
    "runs": {"maxCalls": 1, "runaway": {"sameCall": 2, "failures": 1}},
    "agents": {"expected": [{"name": "somebody"}], "undeclared": "deny", "requireOwner": True},
}
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["up.read", "up.write", "up.keyed"]),
        st.lists(st.sampled_from([OK, BROKEN, BUSY, REFUSED, WRONG]), max_size=3),
        st.sampled_from([0.0, 0.5]),
    ),
    min_size=1,
    max_size=8,
)


def in_virtual_time(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(idle_timeout=5)) as runner:
        return runner.run(work)


async def outcomes(policy: dict[str, Any], calls: list[Any]) -> tuple[list[tuple[Any, Any]], list[int], int]:
    """What each call ends in, how often each was sent, and how many refusals were let go."""
    with tempfile.TemporaryDirectory() as folder:
        async with Rig(Path(folder), policy) as rig:
            left = {n: list(faults) for n, (_, faults, _) in enumerate(calls)}

            def answer(attempt: Attempt) -> Outcome:
                faults = left[attempt.call.args["n"]]
                return faults.pop(0) if faults else OK

            rig.upstream.answer = answer
            flights = []
            for n, (tool, _, gap_s) in enumerate(calls):
                flights.append(rig.start(tool, n=n))
                await asyncio.sleep(gap_s)
            ended = [await flight.answer for flight in flights if flight.answer is not None]
            sent = [rig.upstream.count(flight.call.id) for flight in flights]
            ends = rig.events("call.finished", "call.refused")
            assert sorted(end["call_id"] for end in ends) == sorted(flight.call.id for flight in flights)
            assert all(domain["bulkhead"]["held"] == 0 for domain in rig.domains.snapshot(0.0))
            return [(outcome.kind, outcome.code) for outcome in ended], sent, len(rig.events("call.observed"))


@settings(max_examples=40, deadline=None)
@given(RULES, st.booleans(), CALLS)
def test_observing_is_as_if_nothing_were_refused(
    rules: list[dict[str, Any]], strict: bool, calls: list[tuple[str, list[Outcome], float]]
) -> None:
    """The same answers and the same sendings as under a policy that allows everything and limits nothing; and every
    call has one end."""
    tools = {"tools": BASE["tools"]}
    watched: dict[str, Any] = {
        "mode": "observe",
        "rules": rules,
        "domain": TIGHT,
        **tools,
        **(STRICT if strict else {}),
    }
    found, sent, _ = in_virtual_time(outcomes(watched, calls))
    expected, would_be_sent, let_go = in_virtual_time(outcomes({"rules": [ALLOW], "domain": LOOSE, **tools}, calls))
    assert BY_POLICY.isdisjoint(str(code) for _, code in found)
    assert (found, sent) == (expected, would_be_sent)
    assert let_go == 0


@settings(max_examples=20, deadline=None)
@given(RULES, CALLS)
def test_what_is_refused_when_it_enforces_is_told_when_it_observes(
    rules: list[dict[str, Any]], calls: list[tuple[str, list[Outcome], float]]
) -> None:
    """Not one refusal by a rule goes unrecorded."""
    _, _, told = in_virtual_time(outcomes({"mode": "observe", "rules": rules, "domain": LOOSE}, calls))
    ended, _, _ = in_virtual_time(outcomes({"rules": rules, "domain": LOOSE}, calls))
    assert told == sum(str(code) in BY_POLICY for _, code in ended)

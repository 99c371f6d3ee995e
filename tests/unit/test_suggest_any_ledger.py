"""Any ledger, however hostile its names, gives a policy that ``check`` accepts and that allows only what was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider.calls import Agent
from outrider.policy.load import check_texts
from outrider.policy.rules import Facts
from outrider.policy.strictyaml import read
from outrider.suggest.carried import Carried, of_texts
from outrider.suggest.seen import seen
from outrider.suggest.text import Noted, dump
from outrider.suggest.written import suggested
from tests.support.ledger_story import Story
from tests.unit.test_suggest import OBSERVING

HERE = Path("/nowhere")
ENV = {"SHOP_TOKEN": "sample"}
ODD = [
    "ann",
    "ann*",
    "*",
    "#",
    "a: b",
    "- x",
    "'",
    '"',
    "a\nrules: []",
    "\u2028",
    "\x85",
    "true",
    "1e3",
    "~",
    "é",
    "x" * 201,
]
names = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
operations = st.one_of(st.sampled_from(["get_x", "pay_y", "refund", "shell", "a b", "x*", "{args.id}", "é"]), names)
tools = st.builds("{}.{}".format, st.sampled_from(["shop", "local", "nowhere", ""]), operations)
durations = st.one_of(st.floats(0, 1e7), st.sampled_from([0.0, 1e300, float("inf"), float("nan"), -5.0]))
calls = st.fixed_dictionaries(
    {"agent": names, "tool": tools, "took_ms": durations},
    optional={
        "observed": st.sampled_from(["no_rule", "denied", "approval_unavailable", "overloaded", "breaker_open"]),
        "refused": st.sampled_from(["no_rule", "denied", "killed", "unknown_tool", "rate_limited", "\x1b[2J"]),
        "failure": st.sampled_from(["timeout", "reset", "connect", "raised", "status"]),
        "status": st.sampled_from([0, 404, 503]),
        "decision": st.sampled_from(["allow", "deny", "no_rule"]),
        "rule": st.one_of(st.sampled_from(["own process", "small refunds", "no shell"]), names),
    },
)
junk = st.dictionaries(
    st.sampled_from(["type", "ts", "agent", "tool", "timing", "attempt", "call_id", "code", "rule", "decision"]),
    st.one_of(names, st.none(), st.integers(0, 9), st.dictionaries(names, names, max_size=2)),
).filter(lambda record: not isinstance(record.get("attempt", 0), str | dict | type(None)))
POLICIES = [
    OBSERVING,
    OBSERVING.replace("mode: observe\n", ""),
    OBSERVING.replace("perTry: 5m}}", "perTry: 5m}, retry: {retryAfter: {max: 10m}}, effect: read}"),
    OBSERVING + "domain: {breaker: {minCalls: 1000000, window: 1s}, bulkhead: {maxWait: 3m}}\n",
]  # fmt: skip


def carried(text: str | None) -> Carried:
    return of_texts({"policy.yaml": text}, HERE) if text is not None else Carried()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(told=st.lists(calls, max_size=25), odd=st.lists(junk, max_size=4), text=st.sampled_from([None, *POLICIES]))
def test_any_ledger_gives_a_policy_without_errors(
    told: list[dict[str, Any]], odd: list[dict[str, Any]], text: str | None
) -> None:
    """Names of agents and tools are their own word; none of them writes a line of the policy."""
    story = Story()
    for call in told:
        story.call(**call)
    story.records += odd
    found, known = seen(story), carried(text)
    made = suggested(found, known, HERE)
    policy, faults = check_texts({"policy.yaml": made.text.encode()}, HERE, env=ENV)
    assert [str(fault) for fault in faults if fault.severity == "error"] == []
    assert policy is not None
    kept = {rule.name for rule in known.policy.rules.rules} if known.policy is not None else set()
    for agent, tool in {(call["agent"], call["tool"]) for call in told}:
        pair = found.pairs.get((agent, tool))
        decision = policy.rules.decide(Facts(tool, {}, Agent(agent)))
        if decision.effect == "allow":
            assert pair is not None and (pair.allowed or decision.rule in kept)
    stranger = policy.rules.decide(Facts("local.never_seen", {}, Agent("nobody seen")))
    assert stranger.effect != "allow"


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**53), 2**53), names, st.floats(allow_nan=False, allow_infinity=False)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(names, st.one_of(values, st.builds(Noted, values, names, st.tuples(names))), max_size=4))
def test_what_is_written_is_read_back(document: dict[str, Any]) -> None:
    """Any value, with any comment, on one line or many."""
    found = read("x.yaml", ("kind: Policy\n" + dump(document)).encode())
    plain = {key: value.value if isinstance(value, Noted) else value for key, value in document.items()}
    if "kind" not in plain:
        assert found.faults == []
        assert found.data == {"kind": "Policy", **plain}

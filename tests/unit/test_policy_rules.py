"""Rules: precedence without order, indexes, shadows."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.calls import Agent
from outrider.policy.conditions import compile_condition
from outrider.policy.patterns import PatternIndex, matches, overlap
from outrider.policy.rules import Decision, Facts, Rule, Rules

Then = Literal["allow", "deny", "require_approval"]


def rule(name: str, then: Then, when: str | None = None, **more: Any) -> Rule:
    condition = None if when is None else compile_condition(when)
    return Rule(name, then, **{"tools": ("*",), "condition": condition, **more})


def facts(tool: str = "pay.send", agent: str = "bob", **args: Any) -> Facts:
    return Facts(tool, args, Agent(agent))


def decided(*rules: Rule, on: Facts | None = None) -> Decision:
    return Rules(rules).decide(on or facts())


def test_without_a_rule_nothing_is_allowed() -> None:
    """No matching rule is a no, with its own code."""
    assert decided() == Decision("no_rule")
    assert decided(rule("a", "allow", tools=("other.*",))) == Decision("no_rule")


def test_deny_is_over_approval_is_over_allow() -> None:
    """Whatever the order, the strictest matching rule decides."""
    allow, ask, deny = (
        rule("a", "allow"),
        rule("b", "require_approval", approvers=("cfo",)),
        rule("c", "deny", reason="no"),
    )
    assert decided(allow).effect == "allow"
    assert decided(allow, ask) == decided(ask, allow) == Decision("require_approval", "b", approvers=("cfo",))
    assert decided(ask, allow, deny) == Decision("deny", "c", "no")


def test_a_rule_speaks_only_of_its_tools_and_agents() -> None:
    """Exact names and prefixes, of both; either list matching in one entry is enough."""
    only = rule("a", "allow", tools=("pay.send", "mail.*"), agents=("bob", "desk-*"))
    for tool, agent, effect in (
        ("pay.send", "bob", "allow"), ("mail.x", "desk-1", "allow"), ("mail.", "bob", "allow"),
        ("pay.sender", "bob", "no_rule"), ("pay.send", "bobby", "no_rule"), ("pay.send", "desk", "no_rule"),
        ("mail", "bob", "no_rule"), ("Pay.send", "bob", "no_rule"),
    ):  # fmt: skip
        assert decided(only, on=facts(tool, agent)).effect == effect, (tool, agent)


def test_a_condition_decides_whether_a_rule_matches() -> None:
    """`when` is asked only of the rules that match statically; all of the facts can be named."""
    everything = (
        'tool == "pay.send" && args.amount > 5 && agent.name == "bob" && agent.framework == "langgraph" && '
        'agent.labels.team == "red" && agent.owner == "ann" && run.id == "r" && session.id == "s" && '
        'principal.name == "token:agent" && now > timestamp("2026-01-01T00:00:00Z") && now.getFullYear() == 2026'
    )
    agent = Agent("bob", "langgraph", {"team": "red"}, "ann")
    known = Facts("pay.send", {"amount": 6}, agent, "r", "s", "token:agent", 1_780_000_000.0)
    assert decided(rule("all of it", "deny", everything), rule("else", "allow"), on=known).rule == "all of it"


@pytest.mark.parametrize(
    ("when", "args"),
    [
        ("args.amount > 500", {}),  # missing
        ("args.amount > 500", {"amount": "750"}),  # text
        ("args.amount > 500", {"amount": None}),  # null
        ("args.amount > 500", {"amount": True}),  # a boolean is no number
        ("args.amount > 500", {"amount": [1]}),
        ("args.a.b.c == 1", {"a": {"b": 1}}),
        ("args.amount", {"amount": 1}),  # not true or false
        ('args.amount == 1 ? "yes" : "no"', {"amount": 1}),
        ("args.xs[5] == 1", {"xs": [1]}),
        ("1 / args.zero == 1", {"zero": 0}),
        ("int(args.text) == 1", {"text": "one"}),
        ("timestamp(args.text) < now", {"text": "yesterday"}),
        ("args.text.matches(args.pattern)", {"text": "a", "pattern": "("}),
        ("args.xs.all(x, x > 0)", {"xs": list(range(1, 258))}),  # a list too long for conditions
        ("args.n > 0", {"n": 2**63}),
        ("args.n > 0", {"n": float("nan")}),
        ("args.s == 'x'", {"s": "\ud800"}),
        ("args.s == 'x'", {"s": object()}),
    ],
)
def test_a_condition_that_cannot_be_evaluated_denies_or_is_no_match(when: str, args: dict[str, Any]) -> None:
    """An error in a rule that refuses refuses; in a rule that allows it allows nothing. Never an exception."""
    known = Facts("pay.send", args, Agent("bob"))
    denying = Rules([rule("d", "deny", when, reason="because"), rule("z", "allow")]).decide(known)
    assert (denying.effect, denying.rule, denying.reason) == ("deny", "d", "because")
    assert denying.error
    asking = Rules([rule("q", "require_approval", when, approvers=("cfo",)), rule("z", "allow")]).decide(known)
    assert (asking.effect, asking.rule, asking.approvers) == ("deny", "q", ())
    assert asking.error
    assert Rules([rule("a", "allow", when)]).decide(known) == Decision("no_rule")


def test_an_error_names_keys_and_never_values() -> None:
    """What is told and recorded of an error holds nothing of the arguments."""
    for when, args in (
        ("int(args.text) == 1", {"text": "hunter2"}),
        ("args.text > 5", {"text": "hunter2"}),
        ('args.text.matches(args.text + "(")', {"text": "hunter2"}),
        ("args.missing == args.text", {"text": "hunter2"}),
        ("args[args.text] == 1", {"text": "hunter2"}),
    ):
        error = decided(rule("d", "deny", when), on=Facts("a.b", args, Agent())).error
        assert error
        assert "hunter2" not in error, error


def test_absorbing_operators_hide_an_error_that_does_not_matter() -> None:
    """CEL: true || error is true, false && error is false, in both orders; has() guards."""
    none = facts()
    assert decided(rule("d", "deny", "args.x > 1 || true"), on=none) == Decision("deny", "d")
    assert decided(rule("a", "allow", "args.x > 1 && false"), on=none).effect == "no_rule"
    assert decided(rule("d", "deny", "has(args.x) && args.x > 1"), rule("a", "allow"), on=none).effect == "allow"
    assert decided(rule("d", "deny", "args.x > 1.5"), rule("a", "allow"), on=facts(x=1)).effect == "allow"


def test_only_the_named_facts_are_converted() -> None:
    """Arguments that are unfit for conditions bother no condition that does not name them."""
    unfit = Facts("pay.send", {"xs": list(range(1000))}, Agent("bob"))
    assert decided(rule("d", "deny", 'agent.name == "eve"'), rule("a", "allow"), on=unfit).effect == "allow"
    assert decided(rule("d", "deny", "has(args.y)"), rule("a", "allow"), on=unfit).effect == "deny"


def test_one_approval_rule_in_error_denies_beside_another_that_holds() -> None:
    """Order-independence of errors: the answer does not depend on which of two rules is looked at first."""
    fine, broken = rule("a fine", "require_approval"), rule("b broken", "require_approval", "args.x > 1")
    assert decided(fine, broken).effect == decided(broken, fine).effect == "deny"


def test_a_shadow_never_decides_and_is_told_where_it_would_have() -> None:
    """Shadows are watched: told where they outrank the decision, silent where not."""
    shadow_deny = rule("s", "deny", "args.amount > 5", shadow=True)
    allow = rule("a", "allow")
    assert decided(allow, shadow_deny, on=facts(amount=9)) == Decision("allow", "a", shadows=(("s", "deny"),))
    assert decided(allow, shadow_deny, on=facts(amount=1)) == Decision("allow", "a")
    assert decided(allow, shadow_deny, on=facts()).shadows == (("s", "deny"),)  # its error would have denied
    assert decided(rule("d", "deny"), shadow_deny, on=facts(amount=9)) == Decision("deny", "d")
    assert decided(rule("s", "allow", shadow=True)) == Decision("no_rule", shadows=(("s", "allow"),))
    assert decided(allow, rule("s", "allow", shadow=True)) == Decision("allow", "a")


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────────

TOOLS = ["*", "p*", "pay.*", "pay.send", "mail.*", "mail.read"]
AGENTS = ["*", "b*", "bob", "eve"]
WHENS = [None, "args.x > 1", "args.x == 1", "has(args.y)", 'agent.name == "bob"', "args.x", "args.y.z"]

rules_strategy = st.lists(
    st.builds(
        lambda then, tools, agents, when, shadow: (then, tuple(tools), tuple(agents), when, shadow),
        st.sampled_from(["allow", "deny", "require_approval"]),
        st.lists(st.sampled_from(TOOLS), min_size=1, max_size=3, unique=True),
        st.lists(st.sampled_from(AGENTS), min_size=1, max_size=2, unique=True),
        st.sampled_from(WHENS),
        st.booleans(),
    ),
    max_size=8,
).map(lambda made: [rule(f"r{n}", then, when, tools=tools, agents=agents, shadow=shadow)
                    for n, (then, tools, agents, when, shadow) in enumerate(made)])  # fmt: skip
facts_strategy = st.builds(
    lambda tool, agent, args: Facts(tool, args, Agent(agent)),
    st.sampled_from(["pay.send", "pay.get", "mail.read", "x.y"]),
    st.sampled_from(["bob", "ben", "eve", "zoe"]),
    st.dictionaries(st.sampled_from("xyz"), st.sampled_from([0, 1, 2, "1", None, True, [1], {"z": True}]), max_size=3),
)


@given(rules_strategy, facts_strategy, st.integers())
def test_shuffling_rules_never_changes_the_decision(rules: list[Rule], known: Facts, seed: int) -> None:
    """Order never decides: not the effect, nor the rule that is named, nor the error, nor the shadows."""
    shuffled = list(rules)
    random.Random(seed).shuffle(shuffled)
    first, second = Rules(rules).decide(known), Rules(shuffled).decide(known)
    assert first == second


@given(rules_strategy, facts_strategy, rules_strategy)
def test_adding_a_deny_never_turns_a_refusal_into_an_allow(rules: list[Rule], known: Facts, more: list[Rule]) -> None:
    """Monotone refusal: a policy with more denies allows no call that it refused before."""
    denies = [Rule(f"d{n}", "deny", r.tools, r.agents, r.condition) for n, r in enumerate(more)]
    before, after = Rules(rules).decide(known), Rules([*rules, *denies]).decide(known)
    assert before.effect == "allow" or after.effect != "allow"


@given(rules_strategy, facts_strategy)
def test_the_index_agrees_with_asking_every_rule(rules: list[Rule], known: Facts) -> None:
    """Against a plain model without any index: the same rules match."""

    def speaks(r: Rule) -> bool:
        tools, agents = (matches(p, known.tool) for p in r.tools), (matches(p, known.agent.name) for p in r.agents)
        return any(tools) and any(agents)

    enforced = [r for r in rules if not r.shadow and speaks(r)]
    assert (
        Rules(rules).decide(known).effect
        == Rules([Rule(r.name, r.then, ("*",), ("*",), r.condition) for r in enforced]).decide(known).effect
    )


@given(rules_strategy, facts_strategy)
def test_shadows_never_change_the_decision(rules: list[Rule], known: Facts) -> None:
    """A policy without its shadows decides the same."""
    with_shadows, without = Rules(rules).decide(known), Rules([r for r in rules if not r.shadow]).decide(known)
    assert (with_shadows.effect, with_shadows.rule, with_shadows.error) == (without.effect, without.rule, without.error)


names = st.text("ab.", max_size=4)
patterns = st.builds(lambda name, star: name + star, names, st.sampled_from(["", "*"]))


def matching(name: str) -> st.SearchStrategy[str]:
    """Patterns that match ``name``."""
    return st.one_of(st.just(name), st.integers(0, len(name)).map(lambda length: name[:length] + "*"))


name_and_two = names.flatmap(lambda name: st.tuples(st.just(name), matching(name), matching(name)))


@given(st.lists(patterns, max_size=8), names)
def test_an_index_finds_what_matches_from_least_to_most_specific(filed: list[str], name: str) -> None:
    """Against a plain scan; the order is by the length of the prefix, exact names last."""
    index: PatternIndex[str] = PatternIndex()
    for pattern in filed:
        index.add(pattern, pattern)
    found = index.find(name)
    assert sorted(found) == sorted(pattern for pattern in filed if matches(pattern, name))
    specificity = [(not pattern.endswith("*"), len(pattern)) for pattern in found]
    assert specificity == sorted(specificity)


@given(st.lists(patterns, max_size=8), name_and_two)
def test_what_covers_a_pattern_matches_all_that_it_matches(filed: list[str], chosen: tuple[str, str, str]) -> None:
    """The layers judged together at load are layers that always apply together."""
    name, pattern, _ = chosen
    index: PatternIndex[str] = PatternIndex()
    for other in filed:
        index.add(other, other)
    assert all(matches(other, name) for other in index.covering(pattern))


@given(name_and_two)
def test_patterns_that_share_a_name_overlap(chosen: tuple[str, str, str]) -> None:
    """Overlap has no false no."""
    _, one, other = chosen
    assert overlap(one, other)
    assert overlap(other, one)

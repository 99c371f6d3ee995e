"""Who may call what, under which condition.

Order never decides: deny over require_approval over allow over nothing, and nothing denies. (A kill comes before all of
them, see ``kills``.) A condition that cannot be evaluated denies where its rule denies or asks for approval, and is no
match where its rule allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from outrider.calls import Agent
from outrider.policy.conditions import Condition, Question, timestamp
from outrider.policy.guard import guard_args
from outrider.policy.patterns import PatternIndex

__all__ = ["Decision", "Facts", "Rule", "Rules", "guard_args", "question_of"]

Then = Literal["allow", "deny", "require_approval"]

MATCH_CACHE = 8192
"""Pairs of tool and agent whose rules are remembered; callers may invent any number of both."""
_RANK = {"no_rule": 0, "allow": 1, "require_approval": 2, "deny": 3}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a condition may ask about. ``now`` is seconds since the epoch."""

    tool: str
    args: Mapping[str, Any]
    agent: Agent
    run: str = ""
    session: str = ""
    principal: str = ""
    now: float = 0.0
    on_behalf_of: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the access rules. ``effect`` no_rule: nothing matched, which denies.

    ``rule`` is the deciding rule's name. ``error`` says why a condition could not be evaluated; in a deny or approval
    rule that denies. ``shadows`` are rules that are only watched and would have decided otherwise: (name, effect).
    """

    effect: Literal["allow", "deny", "require_approval", "no_rule"]
    rule: str | None = None
    reason: str = ""
    error: str = ""
    approvers: tuple[str, ...] = ()
    shadows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, compiled. ``tools`` and ``agents`` are exact names or prefixes with ``*``."""

    name: str
    then: Then
    tools: tuple[str, ...]
    agents: tuple[str, ...] = ("*",)
    condition: Condition | None = None
    reason: str = ""
    approvers: tuple[str, ...] = ()
    shadow: bool = False
    source: str = ""  # file:line

    def decision(self, error: str = "") -> Decision:
        """What follows where it matches, or where its condition could not be evaluated."""
        then = "deny" if error else self.then
        return Decision(then, self.name, self.reason, error, () if error else self.approvers)


class _Matching(NamedTuple):
    """The rules that match a tool and an agent, before any condition is asked."""

    denies: tuple[Rule, ...]
    approvals: tuple[Rule, ...]
    allows: tuple[Rule, ...]
    shadows: tuple[Rule, ...]


_NO_RULE = Decision("no_rule")


def _may_speak(rule: Rule, tool: str, others: Iterable[Rule]) -> bool:
    """Of a tool that only its very name allows: who merely restricts it may do so by pattern; an approval restricts
    where some rule opens it, and opens nothing by itself."""
    if rule.then == "deny" or tool in rule.tools:
        return True
    opened = any(tool in other.tools and other.then != "deny" and not other.shadow for other in others)
    return rule.then == "require_approval" and opened


class Rules:
    """All rules of a policy, indexed by tool and agent: rules that speak of other tools or agents cost nothing."""

    def __init__(self, rules: Iterable[Rule] = (), exact: Set[str] = frozenset()) -> None:
        """``exact``: tools that no pattern allows, only a rule with their very name (``patterns.raw_tool``)."""
        self.rules = tuple(rules)
        self.exact = exact
        self._index: PatternIndex[PatternIndex[Rule]] = PatternIndex()
        self._by_tool: dict[str, PatternIndex[Rule]] = {}
        for rule in self.rules:
            self._file(rule)
        self._matching = lru_cache(maxsize=MATCH_CACHE)(self._find)

    def _file(self, rule: Rule) -> None:
        for tool in rule.tools:
            by_agent = self._by_tool.get(tool)
            if by_agent is None:
                by_agent = self._by_tool[tool] = PatternIndex()
                self._index.add(tool, by_agent)
            for agent in rule.agents:
                by_agent.add(agent, rule)

    def _find(self, tool: str, agent: str) -> _Matching:
        """Sorted so that the answer never depends on the order in the files: unconditional first, then by name."""
        found = {rule.name: rule for by_agent in self._index.find(tool) for rule in by_agent.find(agent)}
        if tool in self.exact:
            found = {name: rule for name, rule in found.items() if _may_speak(rule, tool, found.values())}
        rules = sorted(found.values(), key=lambda rule: (rule.condition is not None, rule.name))

        def those(then: Then) -> tuple[Rule, ...]:
            return tuple(rule for rule in rules if rule.then == then and not rule.shadow)

        shadows = tuple(rule for rule in rules if rule.shadow)
        return _Matching(those("deny"), those("require_approval"), those("allow"), shadows)

    def may(self, tool: str, agent: str) -> bool:
        """Whether some call of this tool by this agent could be allowed, as far as that is known without arguments."""
        matching = self._matching(tool, agent)
        if any(rule.condition is None for rule in matching.denies):
            return False
        return bool(matching.allows or matching.approvals)

    def asks_args(self, tool: str, agent: str) -> bool:
        """Whether a rule that speaks of this tool and this agent looks at the arguments."""
        return any(
            "args" in rule.condition.names for part in self._matching(tool, agent) for rule in part if rule.condition
        )

    def decide(self, facts: Facts) -> Decision:
        """The decision on one call. Never raises for what a caller sent."""
        matching = self._matching(facts.tool, facts.agent.name)
        question = question_of(facts)
        decision = _enforced(matching, question)
        if not matching.shadows or decision.effect == "deny":
            return decision
        shadows = _watched(matching.shadows, question, decision)
        return replace(decision, shadows=shadows) if shadows else decision


def question_of(facts: Facts) -> Question:
    """What conditions may ask about one call."""
    return Question(lambda name: _VALUES[name](facts))


def _enforced(matching: _Matching, question: Question) -> Decision:
    for rule in matching.denies:
        holds, error = _asked(rule, question)
        if holds or error:
            return rule.decision(error)
    approval: Decision | None = None
    for rule in matching.approvals:  # all of them: one that cannot be evaluated denies, wherever it stands
        holds, error = _asked(rule, question)
        if error:
            return rule.decision(error)
        if holds and approval is None:
            approval = rule.decision()
    if approval is not None:
        return approval
    for rule in matching.allows:
        holds, _ = _asked(rule, question)
        if holds:
            return rule.decision()
    return _NO_RULE


def _asked(rule: Rule, question: Question) -> tuple[bool, str]:
    return (True, "") if rule.condition is None else question.ask(rule.condition)


def _watched(shadows: tuple[Rule, ...], question: Question, decision: Decision) -> tuple[tuple[str, str], ...]:
    """The shadows that would have outranked the decision."""
    found = []
    for rule in shadows:
        if _RANK[rule.then] <= _RANK[decision.effect]:
            continue
        holds, error = _asked(rule, question)
        if holds or (error and rule.then != "allow"):
            found.append((rule.name, rule.decision(error).effect))
    return tuple(found)


_VALUES: Mapping[str, Callable[[Facts], Any]] = {
    "tool": lambda facts: facts.tool,
    "args": lambda facts: facts.args,
    "agent": lambda facts: {
        "name": facts.agent.name,
        "framework": facts.agent.framework,
        "labels": dict(facts.agent.labels),
        "owner": facts.agent.owner,
    },
    "run": lambda facts: {"id": facts.run},
    "session": lambda facts: {"id": facts.session},
    "principal": lambda facts: {"name": facts.principal, "on_behalf_of": facts.on_behalf_of},
    "now": lambda facts: timestamp(facts.now),
}

"""Which rules speak of a call, which hold, and which one decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from outrider.policy.conditions import Question
from outrider.policy.patterns import matches
from outrider.policy.rules import Decision, Facts, Rule, Rules, question_of


@dataclass(frozen=True, slots=True)
class Heard:
    """What one rule says of a call. ``tool`` and ``agent`` are the patterns that match, empty where none does;
    ``holds`` is None where its condition was not asked."""

    rule: Rule
    tool: str
    agent: str
    holds: bool | None
    error: str
    decides: bool

    @property
    def speaks(self) -> bool:
        """Whether it is about this tool and this agent."""
        return bool(self.tool and self.agent)

    @property
    def why(self) -> str:
        """One sentence."""
        if not self.tool:
            return "speaks of other tools"
        if not self.agent:
            return "speaks of other agents"
        if self.error:
            follows = "no match" if self.rule.then == "allow" else "which denies"
            return f"its condition cannot be evaluated, {follows}: {self.error}"
        if not self.holds:
            return "its condition is false"
        if self.rule.shadow:
            return "matches, and is only watched (mode: observe)"
        return "decides" if self.decides else "matches, and another rule decides"

    def as_dict(self) -> dict[str, Any]:
        condition = self.rule.condition
        return {
            "name": self.rule.name,
            "then": self.rule.then,
            "mode": "observe" if self.rule.shadow else "enforce",
            "at": self.rule.source,
            "matches": self.speaks and (bool(self.holds) or (bool(self.error) and self.rule.then != "allow")),
            "decides": self.decides,
            "tool_pattern": self.tool or None,
            "agent_pattern": self.agent or None,
            "when": condition.text if condition is not None else None,
            "result": self.holds if condition is not None and not self.error else None,
            "error": self.error or None,
            "why": self.why,
        }


def heard(rules: Rules, facts: Facts) -> tuple[Decision, list[Heard]]:
    """The decision, and every rule with what it says: those that speak of the call first."""
    decision = rules.decide(facts)
    question = question_of(facts)
    found = [_one(rule, facts, question, decision, facts.tool in rules.exact) for rule in rules.rules]
    return decision, sorted(found, key=lambda one: (not one.decides, not one.speaks, not one.tool))


def _one(rule: Rule, facts: Facts, question: Question, decision: Decision, only_exact: bool) -> Heard:
    patterns = [name for name in rule.tools if name == facts.tool or rule.then != "allow" or not only_exact]
    tool, agent = _which(patterns, facts.tool), _which(rule.agents, facts.agent.name)
    if not (tool and agent):
        return Heard(rule, tool, agent, None, "", False)
    holds, error = (True, "") if rule.condition is None else question.ask(rule.condition)
    return Heard(rule, tool, agent, holds, error, rule.name == decision.rule)


def _which(patterns: Iterable[str], name: str) -> str:
    return next((pattern for pattern in patterns if matches(pattern, name)), "")

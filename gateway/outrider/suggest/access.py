"""Rules: each agent may do what it was seen to do. What a person denied stays denied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from outrider.policy.patterns import is_operation, is_prefix, pattern_fault
from outrider.suggest.carried import Carried, Part
from outrider.suggest.seen import OF_THE_AGENT, Pair, Seen
from outrider.suggest.text import Noted

MAX_ENTRIES = 256
"""Tools, and agents, that one rule may name."""
MAX_TOLD = 200
"""Comments on what was refused; more are counted."""


def is_name(text: str) -> bool:
    """Whether it can be written as a pattern that matches this name and no other."""
    return pattern_fault(text) is None and not is_prefix(text)


def rules(seen: Seen, known: Carried) -> tuple[list[Any], list[str]]:
    """The entries of ``rules``, and comments on what is not allowed and why."""
    kept = [part for part in known.rules if _kept(part)]
    conditional = {part.raw["name"] for part in kept if part.raw["then"] == "allow" and "when" in part.raw}
    names = {part.raw["name"] for part in kept}
    entries: list[Any] = [Noted(part.raw, above=(f"from {part.at}",)) for part in kept]
    for agents, tools in _groups(_allowed(seen, known, conditional)):
        entries.extend(_chunks(agents, tools, names))
    comments = [f"not carried over: '{part.raw['name']}' ({part.at}); the rules below allow what was seen"
                for part in known.rules if not _kept(part)]  # fmt: skip
    return entries, [*comments, *_not_allowed(seen, known), *_barred_still(seen)]


def _kept(part: Part) -> bool:
    """All but a plain allow: what was seen takes its place."""
    return part.raw["then"] != "allow" or "when" in part.raw or part.raw.get("mode") == "observe"


def _allowed(seen: Seen, known: Carried, conditional: set[str]) -> dict[str, set[str]]:
    """Each agent's tools, and the tools that these fall back to."""
    found: dict[str, set[str]] = {}
    for (agent, tool), pair in seen.pairs.items():
        if is_name(agent) and _plain(pair, conditional) and callable_tool(tool, known):
            found.setdefault(agent, set()).update(_with_fallbacks(tool, known))
    return found


def _plain(pair: Pair, conditional: set[str]) -> bool:
    """Whether it was allowed by more than rules with a condition, which are kept and go on to allow it."""
    return bool(pair.allowed) and not set(pair.allowed) <= conditional


def callable_tool(tool: str, known: Carried) -> bool:
    """Whether the suggested policy can name this tool: its upstream is known, and its name is no pattern."""
    if not is_name(tool):
        return False
    if known.policy is not None:
        return known.policy.plan(tool) is not None
    group, _, operation = tool.partition(".")
    return group == "local" and is_operation(operation, "local")


def _with_fallbacks(tool: str, known: Carried) -> set[str]:
    found, left = {tool}, [tool]
    while left and known.policy is not None:
        plan = known.policy.plan(left.pop())
        ways = [way.tool for way in plan.fallback if way.tool] if plan is not None else []
        left += [way for way in ways if way not in found]
        found.update(ways)
    return found


def _groups(allowed: dict[str, set[str]]) -> Iterator[tuple[list[str], list[str]]]:
    """Agents that were seen to call the same tools share a rule."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for agent in sorted(allowed):
        groups.setdefault(tuple(sorted(allowed[agent])), []).append(agent)
    for tools, agents in sorted(groups.items(), key=lambda group: group[1]):
        yield agents, list(tools)


def _chunks(agents: list[str], tools: list[str], names: set[str]) -> Iterator[dict[str, Any]]:
    whom = agents[0] if len(agents) == 1 else f"{agents[0]} and {len(agents) - 1} more"
    for first in range(0, len(agents), MAX_ENTRIES):
        for start in range(0, len(tools), MAX_ENTRIES):
            yield {
                "name": _unique(f"{whom}: seen", names),
                "agents": agents[first : first + MAX_ENTRIES],
                "tools": tools[start : start + MAX_ENTRIES],
                "then": "allow",
            }


def _unique(name: str, names: set[str]) -> str:
    found, n = name, 1
    while found in names:
        n += 1
        found = f"{name} ({n})"
    names.add(found)
    return found


def _not_allowed(seen: Seen, known: Carried) -> Iterator[str]:
    told = sorted(
        f"not allowed: '{tool}' by '{agent}': {_why(tool, agent, pair, known)}"
        for (agent, tool), pair in seen.pairs.items()
        if not (pair.allowed and callable_tool(tool, known) and is_name(agent))
    )
    yield from told[:MAX_TOLD]
    if len(told) > MAX_TOLD:
        yield f"and {len(told) - MAX_TOLD} more that are not allowed"


def _barred_still(seen: Seen) -> Iterator[str]:
    """What the rules below allow, and a section that is carried over would have refused."""
    told = sorted(
        f"REVIEW: '{tool}' by '{agent}' would still be refused: "
        + ", ".join(f"{count} x {code}" for code, count in sorted(pair.other.items()) if code in OF_THE_AGENT)
        for (agent, tool), pair in seen.pairs.items()
        if pair.allowed and OF_THE_AGENT & pair.other.keys()
    )
    yield from told[:MAX_TOLD]
    if len(told) > MAX_TOLD:
        yield f"and {len(told) - MAX_TOLD} more that would still be refused"


def _why(tool: str, agent: str, pair: Pair, known: Carried) -> str:
    if pair.allowed and not (is_name(tool) and is_name(agent)):
        return "a name that cannot be written as a pattern"
    if pair.allowed and not callable_tool(tool, known):
        return "its upstream is not in the policy"
    counts = sorted((pair.refused + pair.other).items())
    return ", ".join(f"{count} x {code}" for code, count in counts) or "it was never decided"

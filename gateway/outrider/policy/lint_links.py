"""What is wrong between sections: tools and upstreams that do not exist, fallbacks in a circle, entries that clash.

A pattern that matches nothing is no fault by itself (``deny shell.*`` is a good rule without any shell); one that looks
like a misspelled name of something that exists is told, because a misspelled deny denies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from outrider.errors import Fault
from outrider.policy import plans
from outrider.policy.draft import Draft
from outrider.policy.faults import nearest
from outrider.policy.layers import Keys, Layer, Layers, merged
from outrider.policy.patterns import is_operation, is_prefix, matches, overlap
from outrider.policy.schema import Rule
from outrider.policy.strictyaml import Path

FALLBACK: Keys = ("fallback",)
LOCAL = "local"
MAX_SEARCHES = 100
_AN = {"http": "an HTTP", "mcp": "an MCP", "local": "the local"}
MAX_ALIKE = 100
"""How many misspelled names are looked up, and among how many others."""


def check_links(made: Draft, layers: Layers, known: Mapping[str, plans.Upstream]) -> Iterator[Fault]:
    """Codes E14, E27, E33, E47, E53, E55, W05, W06, W09."""
    names = Names(made, layers)
    yield from _clashes(layers)
    yield from _entries(layers, names)
    yield from _fallbacks(layers, names, known)
    yield from _circles(layers)
    yield from _rules(made, names)


class Names:
    """The upstreams and tools that a policy speaks of."""

    def __init__(self, made: Draft, layers: Layers) -> None:
        self.upstreams = sorted(made.upstream_names)
        self._exact: dict[str, set[str]] = {}  # of each upstream, the declared tools
        self._prefixes: dict[str, list[str]] = {}  # and the declared patterns
        self._searches = MAX_SEARCHES
        for layer in layers.entries:
            group, dot, _ = layer.pattern.partition(".")
            if dot and is_prefix(layer.pattern):
                self._prefixes.setdefault(group, []).append(layer.pattern)
            elif dot:
                self._exact.setdefault(group, set()).add(layer.pattern)

    def has_upstream(self, pattern: str) -> bool:
        """Whether some upstream can have tools that match."""
        group, dot, _ = pattern.partition(".")
        if dot:
            return group in self.upstreams
        return any(name.startswith(group.removesuffix("*")) for name in self.upstreams)

    def nearest_tool(self, pattern: str) -> str | None:
        """The declared tool that an undeclared one was probably meant to be."""
        group, dot, _ = pattern.partition(".")
        exact, prefixes = self._exact.get(group, set()), self._prefixes.get(group, [])
        if not dot or pattern in exact or any(overlap(pattern, other) for other in prefixes):
            return None
        if is_prefix(pattern) and any(matches(pattern, other) for other in exact):
            return None
        return self._search(pattern, exact)

    def _search(self, pattern: str, declared: set[str]) -> str | None:
        """Bounded: comparing spellings is slow, and this is only a hint."""
        if not self._searches:
            return None
        self._searches -= 1
        name = pattern.removesuffix("*")
        alike = [other for other in declared if abs(len(other) - len(name)) <= 2 and other[-2:] == name[-2:]]
        alike += [other for other in declared if abs(len(other) - len(name)) <= 2 and other[: len(name) // 2] in name]
        return nearest(name, sorted(set(alike))[:MAX_ALIKE], 0.85)


def _clashes(layers: Layers) -> Iterator[Fault]:
    """Two entries with the same pattern may divide the keys between them, but not both say the same one."""
    first: dict[str, list[Layer]] = {}
    for layer in layers.entries:
        before = first.setdefault(layer.pattern, [])
        for other in before:
            yield from _clash(layer, other)
        before.append(layer)


def _clash(layer: Layer, other: Layer) -> Iterator[Fault]:
    assert other.item is not None
    for keys in sorted(layer.leaves.keys() & other.leaves.keys()):
        leaf, before = layer.leaves[keys], other.leaves[keys]
        message = (
            f"'{layer.pattern}' here and at {before.where} are equally specific and both set '{'.'.join(keys)}'; "
            "order would decide silently."
        )
        yield leaf.item.fault(leaf.keys, "E27", message, "say it in one of them, or make one pattern longer.")


def _undefined(group: str, names: Names) -> tuple[str, str]:
    near = nearest(group, names.upstreams, 0.6)
    hint = f"did you mean '{near}'? " if near else ""
    message = f"upstream '{group}' is not defined. Known: {', '.join(names.upstreams)}."
    return message, f"{hint}{'Or define' if near else 'define'} it in upstreams."


def _entries(layers: Layers, names: Names) -> Iterator[Fault]:
    for layer in layers.entries:
        if layer.item is not None and not names.has_upstream(layer.pattern):
            message, fix = _undefined(layer.pattern.partition(".")[0], names)
            yield layer.item.fault(("match",), "E33", message, fix)


def _fallbacks(layers: Layers, names: Names, known: Mapping[str, plans.Upstream]) -> Iterator[Fault]:
    for layer in layers.entries:
        leaf = layer.leaves.get(FALLBACK)
        for index, way in enumerate(leaf.value if leaf else ()):
            tool = way.said().get("tool")
            if tool is None or leaf is None:
                continue
            keys: Path = (*leaf.keys, index, "tool")
            group, _, operation = tool.partition(".")
            if group not in names.upstreams:
                message, fix = _undefined(group, names)
                yield leaf.item.fault(keys, "E33", message, fix)
                continue
            if group == LOCAL:
                yield leaf.item.fault(keys, "E55", *_never_runs(tool))
                continue
            upstream = known.get(group)
            if upstream is not None and not is_operation(operation, upstream.kind):
                yield leaf.item.fault(
                    keys, "E47", f"'{tool}' is no tool of {_AN[upstream.kind]} upstream.", "mend its name."
                )
            near = names.nearest_tool(tool)
            if near is not None:
                message = f"no tool of upstream '{group}' matches '{tool}' (nearest: {near})."
                yield leaf.item.fault(keys, "W05", message, f"write '{near}', or add an entry for '{tool}' to tools.")


def _never_runs(tool: str) -> tuple[str, str]:
    """An agent's process has, for a call, the one function that was called, and its arguments: no other."""
    message = (
        f"'{tool}' is a function of the agent's process, which runs the function that was called and no other: "
        "this fallback would never run."
    )
    return message, "name a tool of an HTTP upstream or a static value, or fall back inside the function."


def _circles(layers: Layers) -> Iterator[Fault]:
    """Fallbacks that lead back: followed from each tool that is named, as its layers say."""
    done: set[str] = set()
    for layer in layers.entries:
        leaf = layer.leaves.get(FALLBACK)
        if leaf is None:
            continue
        starts = [layer.pattern] if not is_prefix(layer.pattern) else _tools(leaf.value)
        for start in starts:
            circle = _circle(start, layers, done)
            if circle:
                message = f"fallback cycle: {' -> '.join(circle)}."
                yield leaf.item.fault(leaf.keys, "E14", message, "remove one of these fallbacks.")


def _tools(ways: list[object]) -> list[str]:
    return [way.said()["tool"] for way in ways if "tool" in way.said()]  # type: ignore[attr-defined]


def _circle(start: str, layers: Layers, done: set[str]) -> list[str]:
    """A way from ``start`` back to a tool on it; empty where there is none. ``done`` are tools that were followed
    before, and is added to. Iterative: a policy may chain thousands."""
    path = [] if start in done else [start]
    choices = [_next(start, layers)]
    while path:
        if not choices[-1]:
            done.add(path.pop())
            choices.pop()
            continue
        tool = choices[-1].pop(0)
        if tool in path:
            done.update(path)
            return [*path[path.index(tool) :], tool]
        if tool not in done:
            path.append(tool)
            choices.append(_next(tool, layers))
    return []


def _next(tool: str, layers: Layers) -> list[str]:
    leaf = merged(layer.leaves for layer in layers.of(tool)).get(FALLBACK)
    return _tools(leaf.value) if leaf else []


def _rules(made: Draft, names: Names) -> Iterator[Fault]:
    for item in made.rules:
        for index, pattern in enumerate(item.model.tools):
            message, fix = _misspelled(pattern, item.model.then, names)
            if message:
                yield item.fault(("tools", index), "W05", message, fix)
    if made.mode == "observe":
        yield from _observing(made)
    elif not any(_allows(item.model) for item in made.rules) and not made.has_errors:
        yield Fault(made.first_file, 0, "rules", *_NOTHING_ALLOWED)


def _allows(rule: Rule) -> bool:
    return rule.then == "allow" and rule.mode == "enforce"


def _observing(made: Draft) -> Iterator[Fault]:
    """What the policy's own mode means for its rules: it must not look as if one of them were enforced."""
    yield Fault(*made.mode_at, "mode", *_ONLY_OBSERVES)
    for item in made.rules:
        if item.model.said().get("mode") == "enforce":
            yield item.fault(("mode",), "E53", *_NOT_ENFORCED)


_ONLY_OBSERVES = (
    "this policy only observes: what it would refuse is recorded, and passes. Kill switches act all the same.",
    "to enforce it, write 'mode: enforce'.",
    "W09",
    "warning",
)
_NOT_ENFORCED = (
    "this rule says enforce, and the policy's own mode is observe: it would not be enforced.",
    "remove it; or set the policy's mode to enforce, and write 'mode: observe' at the rules that are to be watched.",
)


_NOTHING_ALLOWED = (
    "no rule allows anything: every call will be refused with no_rule.",
    "add a rule with then: allow.",
    "W06",
    "warning",
)


def _misspelled(pattern: str, then: str, names: Names) -> tuple[str, str]:
    group, dot, _ = pattern.partition(".")
    if names.has_upstream(pattern):
        near = names.nearest_tool(pattern)
        if near is None:
            return "", ""
        message = f"no tool of upstream '{group}' matches '{pattern}' (nearest: {near})."
        return message, f"write '{near}', or add an entry for '{pattern}' to tools."
    close = nearest(group.removesuffix("*"), names.upstreams)
    if not dot or (close is None and then == "deny"):
        return "", ""
    message = f"no upstream matches '{pattern}' (known: {', '.join(names.upstreams)}): this {then} has no effect."
    return message, f"did you mean '{close}.…'?" if close else f"define '{group}' in upstreams, or remove it."

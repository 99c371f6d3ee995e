"""From method and path back to the declared tool: the templates of an upstream's tools, read backwards.

The most specific one wins: segment by segment a literal comes before a part of one, and that before a whole
placeholder. Where two say the same, or a name cannot be told from the request, nobody can say which rules hold, and
the request is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import unquote

from outrider.policy.load import Policy
from outrider.policy.patterns import RAW_OPERATION, is_operation, is_prefix
from outrider.policy.plans import HttpTemplate, Plan
from outrider.raw.target import Target
from outrider.upstreams.template import PLACEHOLDER


class Unclear(ValueError):
    """A request of which nobody can say which tool it is; the sentence says what to do."""


class _Kind(IntEnum):
    """Of one segment of a template, most specific first."""

    LITERAL = 0
    PART = 1
    WHOLE = 2


@dataclass(frozen=True, slots=True)
class Found:
    """The tool that a request is, and what its path says: paths of keys with their texts."""

    tool: str
    template: HttpTemplate
    values: tuple[tuple[tuple[str, ...], str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Route:
    """One tool's path. ``tool`` is a pattern where all its tools have the same path; it cannot be told which one."""

    tool: str
    template: HttpTemplate
    rank: tuple[_Kind, ...]
    segments: tuple[re.Pattern[str], ...]
    folded: tuple[re.Pattern[str], ...]
    names: tuple[tuple[str, ...], ...]
    is_clear: bool  # what it says can be told from a path in one way only

    def read(self, segments: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], str], ...] | None:
        """What the path says, None where it is another."""
        values: list[str] = []
        for pattern, segment in zip(self.segments, segments, strict=True):
            match = pattern.fullmatch(segment)
            if match is None:
                return None
            values.extend(match.groups())
        return tuple(zip(self.names, values, strict=True))

    def resembles(self, segments: tuple[str, ...]) -> bool:
        return all(pattern.fullmatch(segment) for pattern, segment in zip(self.folded, segments, strict=True))


class Routes:
    """The tools of one upstream, by method and number of segments."""

    def __init__(self, policy: Policy, upstream: str) -> None:
        self._policy = policy
        self._upstream = upstream
        self._routes: dict[tuple[str, int], list[_Route]] = {}
        for route in _declared(policy, upstream):
            method = route.template.method.upper()
            self._routes.setdefault((method, len(route.segments)), []).append(route)

    def find(self, method: str, target: Target) -> Found | None:
        """The tool; None where it is no declared one. HEAD asks for what GET would bring. Raises Unclear."""
        found = self._find(method, target)
        if found is None and method == "HEAD":
            found = self._find("GET", target)
        return found

    def _find(self, method: str, target: Target) -> Found | None:
        candidates = self._routes.get((method, len(target.segments)), ())
        fitting = [(route, values) for route in candidates if (values := route.read(target.segments)) is not None]
        if not fitting:
            self._refuse_resembling(candidates, target)
            return self._by_name(method, target)
        best = min(route.rank for route, _ in fitting)
        of_these = [(route, values) for route, values in fitting if route.rank == best]
        route, values = of_these[0]
        if len(of_these) > 1 or not route.is_clear:
            names = ", ".join(sorted(route.tool for route, _ in of_these))
            raise Unclear(f"{method} {target.path} may be any of {names}. Call the tool by name: POST /v1/call.")
        return Found(route.tool, route.template, values)

    def _by_name(self, method: str, target: Target) -> Found | None:
        """A tool without a path of its own is at its name."""
        operation = target.segments[0] if len(target.segments) == 1 else ""
        if operation == RAW_OPERATION or not is_operation(operation, "http"):
            return None
        plan = self._policy.plan(f"{self._upstream}.{operation}")
        if plan is None or plan.http.path or plan.http.method.upper() != method:
            return None
        return Found(plan.tool, plan.http)

    def _refuse_resembling(self, candidates: list[_Route] | tuple[()], target: Target) -> None:
        """A server that does not tell upper case from lower would read a declared tool here."""
        for route in candidates:
            if route.resembles(target.segments):
                raise Unclear(
                    f"The path differs from that of {route.tool} in upper and lower case only. Write it as there."
                )


def _declared(policy: Policy, upstream: str) -> Iterator[_Route]:
    for pattern in dict.fromkeys(policy.patterns):
        if not pattern.startswith(f"{upstream}."):
            continue
        plan = _plan_of(policy, pattern)
        if plan is not None and plan.http.path:
            yield _route(pattern, plan.http)


def _plan_of(policy: Policy, pattern: str) -> Plan | None:
    """Of a prefix, that of a tool which nothing else names."""
    return policy.plan(pattern[:-1] + "any" if is_prefix(pattern) else pattern)


def _route(tool: str, template: HttpTemplate) -> _Route:
    parts = [part for part in template.path.split("/")[1:] if part]
    texts = [_regex(part) for part in parts]
    return _Route(
        tool,
        template,
        tuple(_kind(part) for part in parts),
        tuple(re.compile(text, re.S) for text in texts),
        tuple(re.compile(text, re.S | re.I) for text in texts),
        tuple(tuple(found[1][1:].split(".")) for part in parts for found in PLACEHOLDER.finditer(part)),
        not is_prefix(tool) and all(len(PLACEHOLDER.findall(part)) <= 1 for part in parts),
    )


def _kind(part: str) -> _Kind:
    if not PLACEHOLDER.search(part):
        return _Kind.LITERAL
    return _Kind.WHOLE if PLACEHOLDER.fullmatch(part) else _Kind.PART


def _regex(part: str) -> str:
    literals = PLACEHOLDER.split(part)[::2]
    return "(.+)".join(re.escape(unquote(literal)) for literal in literals)

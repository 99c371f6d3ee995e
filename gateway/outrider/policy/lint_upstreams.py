"""What is wrong with upstreams, their fault domains and the HTTP templates of their tools."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from outrider.errors import Fault
from outrider.policy import plans
from outrider.policy.compile import LOCAL, domain_leaves
from outrider.policy.draft import Draft, Item
from outrider.policy.layers import Keys, Layers, Leaf
from outrider.policy.references import looks_secret
from outrider.policy.schema_upstreams import Upstream
from outrider.policy.units import format_duration

_BRACES = re.compile(r"\{([^{}]*)\}")
_ARGUMENT = re.compile(r"args(\.[A-Za-z0-9_-]+)+")
_NAMED = re.compile(r"[A-Za-z_]\w*([.:][^{}\s]+)+")
MIN_CALLS: Keys = ("breaker", "minCalls")
WINDOW: Keys = ("breaker", "window")
RATE_LIMITS: Keys = ("rateLimits",)
OPEN_FOR: Keys = ("breaker", "openFor")
OPEN_FOR_MAX: Keys = ("breaker", "openForMax")


def check_upstreams(made: Draft, layers: Layers, known: Mapping[str, plans.Upstream]) -> Iterator[Fault]:
    """Codes E24, E25, E36, E45, E48, E51, E54."""
    for item in made.upstreams.values():
        yield from _whereabouts(item)
        yield from _startup(item)
    for name, upstream in known.items():
        parts = (made.sections.get("domain"), made.upstreams.get(name))
        if all(part is None or part.whole for part in parts):
            yield from _domain(domain_leaves(made, name), upstream.domain)
    for layer in layers.entries:
        for keys, leaf in layer.leaves.items():
            if keys[0] == "http":
                yield from _template(keys, leaf)


def _whereabouts(item: Item[Upstream]) -> Iterator[Fault]:
    name, said = str(item.path[-1]), item.model.said()
    if name == LOCAL:
        for key in said.keys() & {"http", "mcp", "health"}:
            message = f"'{key}' does not fit upstream 'local': its tools run in the agents' own processes."
            yield item.fault((key,), "E51", message, "remove it, or give the upstream another name.")
    elif not said.keys() & {"http", "mcp"} and item.whole:
        fix = "write 'http: {url: …}' or 'mcp: {url: …}' in it."
        yield item.fault((), "E45", f"upstream '{name}' does not say where it is.", fix)
    elif {"http", "mcp"} <= said.keys():
        message = f"upstream '{name}' is both an HTTP service and an MCP server."
        yield item.fault(("mcp",), "E45", message, "make two upstreams of it.")
    elif "health" in said and item.whole and said.get("mcp") is not None and said["mcp"].command is not None:
        message = f"'health' does not fit upstream '{name}': its server is a child, which is watched without it."
        yield item.fault(("health",), "E51", message, "remove it.")


def _startup(item: Item[Upstream]) -> Iterator[Fault]:
    health = item.model.said().get("health")
    startup = health.said().get("startup") if health else None
    if startup is not None and startup.success_threshold != 1:
        keys = ("health", "startup", "successThreshold")
        yield item.fault(
            keys, "E25", "health.startup.successThreshold must be 1.", "remove it: one success is a start."
        )


def _domain(leaves: Mapping[Keys, Leaf], settings: plans.DomainSettings) -> Iterator[Fault]:
    breaker = settings.breaker
    if breaker.open_for_s > breaker.open_for_max_s:
        at = leaves.get(OPEN_FOR) or leaves[OPEN_FOR_MAX]
        message = (
            f"breaker.openFor ({format_duration(breaker.open_for_s)}) is longer than "
            f"breaker.openForMax ({format_duration(breaker.open_for_max_s)})."
        )
        yield at.item.fault(at.keys, "E54", message, "shorten openFor or lengthen openForMax.")
    for limit in settings.rate_limits:
        if limit.rate_per_s * breaker.window_s + limit.burst >= breaker.min_calls or not breaker.enabled:
            continue
        at = leaves.get(MIN_CALLS) or leaves.get(WINDOW) or leaves[RATE_LIMITS]
        message = (
            f"breaker.minCalls ({breaker.min_calls}) cannot be reached within breaker.window "
            f"{format_duration(breaker.window_s)} at the rate limit of {limit.rate_per_s:g}/s; the breaker can never "
            "open on its ratio."
        )
        yield at.item.fault(at.keys, "E24", message, "lower minCalls or lengthen window.")


# ── templates of tools ───────────────────────────────────────────────────────────────────────────────────────────


def _template(keys: Keys, leaf: Leaf) -> Iterator[Fault]:
    part = keys[1]
    if part == "path":
        yield from _path(leaf)
    if part == "body":
        for text in _texts(leaf.value):
            yield from _placeholders(leaf, [name for name in _BRACES.findall(text) if _NAMED.fullmatch(name)])
    elif part in {"path", "query", "headers"}:
        yield from _placeholders(leaf, _BRACES.findall(leaf.value))
        if re.search(r"[{}]", _BRACES.sub("", leaf.value)):
            yield leaf.item.fault(leaf.keys, "E48", "a brace has no partner.", "write {args.name} to name an argument.")
        if looks_secret(keys[-1], leaf.value):
            message = f"secret-looking literal in {'.'.join(keys)}."
            fix = "write it into the upstream's http.headers as {env:NAME}, and change the secret: it stood in a file."
            yield leaf.item.fault(leaf.keys, "E36", message, fix)


def _placeholders(leaf: Leaf, names: list[str]) -> Iterator[Fault]:
    for name in names:
        if _ARGUMENT.fullmatch(name):
            continue
        if name.startswith(("env:", "file:")):
            fix = "write secrets into the upstream's http.headers."
        else:
            fix = f"write {{args.{name.rpartition('.')[2] or 'name'}}}."
        message = f"the template {{{name[:60]}}} must start with 'args.': it can only name an argument."
        yield leaf.item.fault(leaf.keys, "E48", message, fix)


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a body. The depth is bounded by the reader."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _path(leaf: Leaf) -> Iterator[Fault]:
    path = leaf.value
    if not path.startswith("/") or path.startswith("//"):
        yield leaf.item.fault(leaf.keys, "E48", "a path begins with one '/'.", "write for example /accounts/{args.id}.")
    literal = _BRACES.sub("x", path)
    if re.search(r"[?#\s\\]", literal):
        message = "a path has no '?', '#', '\\' and no space."
        yield leaf.item.fault(leaf.keys, "E48", message, "write parameters into http.query.")
    if {".", ".."} & set(literal.split("/")):
        yield leaf.item.fault(leaf.keys, "E48", "a path has no '.' and '..'.", "write the path that is meant.")

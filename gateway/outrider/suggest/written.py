"""The suggested policy: what was said already, and what is guessed beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.errors import Fault
from outrider.ledger.query import Filter, search, stream
from outrider.policy.load import SECRETS_MISSING, check_texts
from outrider.policy.plans import Bulkhead, Plan, Upstream
from outrider.policy.schema import API_VERSION, KIND
from outrider.policy.units import format_duration, parse_duration
from outrider.suggest import guesses
from outrider.suggest.access import callable_tool, rules
from outrider.suggest.carried import Carried, carried
from outrider.suggest.guesses import Guess
from outrider.suggest.seen import Place, Seen, Tool, seen
from outrider.suggest.text import Noted, comment, dump

FILE = "policy.yaml"
_FILE = re.compile(r"\{file:([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The text of a policy, what ``check`` says of it, and what it was made of."""

    text: str
    faults: tuple[Fault, ...]
    calls: int
    agents: int
    tools: int
    left_out: dict[str, int]


def suggestion(folder: Path, since: float | None) -> Suggestion:
    """A starting policy from the ledger of a data folder. Raises Misconfigured when it cannot be read."""
    found = seen(stream(folder, Filter(since=since)))
    return suggested(found, carried(folder, found.digest or _last_digest(folder)), folder)


def _last_digest(folder: Path) -> str:
    """Of the policy in force, where it came into force before the time that is looked at."""
    records = search(folder, Filter(type="policy.loaded"), limit=1).records
    return str(records[0].get("policy_digest", "")) if records else ""


def suggested(found: Seen, known: Carried, folder: Path) -> Suggestion:
    """The same from counts. Guesses about whole sections are left out where they do not agree with what was said."""
    for careful in (False, True):
        text = _head(found, known) + dump(_document(found, known, careful=careful))
        _, faults = check_texts({FILE: text.encode()}, folder, forgive=SECRETS_MISSING)
        if not any(fault.severity == "error" and fault.code not in SECRETS_MISSING for fault in faults):
            break
    return Suggestion(
        text, faults, found.calls, len(found.agents), len(found.tools), dict(sorted(found.left_out.items()))
    )


def _head(found: Seen, known: Carried) -> str:
    lines = [
        f"A starting policy, suggested from {found.calls} calls of {len(found.agents)} agents to {len(found.tools)}",
        f"tools that the ledger saw from {found.first[:19] or '-'} to {found.last[:19] or '-'} (UTC).",
        "Each REVIEW marks a guess, with its reason: read it, correct it, remove the mark. Then:",
        "  outrider check --policy DIR       and, before it is enforced, try it with: mode: observe",
    ]
    if known.policy is not None:
        lines.append(
            f"What the policy {known.policy.digest[:12]} said is carried over as it was, without its comments."
        )
    lines += [f"More than is kept, and left out: {count} {what}." for what, count in sorted(found.left_out.items())]
    return "".join(f"# {comment(line)}\n" for line in lines)


def _document(found: Seen, known: Carried, *, careful: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND}
    document |= {key: value for key, value in known.rest.items() if key == "metadata"}
    if defaults := _defaults(known, careful=careful):
        document["defaults"] = defaults
    document |= {key: value for key, value in known.rest.items() if key != "metadata"}
    if upstreams := dict(_upstreams(found, known, careful=careful)):
        document["upstreams"] = upstreams
    if tools := list(_tools(found, known, careful=careful)):
        document["tools"] = tools
    entries, comments = rules(found, known)
    document["rules"] = Noted(entries, above=tuple(comments))
    return document


# ── defaults ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _impatient(known: Carried, *, careful: bool) -> bool:
    """Whether the first days' patience ends: a policy that observes waits long, to see how long things take."""
    return not careful and (known.policy is None or known.observes)


def _defaults(known: Carried, *, careful: bool) -> dict[str, Any]:
    defaults = deepcopy(known.defaults)
    if _impatient(known, careful=careful):
        before = known.defaults.get("timeouts", {})
        default = guesses.DEFAULT_TIMEOUTS
        timeouts = {
            "total": format_duration(default.total_s),
            "perTry": format_duration(default.per_try_s),
            "connect": before.get("connect", format_duration(default.connect_s)),
        }
        why = "REVIEW: for tools that were seen too seldom to tell"
        defaults["timeouts"] = Noted(timeouts, why)
    return defaults


# ── upstreams ────────────────────────────────────────────────────────────────────────────────────────────────────


def _upstreams(found: Seen, known: Carried, *, careful: bool) -> Iterator[tuple[str, Any]]:
    names = [*known.upstreams, *(["local"] if "local" not in known.upstreams else [])]
    for name in names:
        raw = deepcopy(known.upstreams.get(name, {}))
        place = found.places.get(name)
        guessed = dict(_domain(place, raw, known, careful=careful)) if place is not None else {}
        if guessed:
            raw["domain"] = _merged(raw.get("domain", {}), guessed)
        if raw:
            yield name, Noted(raw, above=(*(_busy(place) if place is not None else ()), *_relative(raw)))


def _relative(raw: dict[str, Any]) -> tuple[str, ...]:
    """A word on files: they are looked for beside the policy, and this one may stand elsewhere."""
    http = raw.get("http", {})
    named = [http.get(key, "/") for key in ("caFile", "certFile", "keyFile")]
    named += [path for text in (http.get("url", ""), *http.get("headers", {}).values()) for path in _FILE.findall(text)]
    if all(path.startswith("/") for path in named):
        return ()
    return ("REVIEW: names files by relative paths, which start at this policy's own folder",)


def _busy(place: Place) -> tuple[str, ...]:
    return (
        f"{place.attempts} attempts, {place.faults} failed as a broken upstream fails, at most {place.longest_run} in "
        f"a row; at most {place.most_at_once} at once, {place.most_a_second} in a second",
    )


def _domain(place: Place, raw: dict[str, Any], known: Carried, *, careful: bool) -> Iterator[tuple[str, Any]]:
    """What is guessed of a fault domain, where nobody said it."""
    own, common = raw.get("domain", {}), known.rest.get("domain", {})
    upstream = known.policy.upstreams.get(place.name) if known.policy is not None else None
    slots = guesses.max_concurrent(place, _in_force(upstream).max_concurrent)
    if slots is not None and "maxConcurrent" not in {**common.get("bulkhead", {}), **own.get("bulkhead", {})}:
        yield "bulkhead", {"maxConcurrent": _noted(slots)}
    if place.name == "local" or careful:
        return
    for key, guess in (("breaker", guesses.breaker(place)), ("rateLimits", guesses.rate_limit(place))):
        if guess is not None and key not in own and key not in common:
            yield key, _noted(guess)


def _in_force(upstream: Upstream | None) -> Bulkhead:
    return upstream.domain.bulkhead if upstream is not None else Bulkhead()


def _merged(before: dict[str, Any], guessed: dict[str, Any]) -> dict[str, Any]:
    found = dict(before)
    for key, value in guessed.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = {**found[key], **value} if both else value
    return found


def _noted(guess: Guess) -> Noted:
    return Noted(guess.value, f"REVIEW: {guess.why}")


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tools(found: Seen, known: Carried, *, careful: bool) -> Iterator[Any]:
    """What was said, in its order, with what is guessed of the same tools; then the other tools that were seen."""
    guessed = {
        name: dict(_guessed(tool, known, careful=careful))
        for name, tool in sorted(found.tools.items())
        if callable_tool(name, known)
    }
    for part in known.tools:
        more = guessed.pop(part.raw["match"], None)
        if more is None:
            yield Noted(part.raw, above=(f"from {part.at}",))
        else:
            told = _measured(found.tools[part.raw["match"]])
            yield Noted({**part.raw, **more}, above=(told, f"from {part.at}"))
    for name, more in guessed.items():
        yield Noted({"match": name, **more}, above=(_measured(found.tools[name]),))


def _measured(tool: Tool) -> str:
    return (
        f"{tool.calls} calls by {len(tool.agents)} agent(s); {tool.failed} of {tool.attempts} attempts failed; "
        f"{guesses.took(tool)}"
    )


def _guessed(tool: Tool, known: Carried, *, careful: bool) -> Iterator[tuple[str, Any]]:
    plan = known.policy.plan(tool.name) if known.policy is not None else Plan(tool.name, Upstream("local"))
    assert plan is not None, "the tool is callable"
    if not known.says(tool.name, "effect") and known.defaults.get("effect", "write") == "write":
        method = plan.http.method if "http.method" in plan.sources else ""
        yield "effect", _noted(guesses.effect(tool.name.partition(".")[2], method, tool.declares))
    if known.says(tool.name, "timeouts") or plan.composite:
        return
    default_s = plan.timeouts.per_try_s
    if _impatient(known, careful=careful):
        default_s = guesses.DEFAULT_TIMEOUTS.per_try_s
    guess = guesses.per_try(tool, plan.timeouts.per_try_s, default_s)
    if guess is not None:
        total_s = guesses.total_s(tool, parse_duration(guess.value) or 0.0, plan)
        yield "timeouts", {"perTry": _noted(guess), "total": format_duration(total_s)}

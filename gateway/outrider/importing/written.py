"""The policy's text of an import: what was declared, and what is guessed of it, each guess with its reason."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider.errors import Fault
from outrider.importing.tools import Imported, Tool
from outrider.policy.load import check_texts
from outrider.policy.schema import API_VERSION, KIND
from outrider.suggest.text import Noted, comment, dump

MAX_NOTES = 50
TOOLS_A_RULE = 200
_ENV = re.compile(r"\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Written:
    """``faults`` is what ``check`` says of it once ``needs``, its environment variables, are set."""

    text: str
    faults: tuple[Fault, ...]
    needs: tuple[str, ...]


def written(found: Imported, source: str, folder: Path) -> Written:
    """The text, and what is to be said of it. ``folder`` is where it will be: relative paths start there."""
    text = _head(found, source) + dump(_document(found))
    needs = tuple(dict.fromkeys(_ENV.findall(text)))
    env: Mapping[str, str] = dict.fromkeys(needs, "sample") | dict(os.environ)
    _, faults = check_texts({"imported.yaml": text.encode()}, folder, env=env)
    return Written(text, faults, needs)


def _head(found: Imported, source: str) -> str:
    lines = [
        f"A starting policy for {found.title[:100] or found.name}, imported from {source[:200]}: "
        f"{len(found.tools)} tools.",
        "Each REVIEW marks a guess, with its reason: read it, correct it, remove the mark. Then:",
        "  outrider check --policy DIR",
        *found.notes[:MAX_NOTES],
    ]
    if len(found.notes) > MAX_NOTES:
        lines.append(f"and {len(found.notes) - MAX_NOTES} more remarks of that kind")
    lines += [f"left out: {count} {what}" for what, count in sorted(found.left_out.items())]
    return "".join(f"# {comment(line)}\n" for line in lines)


def _document(found: Imported) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "upstreams": {found.name: _upstream(found)},
        **({"tools": [_tool(found, tool) for tool in found.tools]} if found.tools else {}),
        "rules": list(_rules(found)),
    }


def _upstream(found: Imported) -> dict[str, Any]:
    if found.mcp:
        return {"mcp": found.mcp}
    http: dict[str, Any] = {"url": found.url}
    if found.headers:
        http["headers"] = Noted(found.headers, f"REVIEW: from {found.credential}")
    return {"http": http}


def _tool(found: Imported, tool: Tool) -> Noted:
    entry: dict[str, Any] = {
        "match": f"{found.name}.{tool.name}",
        "effect": Noted(tool.effect.value, f"REVIEW: {tool.effect.why}"),
    }
    if tool.key_header:
        entry["idempotency"] = {"send": {"header": tool.key_header}}
    if tool.template:
        entry["http"] = tool.template
    above = [tool.summary] if tool.summary else []
    return Noted(entry, above=(*above, *(f"REVIEW: {remark}" for remark in tool.remarks)))


def _rules(found: Imported) -> Iterator[Any]:
    """What reads is allowed; what changes something waits for a person who has looked at it."""
    reads = [f"{found.name}.{tool.name}" for tool in found.tools if tool.effect.value == "read"]
    others = [f"{found.name}.{tool.name}" for tool in found.tools if tool.effect.value != "read"]
    if found.mcp:
        reads.append(f"{found.name}.mcp:*")
    for n, part in enumerate(_parts(reads)):
        rule = {"name": f"{found.name}: reads{_number(n)}", "tools": part, "then": "allow"}
        yield Noted(rule, above=("REVIEW: everybody may call what only reads; 'agents: [NAME]' says who",))
    for n, part in enumerate(_parts(others)):
        rule = {
            "name": f"{found.name}: changes{_number(n)}",
            "tools": part,
            "then": "deny",
            "reason": "imported, and not yet looked at by a person",
        }
        yield Noted(rule, above=("REVIEW: what may change something is denied until you write 'then: allow' here",))


def _parts(names: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(names), TOOLS_A_RULE):
        yield names[at : at + TOOLS_A_RULE]


def _number(n: int) -> str:
    return f" {n + 1}" if n else ""

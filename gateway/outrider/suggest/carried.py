"""What the policy in force says: people said it, so it is kept as it is written, and nothing is guessed over it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outrider.errors import Misconfigured
from outrider.ledger.query import policy_texts
from outrider.policy.load import SECRETS_MISSING, Policy, check_texts
from outrider.policy.patterns import matches
from outrider.policy.strictyaml import Document, read

_ELSEWHERE = frozenset({"apiVersion", "kind", "mode", "defaults", "upstreams", "tools", "rules"})


@dataclass(frozen=True, slots=True)
class Part:
    """An entry of a list as it is written, and its place: ``file:line``."""

    raw: dict[str, Any]
    at: str


@dataclass(slots=True)
class Carried:
    """The policy in force, section by section. ``policy`` is None where the ledger knows of none."""

    policy: Policy | None = None
    rest: dict[str, Any] = field(default_factory=dict)  # metadata, domain, limits and whatever else stands alone
    defaults: dict[str, Any] = field(default_factory=dict)
    upstreams: dict[str, dict[str, Any]] = field(default_factory=dict)
    tools: list[Part] = field(default_factory=list)
    rules: list[Part] = field(default_factory=list)

    def says(self, tool: str, key: str) -> bool:
        """Whether an entry of ``tools`` says this key for this tool."""
        return any(key in part.raw and matches(part.raw["match"], tool) for part in self.tools)

    @property
    def observes(self) -> bool:
        return self.policy is not None and self.policy.observes


def carried(folder: Path, digest: str) -> Carried:
    """From the text that the ledger of this data folder keeps by digest. Raises Misconfigured."""
    texts = policy_texts(folder, digest)
    return of_texts(texts, folder) if texts is not None else Carried()


def of_texts(texts: dict[str, str], folder: Path) -> Carried:
    """From the texts of a policy that was loaded once."""
    raw = {name: text.encode() for name, text in texts.items()}
    policy, faults = check_texts(raw, folder, forgive=SECRETS_MISSING)
    if policy is None:
        raise Misconfigured([fault for fault in faults if fault.severity == "error"])
    found = Carried(policy)
    for name in sorted(raw):
        _add(found, read(name, raw[name]))
    return found


def _add(found: Carried, document: Document) -> None:
    data = deepcopy(document.data)
    found.defaults |= data.get("defaults", {})
    found.upstreams |= data.get("upstreams", {})
    for name, parts in (("tools", found.tools), ("rules", found.rules)):
        for index, entry in enumerate(data.get(name, [])):
            parts.append(Part(entry, f"{document.file}:{document.place.line_of((name, index))}"))
    for key, value in data.items():
        if key not in _ELSEWHERE:
            found.rest[key] = _joined(found.rest.get(key), value)


def _joined(before: Any, value: Any) -> Any:
    """A section that several files may write a part of."""
    if isinstance(before, dict) and isinstance(value, dict):
        return before | value
    if isinstance(before, list) and isinstance(value, list):
        return before + value
    return value

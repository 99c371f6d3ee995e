"""From files to validated sections: the files of a folder merged into one draft, nothing compiled yet.

Each section, each upstream, tool and rule is validated by itself, so that a fault in one hides no fault in another.
Of what is not valid, the valid rest stays (``whole`` is False): it is checked further, but never compiled, and nobody
is told that it does not exist.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from outrider.errors import Fault
from outrider.policy import schema
from outrider.policy.faults import translate, unknown_key
from outrider.policy.fields import UPSTREAM_NAME, Model
from outrider.policy.schema_agents import Agents
from outrider.policy.schema_identity import Identity
from outrider.policy.schema_runs import Runs
from outrider.policy.schema_upstreams import Domain, Upstream
from outrider.policy.strictyaml import MAX_DEPTH, Document, Path, Place, show_path

M = TypeVar("M", bound=Model)

MAX_ENTRIES = 20_000
"""The most tools, rules or upstreams a policy has."""

SECTIONS: dict[str, type[Model]] = {
    "metadata": schema.Metadata,
    "defaults": schema.Defaults,
    "domain": Domain,
    "limits": schema.Limits,
    "ledger": schema.LedgerSection,
    "kills": schema.Kills,
    "runs": Runs,
    "identity": Identity,
    "agents": Agents,
}
"""What is said at most once over all files."""


STAND_INS: dict[type[Model], dict[str, str]] = {schema.Rule: {"then": "deny"}}
"""What stands for a required word that was misspelled, so that the condition beside it is checked all the same."""


@dataclass(frozen=True, slots=True)
class Item(Generic[M]):
    """One validated section, with where it stands. ``path`` is its path in its document. ``whole`` is False where
    only the rest of it is left after its faults were told."""

    model: M
    file: str
    place: Place
    path: Path
    whole: bool = True

    def at(self, *keys: str | int) -> str:
        """``file:line`` of a key below it."""
        return f"{self.file}:{self.place.line_of(keys)}"

    def fault(self, keys: Path, code: str, message: str, fix: str) -> Fault:
        """A fault at a key below it; a code that begins with W is a warning."""
        severity = "warning" if code.startswith("W") else "error"
        line, path = self.place.line_of(keys), show_path((*self.path, *keys))
        return Fault(self.file, line, path, message, fix, code, severity)


@dataclass(slots=True)
class Draft:
    """All files together. ``faults`` grows while the draft is made and checked."""

    faults: list[Fault] = field(default_factory=list)
    sections: dict[str, Item[Any]] = field(default_factory=dict)
    upstreams: dict[str, Item[Upstream]] = field(default_factory=dict)
    tools: list[Item[schema.Tool]] = field(default_factory=list)
    rules: list[Item[schema.Rule]] = field(default_factory=list)
    first_file: str = ""  # where what is missing altogether is told
    mode: Literal["enforce", "observe"] = "enforce"
    mode_at: tuple[str, int] = ("", 0)  # the file and line that say so
    unnamed: set[str] = field(default_factory=set)  # upstreams of which nothing could be kept but the name

    def section(self, name: str, kind: type[M]) -> M | None:
        """A section that was said and is valid."""
        item = self.sections.get(name)
        return item.model if item is not None and isinstance(item.model, kind) else None

    @property
    def upstream_names(self) -> set[str]:
        """Every upstream there is, the faulty ones and ``local`` included."""
        return {"local", *self.upstreams, *self.unnamed}

    @property
    def has_errors(self) -> bool:
        return any(fault.severity == "error" for fault in self.faults)


def draft(documents: list[Document]) -> Draft:
    """Merge and validate. Codes E01 to E05, E23, E44 to E48, E52, E53."""
    made = Draft(first_file=documents[0].file if documents else "")
    first: dict[str, str] = {}  # what was said, and where
    for document in documents:
        made.faults.extend(document.faults)
        if document.data is not None or not document.faults:
            _File(made, document, first).add()
    return made


class _File:
    def __init__(self, made: Draft, document: Document, first: dict[str, str]) -> None:
        self._draft = made
        self._document = document
        self._first = first

    def add(self) -> None:
        data = self._document.data
        if not isinstance(data, dict):
            fix = f"begin it with 'apiVersion: {schema.API_VERSION}' and 'kind: {schema.KIND}'."
            message = "the file holds no policy." if data is None else "a policy is a mapping of keys."
            self._fault((), "E43", message, fix)
            return
        self._head("apiVersion", schema.API_VERSION)
        self._head("kind", schema.KIND)
        for key, value in data.items():
            self._section(key, value)

    def _fault(self, path: Path, code: str, message: str, fix: str) -> None:
        line = self._document.place.line_of(path)
        self._draft.faults.append(Fault(self._document.file, line, show_path(path), message, fix, code))

    def _head(self, key: str, expected: str) -> None:
        """Each file says what it is, so that a stray file in the folder is an error and not a part of the policy."""
        found = self._document.data.get(key)
        if found is None:
            self._fault((), "E45", f"'{key}' is missing.", f"write '{key}: {expected}' at the top of the file.")
        elif found != expected:
            self._fault((key,), "E44", f"{key} '{str(found)[:60]}' is not known.", f"write {expected}.")

    def _section(self, key: str, value: Any) -> None:
        if key in {"apiVersion", "kind"}:
            return
        if key in SECTIONS:
            self._single(key, self._item(SECTIONS[key], value, (key,)))
        elif key == "mode":
            self._mode(value)
        elif key == "upstreams":
            self._upstreams(value)
        elif key in {"tools", "rules"}:
            self._list(key, value)
        else:
            code, message, fix = unknown_key(schema.Policy, (key,), value)
            self._fault((key,), code, message, fix)

    def _mode(self, value: Any) -> None:
        item = self._item(schema.Head, {"mode": value}, ())
        if self._once("mode", ("mode",)) and item is not None:
            self._draft.mode = item.model.mode
            self._draft.mode_at = (item.file, item.place.line_of(("mode",)))

    def _single(self, key: str, item: Item[Any] | None) -> None:
        known = self._draft.sections.get(key)
        if key == "metadata" and known is not None and item is not None and known.model == item.model:
            return  # each file may repeat the policy's name
        if self._once(key, (key,)) and item is not None:
            self._draft.sections[key] = item

    def _once(self, what: str, path: Path) -> bool:
        """Whether this is the first time that ``what`` is said over all files; otherwise a fault."""
        here = f"{self._document.file}:{self._document.place.line_of(path)}"
        before = self._first.get(what)
        if before is None:
            self._first[what] = here
            return True
        message = f"{what} is said twice over the files of this policy (first at {before})."
        self._fault(path, "E46", message, "keep one of the two.")
        return False

    def _item(self, kind: type[M], value: Any, path: Path) -> Item[M] | None:
        place = self._document.place
        for step in path:
            place = place.below(step) or place
        try:
            return Item(kind.model_validate(value), self._document.file, place, path)
        except ValidationError as error:
            self._draft.faults.extend(translate(kind, error, self._document.file, place, path))
            rest = _rest(kind, value, error)
            return None if rest is None else Item(rest, self._document.file, place, path, whole=False)

    def _upstreams(self, value: Any) -> None:
        if not isinstance(value, dict):
            fix = "write 'NAME: {http: {url: …}}' below it."
            self._fault(("upstreams",), "E44", "must be a mapping of names to upstreams.", fix)
            return
        for name, upstream in value.items():
            path: Path = ("upstreams", name)
            if not _named_well(name):
                message = f"'{name[:60]}' is not an upstream's name."
                self._fault(path, "E47", message, "use letters, digits, '-' and single '_', beginning with a letter.")
                self._draft.unnamed.add(name)
                continue
            item = self._item(Upstream, upstream, path)
            if item is None:
                self._draft.unnamed.add(name)
            elif self._once(f"the upstream '{name}'", path):
                self._draft.upstreams[name] = item

    def _list(self, key: str, value: Any) -> None:
        if not isinstance(value, list):
            self._fault((key,), "E44", "must be a list.", "begin each entry with '- '.")
            return
        if len(value) > MAX_ENTRIES:
            self._fault((key,), "E42", f"has {len(value)} entries; at most {MAX_ENTRIES}.", "use prefixes with '*'.")
            return
        for index, entry in enumerate(value):
            if key == "tools":
                self._tool(entry, (key, index))
            else:
                self._rule(entry, (key, index))

    def _tool(self, entry: Any, path: Path) -> None:
        item = self._item(schema.Tool, entry, path)
        if item is not None:
            self._draft.tools.append(item)

    def _rule(self, entry: Any, path: Path) -> None:
        item = self._item(schema.Rule, entry, path)
        if item is not None and self._once(f"the rule '{item.model.name}'", path):
            self._draft.rules.append(item)


def _rest(kind: type[M], value: Any, error: ValidationError) -> M | None:
    """What is left of a section without what is wrong in it, as much as possible; None where nothing can be kept."""
    paths = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        path = tuple(step for step in detail["loc"] if step != "[key]")
        paths.append(path[:-1] if detail["type"] == "missing" else path)
    for longest in (MAX_DEPTH, 1):
        rest = deepcopy(value)
        for path in paths:
            _prune(rest, path[:longest])
        try:
            return kind.model_validate({**STAND_INS.get(kind, {}), **rest} if isinstance(rest, dict) else rest)
        except ValidationError:
            continue
    return None


def _prune(value: Any, path: Path) -> None:
    """Remove what ``path`` leads to. A list goes whole: without one of its entries, the others would change places."""
    keys = list(takewhile(lambda step: isinstance(step, str), path))
    for key in keys[:-1]:
        value = value.get(key) if isinstance(value, dict) else None
    if keys and isinstance(value, dict):
        value.pop(keys[-1], None)


def _named_well(name: str) -> bool:
    return re.match(UPSTREAM_NAME, name) is not None and "__" not in name

"""Where each value of a plan stands: file and line, or ``built in``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from outrider.policy import schema, schema_upstreams
from outrider.policy.draft import Draft, Item, draft
from outrider.policy.fields import Model
from outrider.policy.layers import WHOLE, Keys, Layers, Leaf, Leaves, leaves_of
from outrider.policy.strictyaml import Document, Path, read

BUILT_IN = "built in"
LOCAL = "local"
NOT_SHOWN = "«not shown»"
"""What stands for a header's text that is written out: nobody can know whether it is a secret."""

_REFERENCE = re.compile(r"\{((?:env|file):[^{}]*)\}")
_ONLY_HTTP: tuple[Keys, ...] = (("http",), ("timeouts", "connect"), ("timeouts", "idle"))
_ONLY_LOCAL: tuple[Keys, ...] = (("placement",), ("connectErrors",), ("composite",))


@dataclass(frozen=True, slots=True)
class Value:
    """One value in force, as it is written; ``over`` is what less specific layers said, the nearest first."""

    key: str
    value: Any
    at: str
    over: tuple[tuple[Any, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        over = [{"value": value, "at": at} for value, at in self.over]
        return {"key": self.key, "value": self.value, "at": self.at, "over": over}


class Places:
    """The texts of one policy, read again for their lines."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._documents: dict[str, Document] = {}
        for name, text in texts.items():
            self._documents[name] = read(name, text.encode())
        self._draft: Draft = draft(list(self._documents.values()))
        self._layers = Layers(self._draft)

    @property
    def mode_at(self) -> str:
        file, line = self._draft.mode_at
        return f"{file}:{line}" if file else BUILT_IN

    def plan(self, tool: str) -> list[Value]:
        """Every key of the tool's plan. Those that say nothing about this kind of upstream are left out."""
        beside = _ONLY_LOCAL if self._is_http(tool) else _ONLY_HTTP
        known = _defaults(schema.Tool, skip=(("match",), *beside))
        said = [layer.leaves for layer in self._layers.of(tool)]
        return list(self._values(known, said, beside))

    def domain(self, upstream: str) -> list[Value]:
        """Every setting of the upstream's fault domain."""
        common, own = self._draft.sections.get("domain"), self._draft.upstreams.get(upstream)
        said = [leaves_of(common) if common else {}, leaves_of(own, under=("domain",)) if own else {}]
        return list(self._values(_defaults(schema_upstreams.Domain), said))

    def upstream(self, upstream: str) -> list[Value]:
        """How the upstream is reached and probed. Headers are named; only a reference to a secret is shown."""
        own = self._draft.upstreams.get(upstream)
        if own is None:
            return []
        said = {keys: leaf for keys, leaf in leaves_of(own).items() if keys[0] != "domain"}
        known: dict[Keys, Any] = {}
        for section, model in _SECTIONS.items():
            if any(keys[: len(section)] == section for keys in said):
                known |= {(*section, *keys): value for keys, value in _defaults(model).items()}
        return list(self._values(known, [said]))

    def url(self, upstream: str) -> str:
        """The base address as it is written."""
        own = self._draft.upstreams.get(upstream)
        place = (own.model.http or own.model.mcp) if own is not None else None
        return str(place.url or "") if place is not None else ""

    def headers(self, upstream: str) -> dict[str, str]:
        """The upstream's own headers: names, and where their secrets come from."""
        prefixes = ("http.headers.", "mcp.headers.")
        return {
            value.key.split(".", 2)[2]: value.value
            for value in self.upstream(upstream)
            if value.key.startswith(prefixes)
        }

    def _is_http(self, tool: str) -> bool:
        return tool.partition(".")[0] != LOCAL

    def _values(
        self, known: Mapping[Keys, Any], said: Iterable[Leaves], beside: tuple[Keys, ...] = ()
    ) -> Iterator[Value]:
        layers = [layer for layer in said if layer]
        for keys in _in_order(known, layers):
            if any(keys[: len(skipped)] == skipped for skipped in beside):
                continue
            written = [self._written(layer[keys]) for layer in reversed(layers) if keys in layer]
            if not written:
                written, rest = [(known[keys], BUILT_IN)], []
            else:
                rest = [*written[1:], *([(known[keys], BUILT_IN)] if known.get(keys) is not None else [])]
            yield Value(".".join(keys), *written[0], over=tuple(rest))

    def _written(self, leaf: Leaf) -> tuple[Any, str]:
        if leaf.item.path[0] == "upstreams" and "headers" in leaf.keys:
            return _reference(str(leaf.value)), leaf.where
        return _at(self._documents[leaf.item.file].data, leaf.item, leaf.keys), leaf.where


_SECTIONS: dict[Keys, type[Model]] = {
    ("http",): schema_upstreams.HttpUpstream,
    ("health", "startup"): schema_upstreams.Probe,
    ("health", "readiness"): schema_upstreams.Probe,
}


def _reference(text: str) -> str:
    """Where a header's secret comes from, and never what is written around it."""
    found = _REFERENCE.findall(text)
    return f"«{', '.join(found)}»" if found else NOT_SHOWN


def _at(data: Any, item: Item[Any], keys: Path) -> Any:
    """What stands there, as it is written: ``30s`` and not 30.0."""
    for step in (*item.path, *keys):
        data = data[step]
    return data


def _defaults(model: type[Model], skip: tuple[Keys, ...] = (), under: Keys = ()) -> dict[Keys, Any]:
    """Every key of a section with its default as the schema shows it; None where it has none."""
    found: dict[Keys, Any] = {}
    for name, field in model.model_fields.items():
        keys = (*under, str(field.alias or name))
        if keys in skip:
            continue
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Model) and keys not in WHOLE:
            found |= _defaults(inner, skip, keys)
        else:
            extra = field.json_schema_extra
            found[keys] = extra.get("default") if isinstance(extra, dict) else None
    return found


def _in_order(known: Mapping[Keys, Any], layers: list[Leaves]) -> list[Keys]:
    """The keys as the schema has them; entries of maps, which it cannot know, behind the map they belong to. A map's
    own key goes once it has entries."""
    free = sorted({keys for layer in layers for keys in layer if keys not in known})
    order: list[Keys] = []
    for keys in known:
        below = [entry for entry in free if entry[: len(keys)] == keys]
        order += below or [keys]
    return order

"""Layers: what each entry says, flat, with its place; and their merging into what is in force for one tool.

A layer is a flat mapping from a path of keys, such as ``("timeouts", "perTry")``, to a leaf. Merging is then a plain
update from the least specific layer to the most specific: maps merge key by key, lists and values replace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from outrider.policy.draft import Draft, Item
from outrider.policy.fields import Model
from outrider.policy.patterns import PatternIndex
from outrider.policy.strictyaml import Path

Keys = tuple[str, ...]

WHOLE: frozenset[Keys] = frozenset({("idempotency", "send"), ("http", "body")})
"""Maps that are one value: a key goes into one place, and a body is a document of its own."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value that some entry says."""

    value: Any
    item: Item[Any]
    keys: Path  # from the item on; a list's entry is a number

    @property
    def where(self) -> str:
        """``file:line``."""
        return self.item.at(*self.keys)


Leaves = Mapping[Keys, Leaf]


@dataclass(frozen=True, slots=True)
class Layer:
    """One entry of ``tools``, or ``defaults``, whose pattern is empty."""

    pattern: str
    leaves: Leaves
    item: Item[Any] | None = None  # None: the policy has no ``defaults``

    @property
    def whole(self) -> bool:
        """Whether all that it says is known; otherwise it is not to be judged together with others."""
        return self.item is None or self.item.whole


def leaves_of(item: Item[Any], *, under: Keys = ()) -> dict[Keys, Leaf]:
    """What a section says, flat. ``under`` picks a part of it, such as ``("domain",)`` of an upstream."""
    model: Any = item.model
    for key in under:
        model = model.said().get(key)
        if model is None:
            return {}
    return model_leaves(model, item, under)


def model_leaves(model: Model, item: Item[Any], under: Path) -> dict[Keys, Leaf]:
    """What a part of a section says, flat; ``under`` is where in the section it stands."""
    found: dict[Keys, Leaf] = {}
    _flatten(model, item, under, (), found)
    return found


def _flatten(model: Model, item: Item[Any], under: Path, keys: Keys, found: dict[Keys, Leaf]) -> None:
    for name, value in model.said().items():
        path = (*keys, name)
        if isinstance(value, Model) and path not in WHOLE:
            _flatten(value, item, under, path, found)
        elif isinstance(value, dict) and path not in WHOLE:
            for inner, text in value.items():
                found[(*path, inner)] = Leaf(text, item, (*under, *path, inner))
        else:
            found[path] = Leaf(value, item, (*under, *path))


def merged(layers: Iterable[Leaves]) -> dict[Keys, Leaf]:
    """From the least specific to the most: the later one wins, key by key."""
    together: dict[Keys, Leaf] = {}
    for layer in layers:
        together.update(layer)
    return together


class Layers:
    """All layers of a policy: ``defaults`` lowest, then the entries of ``tools``."""

    def __init__(self, made: Draft) -> None:
        defaults = made.sections.get("defaults")
        self.defaults = _layer("", defaults) if defaults else Layer("", {})
        self.entries = [_layer(item.model.match, item) for item in made.tools]
        self._index: PatternIndex[Layer] = PatternIndex()
        for layer in self.entries:
            self._index.add(layer.pattern, layer)

    def of(self, tool: str) -> list[Layer]:
        """The layers of one tool, from the least specific to the most."""
        return [self.defaults, *self._index.find(tool)]

    def covering(self, pattern: str) -> list[Layer]:
        """The layers that apply to every tool that ``pattern`` matches."""
        return [self.defaults, *self._index.covering(pattern)]


def _layer(pattern: str, item: Item[Any]) -> Layer:
    leaves = leaves_of(item)
    leaves.pop(("match",), None)
    return Layer(pattern, leaves, item)

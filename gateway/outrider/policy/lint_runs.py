"""What is wrong in ``runs``: overrides that set the same key for the same agents, or nothing; a watch over nothing."""

from __future__ import annotations

from collections.abc import Iterator

from outrider.errors import Fault
from outrider.policy.compile import override_leaves
from outrider.policy.draft import Draft, Item
from outrider.policy.layers import Keys, Leaf, leaves_of
from outrider.policy.schema_runs import Runs

AGENTS: Keys = ("agents",)
WATCHED: tuple[Keys, ...] = (("runaway", "sameCall"), ("runaway", "failures"))


def check_runs(made: Draft) -> Iterator[Fault]:
    """Codes E27, E53."""
    item: Item[Runs] | None = made.sections.get("runs")
    if item is None:
        return
    common = leaves_of(item)
    overrides = [override_leaves(item, index) for index in range(len(item.model.overrides))]
    yield from _clashes(item, overrides)
    if not item.whole:
        return
    yield from _watches_nothing(common, common)
    for index, leaves in enumerate(overrides):
        if leaves.keys() == {AGENTS}:
            message = "an override that sets no limit does nothing."
            yield item.fault(("overrides", index), "E53", message, "write these agents' limits, or drop it.")
        yield from _watches_nothing(leaves, common | leaves)


def _watches_nothing(said: dict[Keys, Leaf], in_force: dict[Keys, Leaf]) -> Iterator[Fault]:
    about = next((leaf for keys, leaf in said.items() if keys[0] == "runaway"), None)
    if about is not None and not any(keys in in_force for keys in WATCHED):
        message = "runaway watches nothing without sameCall or failures."
        yield about.item.fault(about.keys, "E53", message, "write for example 'sameCall: 20' or 'failures: 10' in it.")


def _clashes(item: Item[Runs], overrides: list[dict[Keys, Leaf]]) -> Iterator[Fault]:
    """Two overrides may divide the keys of the same agents between them, but not both set the same one."""
    first: dict[tuple[str, Keys], Leaf] = {}
    for entry, leaves in zip(item.model.overrides, overrides, strict=True):
        for pattern in dict.fromkeys(entry.agents):
            for keys, leaf in leaves.items():
                before = first.setdefault((pattern, keys), leaf)
                if keys != AGENTS and before is not leaf:
                    message = (
                        f"the override for '{pattern}' here and at {before.where} both set '{'.'.join(keys)}'; "
                        "order would decide silently."
                    )
                    yield item.fault(leaf.keys, "E27", message, "say it in one of them, or make one pattern longer.")

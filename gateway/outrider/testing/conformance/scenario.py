"""Names a test as a scenario, in the modes it has. A driver declares by these names what its framework cannot have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from outrider.testing.conformance.driver import Driver
from outrider.testing.conformance.script import Mode

Test = TypeVar("Test", bound=Callable[..., Any])
BOTH: tuple[Mode, ...] = ("sync", "async")
ALL: tuple[Mode, ...] = (*BOTH, "mixed")
ATTRIBUTE = "__outrider_scenario__"


def scenario(name: str, modes: tuple[Mode, ...] = BOTH) -> Callable[[Test], Test]:
    """``mode``, which each test takes: ``sync`` runs the agent by ``Driver.run`` with plain functions, ``async`` by
    ``Driver.arun`` with coroutine functions, ``mixed`` by ``Driver.arun`` with plain ones."""

    def mark(test: Test) -> Test:
        setattr(test, ATTRIBUTE, (name, modes))
        marked: Test = pytest.mark.parametrize("mode", modes)(test)
        return marked

    return mark


def scenarios_of(suite: type) -> dict[str, tuple[Mode, ...]]:
    """The scenarios of a suite, and the modes of each."""
    found: dict[str, tuple[Mode, ...]] = {}
    for name, modes in _marks(suite):
        found[name] = tuple(dict.fromkeys((*found.get(name, ()), *modes)))
    return found


def _marks(suite: type) -> Iterator[tuple[str, tuple[Mode, ...]]]:
    for kind in suite.__mro__:
        for member in vars(kind).values():
            if hasattr(member, ATTRIBUTE):
                yield getattr(member, ATTRIBUTE)


def declared_against(driver: Driver, name: str, mode: Mode) -> str:
    """The key under which the driver says that it does not offer this, empty where it does."""
    return next((key for key in (f"{name}[{mode}]", name, mode) if key in driver.not_offered), "")


def wrong_declarations(driver: Driver, suite: type) -> list[str]:
    """What a driver declares that is no scenario, or without a reason: a misspelt one would offer less than it says."""
    known = scenarios_of(suite)
    possible = {*ALL, *known, *(f"{name}[{mode}]" for name, modes in known.items() for mode in modes)}
    unknown = [f"'{key}' is neither a scenario nor a mode" for key in driver.not_offered if key not in possible]
    return unknown + [f"'{key}' has no reason" for key, reason in driver.not_offered.items() if not reason.strip()]

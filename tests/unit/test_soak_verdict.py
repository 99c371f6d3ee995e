"""The soak's reckoning can fail: each broken promise is found in what is told to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from outrider.ledger.record import Event, EventType
from outrider.ledger.writer import Ledger
from outrider.policy.plans import LedgerSettings
from outrider.store import Store
from tests.soak.readings import Reading
from tests.soak.verdict import Ended, of_effects, of_ledger, of_readings

FRESH = Reading(memory_mb=80, descriptors=20, threads=7, tasks=5, calls=0, processes=0, held=0)
WARM = replace(FRESH, memory_mb=90, descriptors=40, tasks=30, calls=9, processes=4, held=3)


def test_a_sidecar_that_is_as_it_was_has_leaked_nothing() -> None:
    """Caches may fill a little."""
    assert list(of_readings(FRESH, WARM, replace(FRESH, memory_mb=95, descriptors=24))) == []


@pytest.mark.parametrize(
    "left",
    [
        {"calls": 1}, {"processes": 1}, {"held": 1}, {"tasks": 6}, {"descriptors": 29}, {"threads": 12},
        {"memory_mb": 113},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_left_at_the_end_is_told(left: dict[str, int]) -> None:
    """One thing too many is one sentence."""
    assert len(list(of_readings(FRESH, WARM, replace(FRESH, **left)))) == 1


@pytest.mark.parametrize(
    ("effects", "ended"),
    [
        (["a", "a"], Ended("local.write_note", "unknown")),
        (["a"], Ended("local.write_note", "not_executed")),
        ([], Ended("local.write_note", "ok")),
    ],
    ids=["twice", "called not executed", "never"],
)
def test_an_effect_that_contradicts_the_ledger_is_told(effects: list[str], ended: Ended) -> None:
    """The ledger's word is held against what really happened."""
    assert len(list(of_effects(effects, {"a": ended}))) == 1


def test_effects_that_agree_with_the_ledger_are_no_fault() -> None:
    """Unknown may have happened, once."""
    calls = {"a": Ended("local.write_note", "ok"), "b": Ended("remote.write_order", "unknown")}
    assert list(of_effects(["a", "b"], calls)) == list(of_effects(["a"], calls)) == []


async def test_calls_without_one_end_and_attempts_without_any_are_told(tmp_path: Path) -> None:
    """Counted in a real ledger."""
    store = Store.open(tmp_path)
    ledger = await Ledger.open(store, LedgerSettings())
    for call in ("none", "one", "two"):
        ledger.append(Event(type=EventType.CALL_RECEIVED, call_id=call, tool="local.write_note"), args={"text": call})
    for call in ("one", "two", "two"):
        ledger.append(Event(type=EventType.CALL_FINISHED, call_id=call, tool="local.write_note", outcome="ok"))
    ledger.append(Event(type=EventType.ATTEMPT_STARTED, call_id="none", attempt=1))
    await ledger.close()
    store.close()
    broken, counts, calls = of_ledger(tmp_path)
    assert [sentence.partition(":")[0] for sentence in broken] == [
        "1 attempts have no end", "1 calls have more than one end", "1 calls have no end",
    ]  # fmt: skip
    assert counts["ended ok"] == 3
    assert calls == {"one": Ended("local.write_note", "ok"), "two": Ended("local.write_note", "ok")}

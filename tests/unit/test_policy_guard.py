"""The bounds of arguments: what is let through, what is refused, and that nothing crashes on the way."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.policy.guard import CONDITION_LIST, guard_condition
from outrider.policy.plans import Limits
from outrider.policy.rules import guard_args

LIMITS = Limits(max_depth=4, max_nodes=20)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"a": 1, "b": "x", "c": None, "d": True, "e": 1.5},
        {"a": {"b": {"c": {"d": 1}}}},
        {"a": [[[1]]]},
        {"a": list(range(19))},
        {"a": 2**63 - 1, "b": -(2**63)},
        {"größe": "naïve ☃ 😀"},
        {"a": (1, 2)},
    ],
)
def test_ordinary_arguments_pass(args: dict[str, Any]) -> None:
    """Everything that JSON knows, up to the limits themselves."""
    assert guard_args(args, LIMITS) is None


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"a": {"b": {"c": {"d": {}}}}}, "nested deeper than 4 levels"),
        ({"a": [[[[]]]]}, "nested deeper than 4 levels"),
        ({"a": list(range(20))}, "more than 20 values"),
        ({str(n): n for n in range(21)}, "more than 20 values"),
        ({"a": 2**63}, "does not fit into 64 bits"),
        ({"a": [-(2**63) - 1]}, "does not fit into 64 bits"),
        ({"a": math.nan}, "NaN or infinite"),
        ({"a": {"b": math.inf}}, "NaN or infinite"),
        ({"a": "\ud800"}, "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ({"a": b"bytes"}, "of type bytes"),
        ({"a": {1: 2}}, "a key is not text but int"),
        ({"a": object()}, "of type object"),
        ({"a": {1, 2}}, "of type set"),
    ],
)
def test_what_is_out_of_bounds_is_named(args: dict[str, Any], why: str) -> None:
    """The sentence says what is wrong, and holds nothing of the values."""
    wrong = guard_args(args, LIMITS)
    assert wrong is not None
    assert why in wrong


def test_a_hundred_thousand_levels_are_a_sentence_and_not_a_crash() -> None:
    """The walk never calls itself."""
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert guard_args(deep, Limits(max_depth=128)) == "the arguments are nested deeper than 128 levels"
    while deep:  # taken apart by hand: freeing it at once would recurse too
        deep = deep["a"]


def test_a_value_that_contains_itself_ends() -> None:
    """A cycle is only something very deep; one that fans out is only something very large."""
    cycle: dict[str, Any] = {}
    cycle["a"] = cycle
    assert "deeper" in str(guard_args(cycle, Limits()))
    bomb: list[Any] = ["x"] * 10
    for _ in range(30):
        bomb = [bomb] * 10
    assert "more than 10000 values" in str(guard_args({"a": bomb}, Limits(max_depth=64)))


def test_conditions_take_only_short_lists() -> None:
    """A walk over a list costs its length, a walk in a walk its square."""
    assert guard_condition({"a": [0] * CONDITION_LIST}) is None
    assert "conditions take at most 256" in str(guard_condition({"a": [0] * (CONDITION_LIST + 1)}))
    assert guard_args({"a": [0] * 5000}, Limits()) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=30,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    return [leaf for inner in value for leaf in leaves(inner)] if isinstance(value, list) else [value]


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_the_guard_agrees_with_a_plain_recursive_one(args: dict[str, Any]) -> None:
    """Against the obvious definition, on values small enough for recursion."""

    def fine(leaf: Any) -> bool:
        if isinstance(leaf, bool):
            return True
        if isinstance(leaf, int):
            return -(2**63) <= leaf < 2**63
        return not isinstance(leaf, float) or math.isfinite(leaf)

    expected = depth(args) <= 4 and all(fine(leaf) for leaf in leaves(args))
    assert (guard_args(args, Limits(max_depth=4)) is None) == expected

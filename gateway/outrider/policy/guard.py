"""The bounds of a call's arguments, checked before anything else looks at them.

Walks level by level and never calls itself: JSON may nest deeper than the C stack holds, and the engine of conditions
crashes the whole process on input that does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from outrider.policy.plans import Limits

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
CONDITION_DEPTH = 32
CONDITION_NODES = 10_000
CONDITION_LIST = 256
"""Inside conditions lists are short: a condition that walks a list twice over costs its length squared."""


def guard_args(args: Mapping[str, Any], limits: Limits) -> str | None:
    """What is wrong with the arguments of a call, None where nothing is.

    ``{"a": 1}`` has depth 1 and one node. Refused are: deeper than ``limits.max_depth``, more than
    ``limits.max_nodes``, NaN and infinities, integers beyond 64 bits, text that is not Unicode (lone surrogates), and
    whatever JSON does not know. Costs about 1 µs for a handful of arguments.
    """
    return _walk(args, limits.max_depth, limits.max_nodes, None)


def guard_condition(value: Any) -> str | None:
    """The same with the bounds that conditions need, whatever the policy's limits are."""
    return _walk(value, CONDITION_DEPTH, CONDITION_NODES, CONDITION_LIST)


def _walk(root: Any, max_depth: int, max_nodes: int, max_list: int | None) -> str | None:
    level: list[Any] = [root]
    nodes = depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            return f"the arguments are nested deeper than {max_depth} levels"
        below: list[Any] = []
        for box in level:
            nodes += len(box)
            if nodes > max_nodes:
                return f"the arguments have more than {max_nodes} values"
            wrong = _box(box, below, max_list)
            if wrong is not None:
                return wrong
        level = below
    return None


def _box(box: Any, below: list[Any], max_list: int | None) -> str | None:
    """One mapping or list; what it holds of either goes to ``below``."""
    values = box
    if type(box) is dict or isinstance(box, Mapping):
        values = box.values()
        wrong = _keys(box)
    else:
        wrong = _length(box, max_list)
    if wrong is None:
        for value in values:
            if type(value) is str and value.isascii():
                continue  # the commonest, decided without a call
            wrong = _value(value, below)
            if wrong is not None:
                break
    return wrong


def _length(box: Any, max_list: int | None) -> str | None:
    if max_list is None or len(box) <= max_list:
        return None
    return f"a list has {len(box)} entries; conditions take at most {max_list}"


def _value(value: Any, below: list[Any]) -> str | None:
    kind = type(value)
    if kind is int:
        if INT64_MIN <= value <= INT64_MAX:
            return None
        return "a whole number does not fit into 64 bits; send it as text"
    if kind is dict or kind is list:
        below.append(value)
        return None
    if value is None or kind is bool:
        return None
    return _unusual(value, below)


def _keys(box: Mapping[Any, Any]) -> str | None:
    for key in box:
        if type(key) is not str:
            return f"a key is not text but {type(key).__name__}"
        if not key.isascii() and not _is_unicode(key):
            return "a key holds a lone surrogate, which is not Unicode"
    return None


def _unusual(value: Any, below: list[Any]) -> str | None:
    if type(value) is str:
        return None if _is_unicode(value) else "a text holds a lone surrogate, which is not Unicode"
    if isinstance(value, float):
        return None if math.isfinite(value) else "a number is NaN or infinite, which JSON does not know"
    if isinstance(value, (Mapping, tuple, list)):
        below.append(value)
        return None
    return f"a value is of type {type(value).__name__}, which JSON does not know"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

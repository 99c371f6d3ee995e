"""What must not change when something else does: a deny sends less, a faultless upstream is passed through."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import looptime
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.calls import Outcome
from tests.support.rig import BROKEN, BUSY, OK, REFUSED, WRONG, Rig

TOOLS = ["up.read", "up.write", "up.keyed"]
ALLOW = {"name": "all", "tools": ["*"], "then": "allow"}
FAULTS = st.lists(st.sampled_from([OK, BROKEN, BUSY, REFUSED, WRONG]), max_size=4)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "ü"]), inner, max_size=3),
    max_leaves=8,
)


def in_virtual_time(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(idle_timeout=5)) as runner:
        return runner.run(work)


async def sends(tool: str, faults: list[Outcome], rules: list[dict[str, Any]]) -> int:
    """How often one call arrives at an upstream that fails like that."""
    with tempfile.TemporaryDirectory() as folder:
        async with Rig(Path(folder), {"rules": rules}) as rig:
            left = list(faults)
            rig.upstream.answer = lambda attempt: left.pop(0) if left else OK
            await rig.call(tool, n=1)
            return rig.upstream.count()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TOOLS), FAULTS, st.sampled_from(["*", "up.*", "up.read", "up.write", "other.*"]))
def test_adding_a_deny_never_increases_what_is_sent(tool: str, faults: list[Outcome], pattern: str) -> None:
    """And what it matches is not sent at all."""
    before = in_virtual_time(sends(tool, faults, [ALLOW]))
    deny = {"name": "no", "tools": [pattern], "then": "deny", "reason": "closed"}
    after = in_virtual_time(sends(tool, faults, [ALLOW, deny]))
    matches = pattern == tool or (pattern.endswith("*") and tool.startswith(pattern[:-1]))
    assert after == (0 if matches else before)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TOOLS), st.dictionaries(st.sampled_from(["x", "y"]), VALUES), VALUES)
def test_with_a_faultless_upstream_the_gateway_is_transparent(tool: str, args: dict[str, Any], result: Any) -> None:
    """Exactly one sending, the same arguments, the same result."""

    async def through() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with Rig(Path(folder)) as rig:
                rig.upstream.answer = lambda attempt: Outcome(OK.kind, value=result)
                outcome = await rig.call(tool, **args)
                assert outcome.ok and outcome.value == result and not outcome.degraded
                (sent,) = rig.upstream.sent
                assert dict(sent.args) == args

    in_virtual_time(through())

"""A call that has ended is freed at once: the collector of cycles looks seldom, and should have nothing to do."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from outrider.calls import Outcome
from tests.support.rig import BROKEN, BUSY, OK, REFUSED, Rig


class Argument(dict[str, str]):
    """Something that a call holds and that can be watched."""


@pytest.mark.looptime
@pytest.mark.parametrize("answer", [OK, REFUSED, BROKEN, BUSY], ids=["ok", "refused", "broken", "busy"])
@pytest.mark.parametrize("tool", ["up.read", "up.write"])
async def test_a_call_that_has_ended_is_in_no_cycle(tmp_path: Path, tool: str, answer: Outcome) -> None:
    """Arguments and result would stay in memory until the collector comes by, thousands of calls later."""
    async with Rig(tmp_path) as rig:
        rig.upstream.answer = lambda attempt: answer
        await rig.call(tool)
        rig.flights.clear()
        rig.upstream.sent.clear()
        gc.collect()
        gc.disable()
        try:
            watched = Argument(text="x")
            freed = weakref.ref(watched)
            await rig.call(tool, value=watched)
            del watched
            rig.flights.clear()
            rig.upstream.sent.clear()
            await asyncio.sleep(1.0)
            assert freed() is None
        finally:
            gc.enable()

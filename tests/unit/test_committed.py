"""An attempt of whose answer something has reached the caller is never repeated, whatever its effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider.calls import Attempt, Outcome
from outrider.ledger.writer import LedgerUnavailable
from outrider.policy.plans import Plan
from tests.support.rig import BASE, BROKEN, Rig, Upstream

pytestmark = pytest.mark.looptime

ONE_MORE_WAY = {
    "tools": [*BASE["tools"], {"match": "up.read", "fallback": [{"tool": "spare.read"}, {"static": {"value": "old"}}]}]
}


class Streaming(Upstream):
    """Passes a part of its answer on, and then its connection breaks."""

    passed_on: int = 0

    async def send(self, attempt: Attempt, plan: Plan, timeout_s: float) -> Outcome:
        assert attempt.commit is not None
        if await attempt.commit():
            self.passed_on += 1
            assert await attempt.commit()  # the second part
        return await super().send(attempt, plan, timeout_s)


async def test_after_a_part_has_reached_the_caller_there_is_no_retry_and_no_fallback(tmp_path: Path) -> None:
    """A read that would be sent three times, and then elsewhere."""
    async with Rig(tmp_path, ONE_MORE_WAY) as rig:
        rig.upstream = Streaming(answer=lambda attempt: BROKEN)
        outcome = await rig.call("up.read")
        assert rig.upstream.count() == 1 and not outcome.ok and not outcome.degraded
        assert "has reached the caller" in outcome.detail


async def test_that_a_part_was_passed_on_is_recorded_once_before_it_is(tmp_path: Path) -> None:
    """Between the attempt's start and its end."""
    async with Rig(tmp_path) as rig:
        rig.upstream = Streaming()
        assert (await rig.call("up.write")).ok
        kinds = [row["type"] for row in rig.events() if row["type"].startswith("attempt.")]
        assert kinds == ["attempt.started", "attempt.committed", "attempt.finished"]


async def test_nothing_is_passed_on_where_that_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is told so, and the attempt may be repeated."""
    async with Rig(tmp_path) as rig:
        rig.upstream = streaming = Streaming()

        async def cannot(*_: object) -> int:
            raise LedgerUnavailable("the disk is full")

        monkeypatch.setattr("outrider.recorder.Recorder.committed", cannot)
        await rig.call("up.read")
        assert streaming.passed_on == 0 and streaming.count() == 1

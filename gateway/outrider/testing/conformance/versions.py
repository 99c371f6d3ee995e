"""Scenarios: the two sides are not of the same version. A proxy between them makes one speak the other's past."""

from __future__ import annotations

import pytest

from outrider.testing.conformance.scenario import scenario
from outrider.testing.conformance.script import Mode
from outrider.testing.conformance.stage import Scene
from outrider.testing.conformance.wire_proxy import Dialect


class Versions:
    """older wire version."""

    @scenario("older wire version", modes=("sync",))
    def test_what_one_side_does_not_know_changes_nothing(self, scene: Scene, mode: Mode) -> None:
        """More fields and frames than this version has, and a welcome with no more than it must say."""
        tool = scene.tool("read")
        report = scene.run(mode, tool, agent=scene.behind_proxy(Dialect.WORDY_SIDECAR))
        assert [told.kind for told in report.heard] == ["result"]
        assert (scene.story(tool).outcome, scene.executions(tool)) == ("ok", 1)

    @pytest.mark.parametrize("older", [Dialect.OLDER_SIDECAR, Dialect.OLDER_ADAPTER], ids=str)
    @scenario("older wire version", modes=("sync",))
    def test_versions_that_are_too_far_apart_refuse_each_other_and_nothing_begins(
        self, scene: Scene, mode: Mode, older: Dialect
    ) -> None:
        """Never half-governed: the agent reads that no sidecar takes its call, and goes on when one does."""
        tool, after = scene.tool("read"), scene.tool("read")
        agent = scene.behind_proxy(older)
        report = scene.run(mode, tool, agent=agent)
        assert [told.kind for told in report.heard] == ["failure"] and not report.killed
        assert scene.executions(tool) == 0 and scene.in_ledger(tool) == []
        scene.behind_proxy(Dialect.SAME)
        assert [told.kind for told in scene.run(mode, after, agent=agent).heard] == ["result"]
        assert (scene.story(after).outcome, scene.executions(after)) == ("ok", 1)

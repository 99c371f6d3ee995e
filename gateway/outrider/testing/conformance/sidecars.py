"""Scenarios: the sidecar is gone, before, during and after a call, or comes back in the middle of one."""

from __future__ import annotations

from outrider.testing.conformance.scenario import scenario
from outrider.testing.conformance.script import Mode, Step
from outrider.testing.conformance.stage import Scene


class Sidecars:
    """sidecar lost before, during, after; sidecar restarted mid-call. Lost is SIGKILL."""

    @scenario("sidecar lost before")
    def test_without_a_sidecar_nothing_begins_and_the_agent_is_told(self, scene: Scene, mode: Mode) -> None:
        """A failure, not a result and not a hang; with a sidecar again, the next call works."""
        tool = scene.tool("read", Step(value="here"))
        scene.sidecar.kill9()
        report = scene.run(mode, tool)
        assert [told.kind for told in report.heard] == ["failure"] and not report.killed
        assert scene.executions(tool) == 0
        scene.sidecar.start()
        assert scene.in_ledger(tool) == []
        report = scene.run_when_back(mode, tool)
        assert [told.text for told in report.heard] == ["here"]
        assert (scene.story(tool).outcome, scene.executions(tool)) == ("ok", 1)

    @scenario("sidecar lost during")
    def test_a_function_that_outlives_the_sidecar_gives_its_result_and_is_recorded_later(
        self, scene: Scene, mode: Mode
    ) -> None:
        """The agent gets what is true, the ledger gets it when it is back, and nothing runs twice."""
        tool = scene.tool("write", Step(until="free", value="the real result"))
        playing = scene.begin(mode, tool)
        scene.await_execution(tool)
        scene.sidecar.kill9()
        scene.open("free")
        report = playing.report()
        assert [(told.kind, told.text) for told in report.heard] == [("result", "the real result")]
        scene.sidecar.start()
        story = scene.story(tool)
        assert (story.outcome, story.attempts, story.started) == ("ok", ["ok"], 1)
        assert scene.ends(tool) == ["returned"]

    @scenario("sidecar lost after")
    def test_a_call_that_was_answered_stays_answered_and_the_next_one_does_not_begin(
        self, scene: Scene, mode: Mode
    ) -> None:
        """What was recorded is in the ledger after the crash, once; what came after it is not."""
        first, pause, second = scene.tool("write"), scene.tool("read", Step(until="lost")), scene.tool("write")
        playing = scene.begin(mode, first, pause, second)
        scene.await_execution(pause)
        scene.story(first)
        scene.sidecar.kill9()
        scene.open("lost")
        report = playing.report()
        assert [told.kind for told in report.heard] == ["result", "result", "failure"]
        assert (scene.executions(first), scene.executions(second)) == (1, 0)
        scene.sidecar.start()
        story = scene.story(first)
        assert (story.outcome, story.attempts, story.settled) == ("ok", ["ok"], [])
        assert scene.in_ledger(second) == []

    @scenario("sidecar restarted mid-call")
    def test_a_call_goes_on_over_a_restart_and_so_does_the_run(self, scene: Scene, mode: Mode) -> None:
        """The function's end reaches the new sidecar, as the end of the same attempt; the next call works there."""
        tool, after = scene.tool("write", Step(until="free", value="across")), scene.tool("read", Step(value="on"))
        playing = scene.begin(mode, tool, after)
        scene.await_execution(tool)
        scene.sidecar.kill9()
        scene.sidecar.start()
        scene.await_connected()
        scene.open("free")
        report = playing.report()
        assert [(told.kind, told.text) for told in report.heard] == [("result", "across"), ("result", "on")]
        story = scene.story(tool)
        assert (story.outcome, story.attempts, story.started) == ("ok", ["ok"], 1)
        assert scene.story(after).outcome == "ok"
        assert (scene.executions(tool), scene.executions(after)) == (1, 1)

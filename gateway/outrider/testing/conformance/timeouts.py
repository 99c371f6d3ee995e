"""Scenarios: the per-try timeout of a function that does not end."""

from __future__ import annotations

from outrider.testing.conformance.policy import PER_TRY_S
from outrider.testing.conformance.scenario import ALL, scenario
from outrider.testing.conformance.script import Mode, Step
from outrider.testing.conformance.stage import Scene


class Timeouts:
    """per-try timeout, and the same with ``placement: caller``."""

    @scenario("per-try timeout", modes=ALL)
    def test_a_write_that_hangs_frees_the_agent_and_is_not_repeated(self, scene: Scene, mode: Mode) -> None:
        """The agent goes on while a thread still runs; what became of it is settled later. A coroutine is cancelled."""
        tool, after = scene.tool("slow_write", Step(until="free")), scene.tool("read", Step(until="go on"))
        playing = scene.begin(mode, tool, after)
        scene.await_execution(after)
        story = scene.story(tool)
        assert (story.outcome, story.code, story.attempts) == ("unknown", "outcome_unknown", ["unknown"])
        if mode == "async":
            scene.await_end(tool)
            assert scene.ends(tool) == ["cancelled"]
        else:
            assert scene.ends(tool) == []
            scene.open("free")
            scene.story(tool, lambda told: "ok" in told.settled)
            assert scene.ends(tool) == ["returned"]
        scene.open("go on")
        assert [told.kind for told in playing.report().heard] == ["failure", "result"]
        assert scene.executions(tool) == 1

    @scenario("per-try timeout", modes=ALL)
    def test_a_read_that_hangs_is_tried_again(self, scene: Scene, mode: Mode) -> None:
        """The second attempt begins while the first may still be running."""
        tool = scene.tool("slow_read", Step(until="free"), Step(value="quick"))
        report = scene.run(mode, tool)
        assert [(told.kind, told.text) for told in report.heard] == [("result", "quick")]
        story = scene.story(tool)
        assert (story.outcome, story.attempts) == ("ok", ["unknown", "ok"])
        assert scene.executions(tool) == 2

    @scenario("placement: caller", modes=("sync",))
    def test_a_function_bound_to_its_caller_is_observed_not_interrupted(self, scene: Scene, mode: Mode) -> None:
        """It runs to its end before the agent goes on; that it was late is told and recorded, and what it did too."""
        tool, after = scene.tool("caller_write", Step(for_s=3 * PER_TRY_S)), scene.tool("read")
        report = scene.run(mode, tool, after)
        assert [told.kind for told in report.heard] == ["failure", "result"]
        order = [(entry.tool, entry.what) for entry in scene.journal()]
        assert order.index((tool, "returned")) < order.index((after, "began")), "it was not bound to its caller"
        story = scene.story(tool, lambda told: told.settled)
        assert (story.outcome, story.attempts, story.settled[0]) == ("unknown", ["unknown"], "ok")
        assert scene.executions(tool) == 1

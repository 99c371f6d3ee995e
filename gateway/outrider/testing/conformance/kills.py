"""Scenarios: kill switches. A kill ends the run, whatever the framework makes of errors."""

from __future__ import annotations

from outrider.testing.conformance.scenario import ALL, scenario
from outrider.testing.conformance.script import Mode, Step
from outrider.testing.conformance.stage import AGENT, REASON, Scene
from outrider.testing.conformance.waiting import wait_for

LONG_S = 15.0


class Kills:
    """kill before, during, in backoff, while the loop is blocked."""

    @scenario("kill before", modes=ALL)
    def test_a_kill_before_the_call_ends_the_run_and_nothing_begins(self, scene: Scene, mode: Mode) -> None:
        """Neither the killed tool nor any other that the model would have asked for after it."""
        tool, after = scene.tool("write"), scene.tool("read")
        scene.kill(f"tool:local.{tool}")
        report = scene.run(mode, tool, after)
        assert REASON in report.killed
        story = scene.story(tool)
        assert (story.refused, story.code, story.outcome) == (True, "killed", "not_executed")
        assert scene.executions(tool) == scene.executions(after) == 0 and scene.in_ledger(after) == []

    @scenario("kill before", modes=ALL)
    def test_a_kill_between_two_calls_ends_the_run(self, scene: Scene, mode: Mode) -> None:
        """Engaged while the first function runs, which runs to its end."""
        first, second = scene.tool("read", Step(until="go")), scene.tool("read")
        playing = scene.begin(mode, first, second)
        scene.await_execution(first)
        scene.kill(f"tool:local.{second}")
        scene.open("go")
        report = playing.report()
        assert REASON in report.killed
        assert scene.story(first).outcome == "ok" and scene.story(second).code == "killed"
        assert (scene.executions(first), scene.executions(second)) == (1, 0)

    @scenario("kill during", modes=ALL)
    def test_a_kill_of_a_running_function_frees_the_agent_and_says_unknown(self, scene: Scene, mode: Mode) -> None:
        """The run ends while a thread still runs; what that did is settled later. A coroutine is cancelled."""
        tool, after = scene.tool("write", Step(until="free")), scene.tool("read")
        playing = scene.begin(mode, tool, after, stays_until="looked")
        scene.await_execution(tool)
        receipt = scene.kill(f"agent:{AGENT}")
        assert receipt["counts"] == {"not_executed": 0, "completed": 0, "unknown": 1}
        assert [call["tool"] for call in receipt["calls"]] == [f"local.{tool}"]
        scene.await_agents_done()
        if mode != "async":
            assert scene.ends(tool) == []
            scene.open("free")
        scene.await_end(tool)
        assert scene.ends(tool) == (["cancelled"] if mode == "async" else ["returned"])
        scene.open("looked")
        assert REASON in playing.report().killed
        story = scene.story(tool, lambda told: told.settled or mode == "async")
        assert (story.outcome, story.code, story.attempts) == ("unknown", "killed", ["unknown"])
        assert (scene.executions(tool), scene.executions(after)) == (1, 0)

    @scenario("kill in backoff", modes=ALL)
    def test_a_kill_between_two_attempts_ends_the_run_and_there_is_no_second(self, scene: Scene, mode: Mode) -> None:
        """The wait is ended too: nobody sits out a backoff for a call that is dead."""
        tool = scene.tool("read", Step(raises="ConnectionResetError", text="busy", retry_after_s=LONG_S))
        playing = scene.begin(mode, tool)
        wait_for(lambda: any(story.attempts for story in scene.in_ledger(tool)), "the first attempt's end")
        scene.kill(f"tool:local.{tool}")
        assert REASON in playing.report(LONG_S * 0.7).killed
        story = scene.story(tool)
        assert (story.code, story.attempts, story.started) == ("killed", ["unknown"], 1)
        assert scene.executions(tool) == 1

    @scenario("kill while the loop is blocked", modes=("async",))
    def test_a_kill_acknowledged_while_the_agents_loop_is_blocked_lets_nothing_begin(
        self, scene: Scene, mode: Mode
    ) -> None:
        """The second attempt was ordered and could not begin: the receipt proves that it never will."""
        refused = Step(raises="ConnectionRefusedError", text="down", retry_after_s=1.0, then_block="free")
        tool = scene.tool("write", refused)
        playing = scene.begin(mode, tool)
        wait_for(lambda: any(story.started == 2 for story in scene.in_ledger(tool)), "the second attempt's start")
        receipt = scene.kill(f"tool:local.{tool}")
        assert receipt["counts"] == {"not_executed": 1, "completed": 0, "unknown": 0}
        scene.open("free")
        assert REASON in playing.report().killed
        story = scene.story(tool)
        assert (story.outcome, story.code) == ("not_executed", "killed")
        assert scene.executions(tool) == 1

    @scenario("kill while the loop is blocked", modes=("async",))
    def test_a_kill_of_a_function_that_blocks_the_loop_is_acknowledged_at_once(self, scene: Scene, mode: Mode) -> None:
        """The sidecar hears from the process though its loop does not turn; the run ends as soon as it does."""
        tool, after = scene.tool("write", Step(until="free", blocking=True)), scene.tool("read")
        playing = scene.begin(mode, tool, after)
        scene.await_execution(tool)
        receipt = scene.kill(f"tool:local.{tool}")
        assert receipt["counts"]["unknown"] == 1
        scene.open("free")
        assert REASON in playing.report().killed
        story = scene.story(tool)
        assert (story.outcome, story.code) == ("unknown", "killed")
        assert (scene.executions(tool), scene.executions(after)) == (1, 0)

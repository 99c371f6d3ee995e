"""Scenarios: the caller leaves, the process forks, the process dies. Last, because the last one costs a process."""

from __future__ import annotations

from outrider.testing.conformance.scenario import scenario
from outrider.testing.conformance.script import Mode, Step
from outrider.testing.conformance.stage import Scene
from outrider.testing.conformance.wire_proxy import Dialect


class Ending:
    """cancellation, fork, process killed."""

    @scenario("cancellation", modes=("async",))
    def test_cancelling_the_agent_cancels_its_function_and_nothing_more_begins(self, scene: Scene, mode: Mode) -> None:
        """The task ends, the coroutine is cancelled, the call has one honest end."""
        tool, after = scene.tool("write", Step(until="never")), scene.tool("read")
        playing = scene.begin(mode, tool, after, cancel_at="leave", stays_until="looked")
        scene.await_execution(tool)
        scene.open("leave")
        scene.await_agents_done()
        scene.await_end(tool)
        assert scene.ends(tool) == ["cancelled"]
        scene.open("looked")
        report = playing.report()
        assert report.cancelled or report.heard == ()
        story = scene.story(tool)
        assert (story.outcome, story.attempts, story.started) == ("unknown", ["unknown"], 1)
        assert (scene.executions(tool), scene.executions(after)) == (1, 0)

    @scenario("cancellation", modes=("mixed",))
    def test_cancelling_the_agent_does_not_wait_for_a_thread_and_nothing_more_begins(
        self, scene: Scene, mode: Mode
    ) -> None:
        """A thread cannot be stopped: it runs to its end behind the agent, and that end is recorded."""
        tool, after = scene.tool("write", Step(until="free")), scene.tool("read")
        playing = scene.begin(mode, tool, after, cancel_at="leave")
        scene.await_execution(tool)
        scene.open("leave")
        report = playing.report()
        assert (report.cancelled or report.heard == ()) and scene.ends(tool) == []
        scene.open("free")
        story = scene.story(tool)
        assert (story.started, story.attempts, scene.ends(tool)) == (1, ["ok"], ["returned"])
        assert (scene.executions(tool), scene.executions(after)) == (1, 0)

    @scenario("cancellation", modes=("async", "mixed"))
    def test_cancelling_the_agent_ends_a_backoff_and_there_is_no_second_attempt(self, scene: Scene, mode: Mode) -> None:
        """The caller is gone: nobody tries again on its behalf."""
        tool = scene.tool("read", Step(raises="ConnectionResetError", text="busy", retry_after_s=2.0))
        playing = scene.begin(mode, tool, cancel_at="leave")
        scene.await_end(tool)
        scene.open("leave")
        playing.report()
        story = scene.story(tool)
        assert story.started == 1 and story.outcome != "ok"
        assert scene.executions(tool) == 1

    @scenario("fork")
    def test_a_forked_child_is_a_process_of_its_own_and_its_parent_goes_on(self, scene: Scene, mode: Mode) -> None:
        """Each has a connection and an instance; each call is recorded once, under the one that made it."""
        scene.run(mode, scene.tool("read"))  # so that there is a connection to inherit
        tool = scene.tool("write", Step(value="done"))
        of_child, of_parent = scene.begin(mode, tool, forks=True).reports()
        assert of_child.pid != of_parent.pid
        assert [told.text for told in (*of_child.heard, *of_parent.heard)] == ["done", "done"]
        first, second = scene.stories(tool, 2)
        assert (first.outcome, first.attempts, second.outcome, second.attempts) == ("ok", ["ok"], "ok", ["ok"])
        assert first.received["agent"]["instance"] != second.received["agent"]["instance"]
        assert first.received["run_id"] != second.received["run_id"]
        assert [entry.pid for entry in scene.began(tool)] == [of_child.pid, of_parent.pid]

    @scenario("process killed", modes=("sync",))
    def test_a_process_killed_while_its_function_runs_leaves_an_unknown_outcome(self, scene: Scene, mode: Mode) -> None:
        """SIGKILL: nobody can say how far it came, and the ledger says so, once."""
        tool = scene.tool("write", Step(until="never"))
        agent = scene.behind_proxy(Dialect.SAME)
        scene.begin(mode, tool, agent=agent)
        scene.await_execution(tool)
        agent.kill9()
        story = scene.story(tool)
        assert (story.outcome, story.attempts, story.started) == ("unknown", ["unknown"], 1)
        assert scene.executions(tool) == 1

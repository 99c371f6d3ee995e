"""Scenarios: what becomes of a call, and how often its function runs for it."""

from __future__ import annotations

from outrider.testing.conformance.policy import ATTEMPTS, CACHED, DENIED
from outrider.testing.conformance.scenario import ALL, scenario
from outrider.testing.conformance.script import Mode, Step
from outrider.testing.conformance.stage import AGENT, Scene


class Outcomes:
    """ok, raise, unknown, deny, retry then ok, exhausted, fallback, remote tool."""

    @scenario("ok", modes=ALL)
    def test_a_result_reaches_the_agent_and_the_ledger_says_whose_call_it_was(self, scene: Scene, mode: Mode) -> None:
        """Agent, framework, arguments, result; one execution, one attempt, one call."""
        tool = scene.tool("write", Step(value="page of x"))
        report = scene.run(mode, tool, text="x")
        assert [(told.kind, told.text) for told in report.heard] == [("result", "page of x")] and not report.killed
        story = scene.story(tool)
        who = story.received["agent"]
        assert (who["name"], who["framework"]) == (AGENT, scene.stage.driver.framework)
        assert story.received["args"] == {"text": "x"} and story.result == "page of x"
        assert (story.outcome, story.attempts, story.received["enforcement"]) == ("ok", ["ok"], "cooperative")
        assert story.received.get("run_id"), "a call without a run cannot be killed or budgeted with its like"
        assert scene.ends(tool) == ["returned"]

    @scenario("ok", modes=ALL)
    def test_the_calls_of_one_run_are_one_run_and_those_of_another_are_not(self, scene: Scene, mode: Mode) -> None:
        """One run id for an agent's invocation, another for the next."""
        first, second = scene.tool("read"), scene.tool("read")
        scene.run(mode, first, second)
        scene.run(mode, first)
        of_first, of_second = scene.stories(first, 2), scene.story(second)
        runs = [story.received["run_id"] for story in (of_first[0], of_second, of_first[1])]
        assert runs[0] == runs[1] != runs[2]

    @scenario("raise", modes=ALL)
    def test_an_exception_of_the_function_is_a_failure_that_the_agent_reads(self, scene: Scene, mode: Mode) -> None:
        """Once executed, in its own words, and the agent goes on."""
        tool, after = scene.tool("write", Step(raises="ValueError", text="no such account")), scene.tool("read")
        report = scene.run(mode, tool, after)
        assert [told.kind for told in report.heard] == ["failure", "result"]
        assert "no such account" in report.heard[0].text
        story = scene.story(tool)
        assert (story.outcome, story.code, story.attempts) == ("definite", "upstream_failed", ["definite"])
        assert scene.ends(tool) == ["raised"]

    @scenario("raise", modes=ALL)
    def test_a_write_that_may_have_run_is_not_repeated_by_anyone(self, scene: Scene, mode: Mode) -> None:
        """Not by the gateway, not by the framework; and when the model asks again in the same run, it is refused."""
        tool = scene.tool("write", Step(raises="ConnectionResetError", text="reset after sending"))
        report = scene.run(mode, tool, tool)
        assert [told.kind for told in report.heard] == ["failure", "failure"]
        first, again = scene.stories(tool, 2)
        assert (first.outcome, first.code, first.attempts) == ("unknown", "outcome_unknown", ["unknown"])
        assert (again.refused, again.code) == (True, "prior_outcome_unknown")
        assert scene.executions(tool) == 1

    @scenario("deny", modes=ALL)
    def test_a_denied_call_never_runs_and_the_agent_reads_the_reason(self, scene: Scene, mode: Mode) -> None:
        """The policy's own sentence; the agent goes on."""
        tool, after = scene.tool("denied"), scene.tool("read")
        report = scene.run(mode, tool, after)
        assert [told.kind for told in report.heard] == ["failure", "result"] and not report.killed
        assert DENIED in report.heard[0].text
        story = scene.story(tool)
        assert (story.refused, story.code, story.end["rule"], story.started) == (True, "denied", "no mail", 0)
        assert scene.executions(tool) == 0

    @scenario("retry then ok")
    def test_a_read_that_fails_is_tried_again_and_the_agent_sees_only_the_result(
        self, scene: Scene, mode: Mode
    ) -> None:
        """As often as the policy says, inside one call."""
        reset = Step(raises="ConnectionResetError", text="reset")
        tool = scene.tool("read", reset, reset, Step(value="at last"))
        report = scene.run(mode, tool)
        assert [(told.kind, told.text) for told in report.heard] == [("result", "at last")]
        story = scene.story(tool)
        assert (story.outcome, story.attempts) == ("ok", ["unknown", "unknown", "ok"])
        assert scene.ends(tool) == ["raised", "raised", "returned"]

    @scenario("exhausted", modes=ALL)
    def test_a_read_that_always_fails_runs_as_often_as_the_policy_says_and_no_oftener(
        self, scene: Scene, mode: Mode
    ) -> None:
        """The framework's own retries repeat nothing: one call, one failure."""
        tool = scene.tool("read", Step(raises="ConnectionResetError", text="the line is down"))
        report = scene.run(mode, tool)
        assert [told.kind for told in report.heard] == ["failure"] and "the line is down" in report.heard[0].text
        story = scene.story(tool)
        assert (story.code, story.attempts) == ("upstream_failed", ["unknown"] * ATTEMPTS)
        assert scene.executions(tool) == ATTEMPTS

    @scenario("fallback")
    def test_a_fallback_s_value_reaches_the_agent_as_a_result(self, scene: Scene, mode: Mode) -> None:
        """Made by the gateway, and marked as such in the ledger."""
        tool = scene.tool("cached", Step(raises="ConnectionRefusedError", text="down"))
        report = scene.run(mode, tool)
        assert [told.kind for told in report.heard] == ["result"] and CACHED in report.heard[0].text
        story = scene.story(tool)
        assert (story.outcome, story.end["data"]["degraded_by"]) == ("ok", "static")
        assert story.attempts == ["not_executed"] * ATTEMPTS and scene.executions(tool) == ATTEMPTS

    @scenario("remote tool")
    def test_a_tool_that_lives_elsewhere_is_called_there_and_its_function_never_runs(
        self, scene: Scene, mode: Mode
    ) -> None:
        """The model knows it by a local name; the call goes to the upstream, which counts it."""
        tool = scene.tool("look", governed_as="remote.{name}")
        with_answer = {"found": "at the upstream"}
        scene.remote_answers(tool, with_answer)
        report = scene.run(mode, tool, text="ü")
        assert [told.kind for told in report.heard] == ["result"] and "at the upstream" in report.heard[0].text
        assert scene.remote_calls(tool) == [{"text": "ü"}]
        story = scene.story(f"remote.{tool}")
        assert (story.outcome, story.attempts, story.result) == ("ok", ["ok"], with_answer)
        assert scene.executions(tool) == 0

"""Scenarios: what arguments and results may be."""

from __future__ import annotations

import hashlib

from outrider.testing.conformance.scenario import scenario
from outrider.testing.conformance.script import Mode, Step
from outrider.testing.conformance.stage import Scene

LARGE_CHARS = 20 * 1024 * 1024
WORDS = 'Grüße, 世界 🌍 e\u0301 \u202eright to left\u202c\ttab\nline \\ "quoted" \u0000 \U0010ffff'


class Values:
    """non-JSON result, 20 MB result, unicode."""

    @scenario("non-JSON result")
    def test_a_result_without_a_json_form_reaches_the_agent_and_is_recorded_by_a_label(
        self, scene: Scene, mode: Mode
    ) -> None:
        """The object stays in the process: the agent gets what the framework makes of it."""
        tool = scene.tool("write", Step(gives="object", value="number 7"))
        report = scene.run(mode, tool)
        assert [told.kind for told in report.heard] == ["result"] and "opaque number 7" in report.heard[0].text
        story = scene.story(tool)
        assert (story.outcome, story.attempts) == ("ok", ["ok"]) and "opaque number 7" in str(story.result)
        assert scene.ends(tool) == ["returned"]

    @scenario("20 MB result")
    def test_a_result_of_20_mb_reaches_the_agent_whole_and_the_ledger_as_a_view(self, scene: Scene, mode: Mode) -> None:
        """Nothing of that size travels; the connection and the calls after it are as before."""
        tool, after = scene.tool("write", Step(gives="large", size=LARGE_CHARS)), scene.tool("read")
        report = scene.run(mode, tool, after)
        assert [told.kind for told in report.heard] == ["result", "result"]
        assert (report.heard[0].size, report.heard[0].digest) == (LARGE_CHARS, _digest("x" * LARGE_CHARS))
        story = scene.story(tool)
        (attempt,) = story.of_type("attempt.finished")
        assert story.outcome == "ok" and attempt["result_bytes"] >= LARGE_CHARS
        assert "x" * 1000 in str(story.result) and len(str(story.result)) < LARGE_CHARS / 100
        assert scene.story(after).outcome == "ok" and scene.executions(tool) == 1

    @scenario("unicode")
    def test_unicode_goes_through_unchanged_as_argument_and_as_result(self, scene: Scene, mode: Mode) -> None:
        """To the function, back to the agent, and into the ledger."""
        tool = scene.tool("write", Step(gives="echo"))
        report = scene.run(mode, tool, text=WORDS)
        assert [(told.kind, told.text) for told in report.heard] == [("result", WORDS)]
        assert [entry.text for entry in scene.began(tool)] == [WORDS]
        story = scene.story(tool)
        assert (story.received["args"], story.result, story.outcome) == ({"text": WORDS}, WORDS, "ok")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

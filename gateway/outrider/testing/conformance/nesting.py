"""Scenarios: agents inside tools, and calls at the same time."""

from __future__ import annotations

from outrider.testing.conformance.policy import PLACES
from outrider.testing.conformance.scenario import ALL, scenario
from outrider.testing.conformance.script import Asked, Mode, Step
from outrider.testing.conformance.stage import Scene

PARENTS = 10
PARALLEL = 3


class Nesting:
    """nested call, ten composite parents, parallel calls."""

    @scenario("nested call", modes=ALL)
    def test_a_call_inside_a_tool_is_a_child_of_it_in_the_same_run(self, scene: Scene, mode: Mode) -> None:
        """An agent as a tool: governed like any other, and the ledger says whose child it is."""
        child = scene.tool("read", Step(value="leaf"))
        parent = scene.tool("parent", Step(asks=((Asked(child),),)))
        report = scene.run(mode, parent)
        assert [(told.kind, told.text) for told in report.heard] == [("result", "leaf")]
        above, below = scene.story(parent), scene.story(child)
        assert below.received["parent_call_id"] == above.call_id and "parent_call_id" not in above.received
        assert below.received["run_id"] == above.received["run_id"]
        assert (above.outcome, below.outcome) == ("ok", "ok")
        assert (scene.executions(parent), scene.executions(child)) == (1, 1)

    @scenario("nested call", modes=ALL)
    def test_a_tool_that_called_another_is_not_repeated_when_it_fails(self, scene: Scene, mode: Mode) -> None:
        """Its child's effects would be repeated with it, also where nobody declared it composite."""
        child = scene.tool("write", Step(raises="ConnectionResetError", text="reset"))
        parent = scene.tool("read", Step(asks=((Asked(child),),), value="told"))
        report = scene.run(mode, parent)
        assert [told.kind for told in report.heard] == ["result"]
        assert (scene.story(child).outcome, scene.story(parent).attempts) == ("unknown", ["ok"])
        assert (scene.executions(parent), scene.executions(child)) == (1, 1)

    @scenario("ten composite parents", modes=ALL)
    def test_ten_parents_at_once_do_not_starve_their_children(self, scene: Scene, mode: Mode) -> None:
        """More of them run at once than there are places: a parent holds none while its child waits for one."""
        child = scene.tool("read", Step(value="leaf"))
        parent = scene.tool("parent", Step(meets=PLACES + 1, asks=((Asked(child),),)))
        reports = scene.begin(mode, parent, agents=PARENTS).reports()
        assert [[told.text for told in report.heard] for report in reports] == [["leaf"]] * PARENTS
        above, below = scene.stories(parent, PARENTS), scene.stories(child, PARENTS)
        assert {story.outcome for story in (*above, *below)} == {"ok"}
        assert {story.received["parent_call_id"] for story in below} == {story.call_id for story in above}
        assert (scene.executions(parent), scene.executions(child)) == (PARENTS, PARENTS)

    @scenario("parallel calls", modes=ALL)
    def test_the_calls_of_one_turn_run_at_once_and_each_gets_its_own_answer(self, scene: Scene, mode: Mode) -> None:
        """Side by side; one that fails does not disturb the others."""
        good, bad, other = (
            scene.tool("read", Step(until="all", value="good")),
            scene.tool("write", Step(until="all", raises="ValueError", text="bad")),
            scene.tool("read", Step(until="all", value="other")),
        )
        playing = scene.begin(mode, (good, bad, other))
        for tool in (good, bad, other):
            scene.await_execution(tool)
        scene.open("all")
        report = playing.report()
        assert [told.kind for told in report.heard] == ["result", "failure", "result"]
        assert (report.heard[0].text, report.heard[2].text) == ("good", "other") and "bad" in report.heard[1].text
        stories = [scene.story(tool) for tool in (good, bad, other)]
        assert [story.outcome for story in stories] == ["ok", "definite", "ok"]
        assert len({story.received["run_id"] for story in stories}) == 1
        assert [scene.executions(tool) for tool in (good, bad, other)] == [1] * PARALLEL

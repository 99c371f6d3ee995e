"""The examples that limit runs do what the scenarios beside them say, on the whole call path and virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider.policy.units import parse_duration
from tests.support.rig import OK, WRONG, Rig
from tests.unit.policy_cases import scenarios_of

EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"
SCENARIOS = [
    pytest.param(path.parent, scenario, id=f"{path.parent.name}: {scenario['name']}")
    for path in sorted(EXAMPLES.glob("*/*.test.yaml"))
    for scenario in scenarios_of(path)
]
TURN_S = 2.0
"""What a model takes between two calls."""


@pytest.mark.looptime
@pytest.mark.parametrize(("folder", "scenario"), SCENARIOS)
async def test_a_scenario_of_an_example_goes_as_it_says(folder: Path, scenario: dict[str, Any], tmp_path: Path) -> None:
    """Each call of the run gets the answer that it expects."""
    policy = yaml.safe_load((folder / "policy.yaml").read_text("utf-8"))
    async with Rig(tmp_path, policy) as rig:
        for number, step in enumerate(scenario["calls"]):
            assert set(step) <= {"tool", "args", "times", "distinct", "fails", "apart", "expect"}
            answer = WRONG if step.get("fails") else OK
            rig.upstream.answer = lambda attempt, answer=answer: answer
            for n in range(step.get("times", 1)):
                own = {"n": f"{number}.{n}"} if step.get("distinct") else {}
                outcome = await rig.call(step["tool"], agent=scenario["agent"], **step.get("args", {}), **own)
                told = "ok" if outcome.ok else str(outcome.code)
                assert (number, n, told) == (number, n, step["expect"]), outcome.detail
                await asyncio.sleep(parse_duration(step.get("apart", "")) or TURN_S)


def test_there_are_scenarios() -> None:
    """Of each example for a support team."""
    assert {param.values[0].name for param in SCENARIOS} == {"support-desk", "support-escalation", "support-night"}

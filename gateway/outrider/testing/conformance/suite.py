"""AdapterSuite: inherit it, name a driver, and pytest runs every scenario.

    class TestMyAdapter(conformance.AdapterSuite):
        driver = MyDriver()

One sidecar, one counting upstream and one agent's process serve the whole class; scenarios that break a sidecar bring
it back. Each test checks three things: what the agent saw, what the ledger says, and how often the function really ran.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from outrider.testing.conformance.driver import Driver
from outrider.testing.conformance.ending import Ending
from outrider.testing.conformance.kills import Kills
from outrider.testing.conformance.nesting import Nesting
from outrider.testing.conformance.outcomes import Outcomes
from outrider.testing.conformance.report import report_of
from outrider.testing.conformance.scenario import declared_against, wrong_declarations
from outrider.testing.conformance.script import Mode
from outrider.testing.conformance.sidecars import Sidecars
from outrider.testing.conformance.stage import Scene, Stage
from outrider.testing.conformance.timeouts import Timeouts
from outrider.testing.conformance.values import Values
from outrider.testing.conformance.versions import Versions


class AdapterSuite(Ending, Versions, Sidecars, Values, Nesting, Kills, Timeouts, Outcomes):
    """The promises of an adapter. ``driver`` is yours. pytest runs the tests of the last base first."""

    driver: ClassVar[Driver]

    @pytest.fixture(scope="class")
    @classmethod
    def stage(cls) -> Iterator[Stage]:
        stage = Stage(cls.driver)
        try:
            stage.start()
            yield stage
        finally:
            stage.close()

    @pytest.fixture
    def scene(self, request: pytest.FixtureRequest, mode: Mode) -> Iterator[Scene]:
        name, _ = request.function.__outrider_scenario__
        key = declared_against(self.driver, name, mode)
        if key:
            driver, reason = type(self.driver).__name__, self.driver.not_offered[key]
            report_of(request.config).note(driver, key, reason)
            pytest.skip(f"not offered by {driver}: {key}: {reason}")
        stage: Stage = request.getfixturevalue("stage")
        scene = stage.scene()
        try:
            yield scene
        finally:
            scene.close()

    def test_the_driver_declares_only_what_exists_and_says_why(self) -> None:
        """A misspelt scenario, or one without a reason, would be a promise broken in silence."""
        wrong = wrong_declarations(self.driver, type(self))
        assert not wrong, "; ".join(wrong)

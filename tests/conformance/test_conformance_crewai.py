"""CrewAI's adapter keeps every promise of the suite."""

from __future__ import annotations

from outrider.testing import conformance
from tests.conformance.drivers.crewai import CrewAIDriver


class TestCrewAI(conformance.AdapterSuite):
    driver = CrewAIDriver()

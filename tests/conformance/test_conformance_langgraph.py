"""LangGraph's adapter keeps every promise of the suite."""

from __future__ import annotations

from outrider.testing import conformance
from tests.conformance.drivers.langgraph import LangGraphDriver


class TestLangGraph(conformance.AdapterSuite):
    driver = LangGraphDriver()

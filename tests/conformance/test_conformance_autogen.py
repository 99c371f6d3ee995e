"""AutoGen's adapter keeps every promise of the suite."""

from __future__ import annotations

from outrider.testing import conformance
from tests.conformance.drivers.autogen import AutoGenDriver


class TestAutoGen(conformance.AdapterSuite):
    driver = AutoGenDriver()

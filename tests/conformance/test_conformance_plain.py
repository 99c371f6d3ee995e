"""Plain functions keep every promise of the suite."""

from __future__ import annotations

from outrider.testing import conformance
from tests.conformance.drivers.plain import PlainDriver


class TestPlainFunctions(conformance.AdapterSuite):
    driver = PlainDriver()

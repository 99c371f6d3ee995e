"""Prove an adapter: the promises of Outrider, kept through a framework's real agent loop against a real sidecar.

    from outrider.testing import conformance

    class MyDriver(conformance.Driver):
        ...                                    # how an agent of the framework is built and what it says

    class TestMyAdapter(conformance.AdapterSuite):
        driver = MyDriver()

conformance.driver    what a third party writes: Driver, and the words it speaks
conformance.suite     AdapterSuite: the scenarios, each one test with the promise as its name
"""

from outrider.testing.conformance import rewriting  # isort: skip  (first: what is imported before is not rewritten)
from outrider.testing.conformance.driver import Ask, Driver, Ran, Told, Tool, Turns
from outrider.testing.conformance.suite import AdapterSuite

assert rewriting

__all__ = ["AdapterSuite", "Ask", "Driver", "Ran", "Told", "Tool", "Turns"]

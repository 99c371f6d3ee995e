"""Says at the end of every run what a driver does not offer: a promise that was not tried must not look kept."""

from __future__ import annotations

from collections import defaultdict

import pytest

NAME = "outrider-conformance-report"


class ConformanceReport:
    """A plugin that the suite registers by itself."""

    def __init__(self) -> None:
        self._missing: dict[str, dict[str, str]] = defaultdict(dict)

    def note(self, driver: str, scenario: str, reason: str) -> None:
        self._missing[driver][scenario] = reason

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for driver, missing in self._missing.items():
            terminalreporter.section(f"not offered by {driver}")
            for scenario, reason in missing.items():
                terminalreporter.write_line(f"{scenario}: {reason}")


def report_of(config: pytest.Config) -> ConformanceReport:
    """The one of this run."""
    found = config.pluginmanager.get_plugin(NAME)
    if isinstance(found, ConformanceReport):
        return found
    made = ConformanceReport()
    config.pluginmanager.register(made, NAME)
    return made

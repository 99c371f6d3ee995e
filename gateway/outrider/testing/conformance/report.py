"""Says at the end of every run what a driver does not offer: a promise that was not tried must not look kept."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

NAME = "outrider-conformance-report"


class ConformanceReport:
    """A plugin that the suite registers by itself."""

    def __init__(self) -> None:
        self._missing: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)

    def note(self, driver: str, key: str, reason: str) -> None:
        """One test was left out, because the driver declares ``key``."""
        self._missing[driver][key, reason] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for driver, missing in self._missing.items():
            terminalreporter.section(f"not offered by {driver}")
            for (key, reason), count in missing.items():
                terminalreporter.write_line(f"{key} ({count} {'test' if count == 1 else 'tests'}): {reason}")


def report_of(config: pytest.Config) -> ConformanceReport:
    """The one of this run."""
    found = config.pluginmanager.get_plugin(NAME)
    if isinstance(found, ConformanceReport):
        return found
    made = ConformanceReport()
    config.pluginmanager.register(made, NAME)
    return made

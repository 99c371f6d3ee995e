"""A pytest plugin, loaded into the process of an upstream suite: installs the adapter, keeps the process off the
network, and writes down what became of each test.

UPSTREAM_FRAMEWORK  the adapter's module, ``langgraph`` …
UPSTREAM_INSTALL    1: install it
UPSTREAM_OUTCOMES   the file that the outcomes go to
"""

from __future__ import annotations

import errno
import importlib
import ipaddress
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from upstream_witness import Witness

TOLD = 4000
"""Characters kept of why a test failed."""


class Outcomes:
    """The worst of a test's phases is its outcome."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness
        self.tests: dict[str, str] = {}
        self.why: dict[str, str] = {}

    def note(self, name: str, outcome: str, why: str = "") -> None:
        if self.tests.get(name) != "failed":
            self.tests[name] = outcome
        if outcome == "failed":
            self.why.setdefault(name, why[-TOLD:])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.note(report.nodeid, "failed", report.longreprtext)
        elif report.when == "call" or report.skipped:
            self.note(report.nodeid, report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.note(f"collecting {report.nodeid}", "failed", report.longreprtext)

    def pytest_sessionfinish(self) -> None:
        told = {
            "tests": self.tests,
            "why": self.why,
            "adapters": _adapters(),
            "governed": dict(self.witness.governed),
            "direct": dict(self.witness.direct),
        }
        Path(os.environ["UPSTREAM_OUTCOMES"]).write_text(json.dumps(told))


def _adapters() -> list[str]:
    """The adapters that are installed; in the round without one there must be none."""
    prefix = "outrider_adapters."
    known = ("langgraph", "crewai", "autogen")
    return [name for name in known if prefix + name in sys.modules]


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is collected, and after the suite's own conftest."""
    sys.addaudithook(_stay_at_home)
    framework = os.environ["UPSTREAM_FRAMEWORK"]
    if os.environ["UPSTREAM_INSTALL"] == "1":
        importlib.import_module(f"outrider_adapters.{framework}").install(agent="upstream-suite")
    config.pluginmanager.register(Outcomes(Witness(framework)), "outrider-outcomes")


def _stay_at_home(event: str, args: tuple[Any, ...]) -> None:
    """No test of somebody else's leaves this machine, with credentials that happen to be here or without."""
    if event == "socket.connect" and isinstance(args[1], tuple) and not _is_here(args[1][0]):
        raise OSError(errno.ENETUNREACH, "the upstream suites run without a network")
    if event == "socket.getaddrinfo" and not _is_here(args[0]):
        raise socket.gaierror(socket.EAI_NONAME, "the upstream suites run without a network")


def _is_here(host: Any) -> bool:
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False

"""What every test shares: Hypothesis profiles, and a bound on waiting in virtual time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A timed example on a shared machine fails by itself now and then, so no example has a deadline.
settings.register_profile("dev", deadline=None, max_examples=100, stateful_step_count=50)
# The same examples on every run of CI: a red run can be repeated, and no run is red by luck.
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, database=None, print_blob=True)
# For a person who looks for trouble: HYPOTHESIS_PROFILE=thorough
settings.register_profile(
    "thorough",
    parent=settings.get_profile("dev"),
    max_examples=2000,
    stateful_step_count=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

IDLE_TIMEOUT_S = 5
"""Real seconds after which a test in virtual time that waits for nothing that could come is ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``@pytest.mark.looptime`` alone gets an idle timeout, so that a lost wake-up fails instead of hanging."""
    for item in items:
        marks = list(item.iter_markers("looptime"))
        if marks and not any("idle_timeout" in mark.kwargs for mark in marks):
            item.add_marker(pytest.mark.looptime(idle_timeout=IDLE_TIMEOUT_S))


@pytest.fixture(autouse=True)
def _log_handlers_stay_as_they_were() -> Iterator[None]:
    """A command that sets up the log of its process, called inside this one, would leave a handler behind that writes
    to a stream of a test that is over; every line logged later would then cost a traceback."""
    before, level = logging.root.handlers[:], logging.root.level
    yield
    if logging.root.handlers != before:
        logging.root.handlers[:] = before
        logging.root.setLevel(level)

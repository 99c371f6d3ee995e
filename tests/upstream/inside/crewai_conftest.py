"""What CrewAI's suite expects of a conftest that its sdist does not hold: a storage folder and an event bus of its own
for each test, and the place of its recorded answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path / "storage"))


@pytest.fixture(autouse=True)
def _event_bus() -> Iterator[None]:
    from crewai.events.event_bus import crewai_event_bus

    with crewai_event_bus.scoped_handlers():
        yield


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that has no recorded answer never gets one, however long its client waits between tries."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.0)


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    """Recorded answers only; nothing is ever recorded."""
    return {"record_mode": "none"}


@pytest.fixture(scope="module")
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    """``tests/tools/test_x.py`` has its records in ``tests/cassettes/tools``."""
    tests = Path(request.config.rootpath) / "tests"
    return str(tests / "cassettes" / request.path.parent.relative_to(tests))

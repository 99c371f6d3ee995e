"""A short soak: the long one is ``python -m tests.soak``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(240)
def test_after_faults_kills_and_restarts_nothing_leaked_and_nothing_happened_twice(tmp_path: Path) -> None:
    """Half a minute of what five do by hand, with the two kinds of agents that start quickest."""
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.35", "--frameworks", "plain", "langgraph"]
    done = subprocess.run([*command, "--json", str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads(file.read_text())
    assert found["ledger"]["ended ok"] > 100 and found["effects"] > 20 and len(found["troubles"]) > 3

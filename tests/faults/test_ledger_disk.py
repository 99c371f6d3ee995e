"""A full disk under the ledger: a real one where this machine lets us mount one, and SQLite's page limit anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("ledger_disk_child.py")
IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
"""Its mounts are nobody else's and go with it; needs no root where the kernel allows user namespaces."""


def may_mount(folder: Path) -> bool:
    trial = [*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    return (
        shutil.which("unshare") is not None and subprocess.run(trial, check=False, capture_output=True).returncode == 0
    )


def run(before: list[str], disk: str, folder: Path) -> dict[str, Any]:
    command = [*before, sys.executable, str(CHILD), disk, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def limited_by_pages(folder: Path) -> dict[str, Any]:
    return run([], "pages", folder)


def limited_by_the_disk(folder: Path) -> dict[str, Any]:
    """The file system where one may be mounted; the test's output says which it was."""
    mounted = may_mount(folder)
    print("disk:", "tmpfs" if mounted else "pages")
    return run(IN_A_NAMESPACE, "tmpfs", folder) if mounted else limited_by_pages(folder)


@pytest.mark.parametrize("disk", [limited_by_pages, limited_by_the_disk])
def test_on_a_full_disk_starts_are_refused_ends_and_kills_are_written_and_it_recovers(
    tmp_path: Path, disk: Any
) -> None:
    """Out of the reserve; by itself once somebody made room; and the ledger verifies."""
    told = disk(tmp_path)
    assert "disk of the data folder is full" in told.pop("why")
    assert told.pop("begun") >= told["ended"] > 0
    told.pop("ended")
    assert told == {
        "kill_written": True, "refused_while_full": True, "reserve_used": True, "recovered": True,
        "refused_after": False, "reserve_back": True, "verified": True,
    }  # fmt: skip

"""``outrider demo`` as a newcomer runs it: everything happens as told, in time, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

LIMIT_S = 60.0
COMMAND = [sys.executable, "-m", "outrider", "demo", "--json"]


class Footprint:
    """Finds what a demonstration leaves: processes by a mark in their environment, files by the folder for them."""

    def __init__(self, folder: Path) -> None:
        self.mark = uuid4().hex
        self.folder = folder
        self.env = {**os.environ, "DEMO_MARK": self.mark, "TMPDIR": str(folder)}

    def processes(self) -> list[str]:
        """The command lines of those that run."""
        return [
            (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._is_marked(entry)
        ]

    def _is_marked(self, entry: Path) -> bool:
        try:
            return f"DEMO_MARK={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            return False

    def files(self) -> list[Path]:
        return list(self.folder.iterdir())


def test_everything_happens_as_told(tmp_path: Path) -> None:
    """Exit 0, in time, the summary as the last line, no write twice, the ledger verified, nothing left behind."""
    footprint = Footprint(tmp_path)
    began = time.monotonic()
    ended = subprocess.run(
        COMMAND, env=footprint.env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=110, check=False
    )
    took_s = time.monotonic() - began
    told = json.loads(ended.stdout.splitlines()[-1]) if ended.stdout else {}
    false = [claim for claim in told.get("claims", []) if not claim["true"]]
    assert ended.returncode == 0, f"{false}\n{ended.stderr[-6000:]}"
    assert took_s < LIMIT_S
    assert told["ok"] is True and len(told["claims"]) >= 20 and false == []

    without, governed = told["without_outrider"], told["with_outrider"]
    assert governed["writes_executed_twice"] == 0 < without["writes_executed_twice"]
    assert governed["writes_lost"] == 0 < without["writes_lost"]
    assert governed["customers_deleted"] == 0 < without["customers_deleted"]
    assert governed["refunds"] < without["refunds"]
    assert governed["tasks"]["crashed"] == governed["tasks"]["stuck"] == 0
    assert governed["tasks"]["completed"] > without["tasks"]["completed"]
    assert told["breaker"][0] == told["breaker"][-1] == "closed" and "open" in told["breaker"]
    assert told["kill"]["scope"] == "agent:night-shift" and told["kill"]["calls"]
    assert told["ledger"]["verified"] is True and told["ledger"]["records"] > 100

    assert footprint.processes() == []
    assert footprint.files() == []


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C, twice, while its processes are starting: exit 130, and they are gone."""
    footprint = Footprint(tmp_path)
    demo = subprocess.Popen(
        COMMAND,
        env=footprint.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # a shell that starts this in the background would have it ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        _wait_until(lambda: len(footprint.processes()) >= 4)
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 130
    finally:
        demo.kill()
        demo.wait()
    assert footprint.processes() == []
    assert footprint.files() == []


def test_a_killed_demonstration_leaves_no_process_behind(tmp_path: Path) -> None:
    """SIGKILL lets it end nothing: its children see that it is gone. Its folder stays, with nobody to remove it."""
    footprint = Footprint(tmp_path)
    demo = subprocess.Popen(
        COMMAND,
        env=footprint.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until(lambda: any(tmp_path.rglob("*-with.log")))  # the agents that the sidecar, then ready, governs
        assert any(" serve " in line for line in footprint.processes())
    finally:
        demo.kill()
        demo.wait()
    _wait_until(lambda: footprint.processes() == [])


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)

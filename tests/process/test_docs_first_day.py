"""docs/first-day.md keeps its word: its program and its commands are run, in their order, with a real sidecar."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from outrider.testing.process import ManagedProcess

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "first-day.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PATIENCE_S = 15.0


class Desk:
    """A folder, a shell, and the environment of a newcomer on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        plain = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
        self.env = plain | {
            "PATH": path, "PWD": str(folder), "OUTRIDER_LISTEN": "127.0.0.1:0", "OUTRIDER_CONTROL": "127.0.0.1:0",
            "OUTRIDER_CONNECT_WAIT": "20",
        }  # fmt: skip

    def serve(self, words: list[str]) -> ManagedProcess:
        """The only command that stays; it is started in the folder as the page says."""
        sidecar = ManagedProcess(["env", "-C", str(self.folder), *words], "outrider ready", env=self.env)
        sidecar.start()
        return sidecar

    def run(self, line: str) -> str:
        done = subprocess.run(
            line, shell=True, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        return done.stdout


def test_the_page_is_a_day_that_happens(tmp_path: Path) -> None:
    """Observe, understand, suggest, check, enforce: each command succeeds and tells what the page says."""
    desk = Desk(tmp_path)
    (program,) = [text for kind, text in BLOCKS if kind == "python"]
    (tmp_path / "agent.py").write_text(program)
    told: dict[str, str] = {}
    sidecar: ManagedProcess | None = None
    try:
        for line in [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]:
            if line.startswith("outrider serve"):
                sidecar = desk.serve(line.split())
            else:
                told[line.partition(" --")[0]] = desk.run(line)
        assert sidecar is not None and "MODE OBSERVE" in sidecar.log
        enforced(desk)
    finally:
        if sidecar is not None and sidecar.running:
            sidecar.terminate()
    assert "local.shell" in told["outrider ledger search"]
    text = (tmp_path / "suggested" / "policy.yaml").read_text()
    assert "tools: [local.get_order, local.refund]" in text
    assert "not allowed: 'local.shell' by 'support': 1 x denied by the rule 'no shell and no interpreter'" in text
    assert "local.refund by stranger is refused (no_rule)" in told["outrider explain"]


def enforced(desk: Desk) -> None:
    """The copied policy is in force: the same program now stops at the shell, and at nothing before it."""
    end = time.monotonic() + PATIENCE_S
    while '"mode":"enforce"' not in desk.run("outrider ledger tail --json | tr -d ' '"):
        assert time.monotonic() < end, "the changed policy never came into force"
        time.sleep(0.1)
    line = "outrider run --agent support -- python agent.py"
    done = subprocess.run(
        line, shell=True, cwd=desk.folder, env=desk.env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1 and "this tool runs arbitrary commands" in done.stderr, done.stderr
    refused = desk.run("outrider ledger search --type call.refused --json")
    assert refused.count("call.refused") == 1 and "local.shell" in refused

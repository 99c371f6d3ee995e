"""The examples of docs/testing.md, run as a user would run them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from outrider.testing.script import Script

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLE = re.compile(r"^```(?:python|json) file=(\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_pass(tmp_path: Path) -> None:
    """In a folder of their own, with no settings but their own conftest."""
    examples = dict(EXAMPLE.findall(PAGE.read_text()))
    assert {"conftest.py", "test_payments.py", "test_restart.py", "test_async.py", "script.json"} == examples.keys()
    for name, text in examples.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "5 passed" in ended.stdout


def test_the_page_s_script_is_one() -> None:
    """The JSON on the page is what the upstream reads."""
    (shown,) = [text for name, text in EXAMPLE.findall(PAGE.read_text()) if name == "script.json"]
    script = Script.from_json(json.loads(shown))
    assert [script.next("POST", "/pay").do.value for _ in range(4)] == ["respond", "reset", "reset", "respond"]

"""The runner of the frameworks' own suites: it finds what an adapter changes, and does not take silence for success."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.upstream.__main__ import main, show
from tests.upstream.compare import Verdict
from tests.upstream.rounds import Round, RoundBroken, Seen, _environment, through_adapter, without_adapter
from tests.upstream.suites import LANGGRAPH_PREBUILT, SUITES, Suite
from tests.upstream.workshop import HERE, INSIDE, ROOT, Unavailable, Workshop

SMALL = Suite(package="langgraph-prebuilt", adapter="langgraph", measured="1", least_tests=2, least_calls=3)
TOOLS = """
    import threading
    import pytest
    from langchain_core.tools import tool

    class Mine(Exception):
        pass

    @tool
    def works(n: int) -> int:
        \"\"\"Works.\"\"\"
        return n + 1

    @tool
    def fails(n: int) -> int:
        \"\"\"Fails.\"\"\"
        raise Mine(str(n))
"""
THE_SAME = """
    def test_a_result():
        assert works.invoke({"n": 1}) == 2

    def test_the_very_exception():
        with pytest.raises(Mine, match="^7$"):
            fails.invoke({"n": 7})

    @pytest.mark.parametrize("n", [1, 2])
    def test_parameters(n):
        assert works.invoke({"n": n}) == n + 1

    def test_that_fails_anyway():
        assert works.invoke({"n": 1}) == 3

    def test_skipped():
        pytest.skip("no")
"""


def _suite(folder: Path, text: str) -> Path:
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "test_small.py").write_text(textwrap.dedent(TOOLS) + textwrap.dedent(text))
    return folder


def _both(tmp_path: Path, text: str) -> Verdict:
    python = Path(sys.executable)
    without = without_adapter(SMALL, python, _suite(tmp_path / "without", text))
    through = through_adapter(SMALL, python, _suite(tmp_path / "through", text), tmp_path / "data")
    return Verdict(SMALL, "1", without, through)


# ── real rounds ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_transparent_adapter_changes_nothing_and_every_call_is_seen(tmp_path: Path) -> None:
    """Results, original exceptions, and what fails anyway; counted by the ledger and by the tools' bodies."""
    verdict = _both(tmp_path, THE_SAME)
    assert verdict.faults == [] and verdict.differences == []
    assert {name.rpartition("::")[2]: outcome for name, outcome in verdict.through.tests.items()} == {
        "test_a_result": "passed",
        "test_the_very_exception": "passed",
        "test_parameters[1]": "passed",
        "test_parameters[2]": "passed",
        "test_that_fails_anyway": "failed",
        "test_skipped": "skipped",
    }
    seen = verdict.through.seen
    assert (seen.calls, seen.attempts, dict(seen.outcomes), seen.open) == (5, 5, {"ok": 4, "definite": 1}, 0)
    assert sum(verdict.through.governed.values()) == sum(verdict.without.direct.values()) == 5
    assert verdict.without.seen == Seen() and not verdict.without.governed


def test_a_test_that_the_adapter_changes_is_found(tmp_path: Path) -> None:
    """Governed, a synchronous tool runs on a thread of its own: a suite that forbids that ends otherwise."""
    text = """
    @tool
    def where(n: int) -> str:
        \"\"\"Where.\"\"\"
        return threading.current_thread().name

    def test_where():
        assert where.invoke({"n": 1}) == "MainThread"

    def test_a_result():
        assert works.invoke({"n": 1}) == 2
    """
    verdict = _both(tmp_path, text)
    (difference,) = verdict.differences
    assert difference.test.endswith("::test_where")
    assert (difference.without, difference.through) == ("passed", "failed")
    assert "outrider-worker" in difference.why
    assert any("1 tests end otherwise" in fault for fault in verdict.faults)


def test_a_body_that_runs_beside_every_governed_call_is_found(tmp_path: Path) -> None:
    """What goes round the seam is told with the test that did it."""
    text = """
    def test_beside():
        assert works._run(1, config={}) == 2

    def test_governed():
        assert works.invoke({"n": 1}) == 2
    """
    verdict = _both(tmp_path, text)
    assert {name.rpartition("::")[2]: n for name, n in verdict.through.direct.items()} == {"test_beside": 1}
    assert any("1 tool bodies ran outside" in fault and "test_beside" in fault for fault in verdict.faults)


def test_a_suite_reaches_nothing_but_this_machine(tmp_path: Path) -> None:
    """Names are not resolved, addresses not connected to; loopback is."""
    text = """
    import socket

    def test_names():
        with pytest.raises(socket.gaierror, match="without a network"):
            socket.create_connection(("outrider.invalid", 80))

    def test_addresses():
        with pytest.raises(OSError, match="without a network"):
            socket.create_connection(("192.0.2.1", 80), timeout=0.2)

    def test_loopback():
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()
    """
    plain = without_adapter(SMALL, Path(sys.executable), _suite(tmp_path / "plain", text))
    assert plain.count("passed") == 3, plain.why


def test_a_file_that_cannot_be_collected_is_a_failure_by_name(tmp_path: Path) -> None:
    """A suite that lost a file must not look like one that passed."""
    plain = without_adapter(SMALL, Path(sys.executable), _suite(tmp_path / "plain", "\n    import no_such_module\n"))
    assert list(plain.failing) == ["collecting tests/test_small.py"]
    assert "no_such_module" in plain.why["collecting tests/test_small.py"]


def test_a_suite_that_crashes_tells_nothing_and_is_no_success(tmp_path: Path) -> None:
    """No outcomes, no comparison; what its process said last is in the message."""
    text = """
    import os

    def test_crash():
        os._exit(3)
    """
    with pytest.raises(RoundBroken, match="told nothing; exit code 3"):
        without_adapter(SMALL, Path(sys.executable), _suite(tmp_path / "crashes", text))
    folder = _suite(tmp_path / "broken", "")
    (folder / "tests" / "conftest.py").write_text("raise RuntimeError('farewell')\n")
    with pytest.raises(RoundBroken, match="farewell"):
        without_adapter(SMALL, Path(sys.executable), folder)


def test_credentials_and_settings_of_ours_do_not_reach_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's tests run with the rights of whoever starts them."""
    for name in ("OPENAI_API_KEY", "HTTPS_PROXY", "OUTRIDER_URL", "PYTEST_ADDOPTS", "SOME_TOKEN", "PYTHONPATH"):
        monkeypatch.setenv(name, "ours")
    assert "ours" not in _environment().values()
    assert _environment()["PYTHONPATH"] == str(INSIDE)


# ── what is a fault ──────────────────────────────────────────────────────────────────────────────────────────────


def _round(**changes: Any) -> Round:
    tests = {"a": "passed", "b": "failed"}
    fine = Round(tests, {"b": "why b"}, (), {}, {"a": 3}, 1.0, Seen())
    return dataclasses.replace(fine, **changes)


def _governed(**changes: Any) -> Round:
    seen = Seen(calls=3, attempts=3, outcomes={"ok": 3})
    return _round(**{"adapters": ("langgraph",), "governed": {"a": 3}, "direct": {}, "seen": seen, **changes})


def _seen(**changes: Any) -> Round:
    return _governed(seen=dataclasses.replace(_governed().seen, **changes))


def test_the_same_outcomes_and_enough_calls_are_no_fault() -> None:
    """The other cases here differ from this one in one thing each."""
    assert Verdict(SMALL, "1", _round(), _governed()).faults == []


@pytest.mark.parametrize(
    ("without", "through", "fault"),
    [
        (_round(), _governed(tests={"a": "failed", "b": "failed"}), "1 tests end otherwise"),
        (_round(), _governed(tests={"a": "passed", "b": "passed"}), "1 tests end otherwise"),
        (_round(), _governed(tests={"a": "skipped", "b": "failed"}), "1 tests end otherwise"),
        (_round(), _governed(tests={"a": "passed"}), "1 tests end otherwise"),
        (_round(tests={"a": "passed"}), _governed(tests={"a": "passed"}), "1 tests ran; 2 are known"),
        (_round(), _seen(calls=2, attempts=2), "the gateway saw 2 calls; 3 are known"),
        (_round(), _seen(attempts=4), "4 attempts of 3 calls"),
        (_round(), _seen(refusals={"overloaded": 1}), "refused: {'overloaded': 1}"),
        (_round(), _seen(intact=False), "the ledger does not verify"),
        (_round(), _governed(adapters=()), "adapters loaded"),
        (_round(adapters=("langgraph",)), _governed(), "adapters loaded"),
        (_round(), _governed(direct={"a": 1}), "1 tool bodies ran outside of every governed call: {'a': 1}"),
    ],
)
def test_each_way_to_differ_is_a_fault(without: Round, through: Round, fault: str) -> None:
    """One at a time, in words."""
    (told,) = Verdict(SMALL, "1", without, through).faults
    assert fault in told


def test_the_report_names_every_difference_and_its_reason() -> None:
    """For people and for programs."""
    why = "line one\nAssertionError: [not markup]"
    verdict = Verdict(SMALL, "1", _round(), _governed(tests={"a": "failed", "b": "failed"}, why={"a": why}))
    console = Console(record=True, width=160, file=io.StringIO())
    show(console, [verdict])
    text = console.export_text()
    for words in ("faults", "a: passed → failed", "AssertionError: [not markup]", "1 tests end otherwise"):
        assert words in text
    told = json.loads(json.dumps(verdict.as_json()))
    assert told["differences"] == [{"test": "a", "without": "passed", "through": "failed", "why": why}]
    assert told["failing"] == ["b"] and told["seen"]["calls"] == 3 and len(told["faults"]) == 1


# ── what cannot be had ───────────────────────────────────────────────────────────────────────────────────────────


def test_an_index_that_cannot_be_reached_is_told_and_not_taken_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and pip's own words."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert main(["langgraph", "--scratch", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "Nothing is known: pip download" in told and "No matching distribution" in told


def test_a_framework_that_is_not_installed_is_told_with_what_installs_it(tmp_path: Path) -> None:
    """The suite must be that of the version which is governed here."""
    missing = dataclasses.replace(SMALL, package="no-such-package", adapter="crewai")
    with pytest.raises(Unavailable, match=r"not installed here: pip install -c constraints.txt -e \"\.\[crewai\]\""):
        Workshop(tmp_path).sdist(missing)


def _archive(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"#"))
    return path


def test_only_tests_and_settings_are_taken_from_an_sdist(tmp_path: Path) -> None:
    """The code under test is the one that is installed, never a copy of it."""
    names = ["p-1/pyproject.toml", "p-1/p/__init__.py", "p-1/tests/test_a.py", "p-1/setup.py", "p-1/PKG-INFO"]
    suite = dataclasses.replace(SMALL, folder="lib/p", conftest="crewai_conftest.py")
    base = Workshop(tmp_path).unpack(suite, _archive(tmp_path / "p-1.tar.gz", names), tmp_path / "out")
    assert base == tmp_path / "out" / "lib" / "p"
    found = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
    assert found == {"pyproject.toml", "tests/test_a.py", "conftest.py"}


def test_an_sdist_that_would_write_elsewhere_is_refused(tmp_path: Path) -> None:
    """The archive is somebody else's."""
    bad = _archive(tmp_path / "p-1.tar.gz", ["p-1/tests/test_a.py", "p-1/tests/../../../../evil"])
    with pytest.raises(tarfile.OutsideDestinationError):
        Workshop(tmp_path).unpack(SMALL, bad, tmp_path / "out")
    with pytest.raises(Unavailable, match="holds no tests"):
        Workshop(tmp_path).unpack(SMALL, _archive(tmp_path / "q-1.tar.gz", ["q-1/README"]), tmp_path / "empty")


# ── the table of suites ──────────────────────────────────────────────────────────────────────────────────────────


def test_every_version_is_pinned_and_the_one_that_was_measured() -> None:
    """What changes the versions must measure again."""
    lines = [line for name in (ROOT / "constraints.txt", HERE / "pins.txt") for line in name.read_text().splitlines()]
    pinned = dict(line.partition(" ;")[0].split("==") for line in lines if "==" in line)
    for suite in (suite for group in SUITES.values() for suite in group):
        assert pinned[suite.package] == suite.measured
        assert all(need in pinned for need in suite.needs), suite.package
    assert LANGGRAPH_PREBUILT.least_calls >= 392


def test_the_page_has_the_results_of_every_suite_as_it_was_measured() -> None:
    """Another version, or fewer calls than the page says, and the page must be written anew."""
    rows = [line for line in (ROOT / "docs" / "coverage.md").read_text().splitlines() if line.startswith("| ")]
    for suite in (suite for group in SUITES.values() for suite in group):
        (row,) = [line for line in rows if line.startswith(f"| {suite.package} {suite.measured}")]
        _, tests, failing, calls, bodies, _ = (cell.strip() for cell in row.strip("| ").split(" | "))
        assert int(tests) == suite.least_tests and int(calls) >= suite.least_calls
        without, through = failing.split(" / ")
        assert without == through and bodies.endswith(f" / {suite.direct}")

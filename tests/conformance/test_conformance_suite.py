"""The suite itself: it can fail, it says what it did not try, and its page is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from outrider.testing import conformance
from outrider.testing.conformance.agent import AgentProcess
from outrider.testing.conformance.scenario import scenarios_of
from tests.support.adapters import eventually

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "conformance.md"
EXAMPLE = re.compile(r"^```python file=(\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `([^`]+)` \| ([a-z, ]+) \|", re.MULTILINE)

UNGOVERNED = """
    from outrider.testing import conformance

    class Driver(conformance.Driver):
        framework = "python"
        not_offered = {"async": "no loop", "mixed": "no loop", "fork": "it has a reason"}
        def install(self): ...
        def run(self, tools, turns):
            functions, told = {tool.name: tool.function for tool in tools}, []
            for ask in [ask for turn in turns for ask in turn]:
                try:
                    told.append(conformance.Told("result", str(functions[ask.tool](**ask.args))))
                except Exception as error:
                    told.append(conformance.Told("failure", str(error)))
            return conformance.Ran(told)

    class TestIt(conformance.AdapterSuite):
        driver = Driver()
"""


def suite(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A third party's test file, run by pytest in a folder of its own."""
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_an_adapter_that_governs_nothing_fails(tmp_path: Path) -> None:
    """Denied calls that run, kills that end nothing, failures that nobody retries."""
    chosen = "denied or kill_before_the_call or tried_again_and or fallback or lives_elsewhere"
    done = suite(tmp_path, UNGOVERNED, "-k", f"({chosen}) and sync and not async")
    assert "5 failed" in done.stdout and "passed" not in done.stdout, done.stdout


def test_what_a_driver_does_not_offer_is_reported_with_its_reason(tmp_path: Path) -> None:
    """At the end of the run, whatever options pytest has; nothing is started for it."""
    done = suite(tmp_path, UNGOVERNED, "-k", "forked or declares or (hangs_is_tried and mixed)", "-r", "N")
    assert done.returncode == 0 and "1 passed, 3 skipped" in done.stdout, done.stdout
    assert "not offered by Driver" in done.stdout
    assert "fork (2 tests): it has a reason" in done.stdout and "mixed (1 test): no loop" in done.stdout


def test_a_declaration_that_is_no_scenario_or_has_no_reason_fails(tmp_path: Path) -> None:
    """A misspelt one would offer less than it says."""
    wrong = UNGOVERNED.replace('"fork": "it has a reason"', '"forks": "misspelt", "unicode[async]": " "')
    done = suite(tmp_path, wrong, "-k", "declares")
    assert "'forks' is neither a scenario nor a mode" in done.stdout and "'unicode[async]' has no reason" in done.stdout


def test_a_driver_that_cannot_be_installed_says_why(tmp_path: Path) -> None:
    """The traceback of the agent's process is in the failed test."""
    broken = UNGOVERNED.replace("def install(self): ...", "def install(self): raise ImportError('no such framework')")
    done = suite(tmp_path, broken, "-k", "denied and sync and not async")
    assert "1 failed" in done.stdout and "no such framework" in done.stdout, done.stdout


def test_an_agents_process_that_dies_is_replaced_for_the_next_scenario(tmp_path: Path) -> None:
    """One failure is one failure."""
    dying = UNGOVERNED.replace(
        "functions, told = ", "import os; 'denied' in tools[0].name and os._exit(7); functions, told = "
    )
    done = suite(tmp_path, dying, "-k", "(denied or kill_before_the_call) and sync and not async")
    assert "the agent's process died" in done.stdout and "drill' in ''" in done.stdout, done.stdout


def test_what_a_driver_raises_is_shown(tmp_path: Path) -> None:
    """A final error must be told, not raised."""
    raising = UNGOVERNED.replace("except Exception as error", "except KeyError as error").replace(
        "str(functions[ask.tool](**ask.args))", "str(1 / 0)"
    )
    done = suite(tmp_path, raising, "-k", "denied and sync and not async")
    assert "the driver raised what it should have told" in done.stdout and "ZeroDivisionError" in done.stdout


class ForkingDriver(conformance.Driver):
    """Leaves a child behind that never ends."""

    def install(self) -> None:
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        Path("child").write_text(str(pid))

    def run(self, tools: Sequence[conformance.Tool], turns: conformance.Turns) -> conformance.Ran:
        raise AssertionError("nothing is played here")


def test_what_an_agents_process_forked_ends_with_it(tmp_path: Path) -> None:
    """Nothing of a broken adapter is left running."""
    agent = AgentProcess(ForkingDriver(), tmp_path / "agent", {})
    try:
        agent.await_ready()
        child = Path(f"/proc/{(tmp_path / 'agent' / 'child').read_text()}/stat")
        assert child.exists()
    finally:
        agent.kill9()
    eventually(lambda: has_ended(child))


def has_ended(stat: Path) -> bool:
    """Gone, or waited for by nobody."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_importing_the_suite_imports_no_framework() -> None:
    """A third party has one, and not ours."""
    program = (
        "import sys, outrider.testing.conformance\n"
        "heavy = {'langgraph', 'langchain_core', 'crewai', 'autogen_core', 'outrider_adapters', 'pydantic'}\n"
        "found = heavy & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(found)}' if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_names_every_scenario_and_its_modes() -> None:
    """No more and no less."""
    text = PAGE.read_text()
    table = text[text.index("<!-- scenarios -->") : text.index("<!-- end -->")]
    shown = {name: tuple(modes.split(", ")) for name, modes in ROW.findall(table)}
    known = {name: set(modes) for name, modes in scenarios_of(conformance.AdapterSuite).items()}
    assert {name: set(modes) for name, modes in shown.items()} == known


def test_the_adapter_of_the_page_keeps_the_suite(tmp_path: Path) -> None:
    """All three files as a reader would write them. Scenarios that take seconds are left out here: the reference
    client runs them."""
    examples = dict(EXAMPLE.findall(PAGE.read_text()))
    assert examples.keys() == {"tiny_framework.py", "tiny_adapter.py", "test_tiny_adapter.py"}
    for name, text in examples.items():
        (tmp_path / name).write_text(text)
    done = suite(tmp_path, examples["test_tiny_adapter.py"], "-k", "not sidecar and not process_killed and not too_far")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not offered by TinyDriver" in done.stdout

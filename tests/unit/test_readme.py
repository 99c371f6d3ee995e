"""README.md and docs/quickstart.md keep their word: commands exist, links lead somewhere, examples load."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from outrider.cli import main
from outrider.cli.app import app
from outrider.policy.load import check

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "quickstart.md", ROOT / "docs" / "first-day.md")
README = PAGES[0].read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)#:]+)\)")
INSTALL = (
    'python3 -m venv .venv && .venv/bin/pip install --quiet -c constraints.txt -e ".[{extra}]" && .venv/bin/{then}'
)


def blocks(language: str) -> list[str]:
    return [text for page in PAGES for kind, text in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def commands() -> list[list[str]]:
    """The words of every ``outrider …`` that is shown, also behind ``&&`` and with the path of an environment."""
    lines = [line for text in blocks("sh") for line in text.replace("\\\n", " ").splitlines()]
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    found = [words[1:] for words in parts if words and Path(words[0]).name == "outrider"]
    return [words for at, words in enumerate(found) if words not in found[:at]]


def exit_code(words: list[str]) -> int:
    """Of a command; ``run`` reads its options with the standard library, which exits by itself after ``--help``."""
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0


@pytest.mark.parametrize(("extra", "then"), [("demo", "outrider demo"), ("test", "pytest")])
def test_both_commands_are_one_line_to_paste(extra: str, then: str) -> None:
    """A newcomer pastes one line, on a machine with nothing but Python and the clone; CI runs the second one."""
    assert README.splitlines().count(INSTALL.format(extra=extra, then=then)) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    """No link to what is not there."""
    links = LINK.findall(page.read_text("utf-8"))
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_shown_is_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Its name and its options, as ``--help`` tells them."""
    groups = {group.name for group in app.registered_groups}
    depth = 2 if words[0] in groups else 1
    assert exit_code([*words[:depth], "--help"]) == 0
    told = capsys.readouterr().out
    own = words[depth : words.index("--") if "--" in words else None]
    assert [word for word in own if word.startswith("--") and word not in told] == []


def test_every_command_group_is_shown() -> None:
    """Enough is shown that the test above tests something."""
    assert {words[0] for words in commands()} >= {"demo", "init", "check", "serve", "run", "kill", "revive", "ledger"}


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_policy_shown_loads(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without errors and without warnings."""
    monkeypatch.setenv("TICKETS_TOKEN", "sample")
    (tmp_path / "policy.yaml").write_text(text)
    found, faults = check(tmp_path)
    assert found is not None and faults == ()


@pytest.mark.parametrize("text", blocks("python"))
def test_every_piece_of_python_compiles(text: str) -> None:
    """And imports only what exists."""
    compile(text, "README.md", "exec")
    for line in text.splitlines():
        if line.startswith(("from ", "import ")):
            exec(line, {})


def test_the_demonstration_shown_is_the_one_that_runs() -> None:
    """The rows of the table in the README are those that the summary makes."""
    source = (ROOT / "gateway" / "outrider" / "demo" / "summary.py").read_text("utf-8")
    rows = re.findall(r'^        (?:row)?\("([^"]+)"', source[source.index("def rows") :], re.MULTILINE)
    assert len(rows) > 8
    assert [row for row in rows if row not in README] == []

"""The examples of docs/adapters/crewai.md run, in order, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider.errors import Code
from outrider.policy.load import load
from outrider_adapters import crewai, crewai_seam
from outrider_adapters.environment import DEFAULT_URL, DEFAULT_WAIT_S
from tests.support.adapters import served
from tests.support.gateway_server import GatewayServer, ServedCall, once, refusing
from tests.support.scripted_crewai import asks, llm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAGE = Path(__file__).parents[2] / "docs" / "adapters" / "crewai.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        try:
            yield server
        finally:
            crewai_seam._seam.some_tools = False
            crewai.uninstall()


async def librarian(call: ServedCall) -> None:
    """Denies one book, kills one crew, executes everything else."""
    if "forbidden" in str(call.open.args):
        await refusing(Code.DENIED, "No forbidden books in this team.")(call)
    elif call.open.session == "night shift":
        await refusing(Code.KILLED, "Nobody works at night.")(call)
    else:
        await once(call)


def test_the_examples_run_as_they_stand(gateway: GatewayServer, capsys: pytest.CaptureFixture[str]) -> None:
    """And do what the page says they do."""
    gateway.script = librarian
    rivers = asks(("search_library", {"query": "rivers"}))
    page: dict[str, Any] = {"model": llm(rivers, "three", rivers, "more")}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, example {number + 1}", "exec"), page)
    assert page["answer"].raw == "three" and page["reason"] == "Nobody works at night."
    assert [call.open.tool for call in gateway.calls] == ["local.search_library", "mail.send"] + [
        "local.search_library"
    ] * 2
    assert page["failure"] == []
    assert "No forbidden books in this team.\n" in capsys.readouterr().out


def test_the_policy_lines_are_a_policy(tmp_path: Path) -> None:
    """They load, and say composite of both delegation tools."""
    (lines,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    head = {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "Policy",
        "metadata": {"name": "page"},
        "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
    }
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(head) + lines, encoding="utf-8")
    policy = load(tmp_path)
    for name in ("local.delegate_work_to_coworker", "local.ask_question_to_coworker"):
        assert policy.plan(name).composite
    assert not policy.plan("local.search_library").composite


def test_the_page_names_every_setting_its_default_and_every_export() -> None:
    """A setting that is not on the page does not exist for its reader."""
    source = Path(crewai.__file__).with_name("environment.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"OUTRIDER_[A-Z_]+", source)):
        assert name in TEXT, name
    assert DEFAULT_URL in TEXT and f"default {DEFAULT_WAIT_S:g}" in TEXT
    for name in crewai.__all__:
        assert name in TEXT or name == "SUPPORTED", name
    for package, (low, high) in crewai.SUPPORTED.items():
        assert f"{package} {low} and later below {high}" in TEXT

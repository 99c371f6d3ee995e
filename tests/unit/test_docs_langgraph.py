"""The examples of docs/adapters/langgraph.md run, in order, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from outrider.errors import Code
from outrider_adapters import langgraph
from outrider_adapters.environment import DEFAULT_URL, DEFAULT_WAIT_S
from tests.support.adapters import served
from tests.support.gateway_server import GatewayServer, ServedCall, once, refusing
from tests.support.scripted_model import asks, model

PAGE = Path(__file__).parents[2] / "docs" / "adapters" / "langgraph.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        try:
            yield server
        finally:
            langgraph.uninstall()


async def librarian(call: ServedCall) -> None:
    """Denies one book, kills one run, executes everything else."""
    if "forbidden" in str(call.open.args):
        await refusing(Code.DENIED, "No forbidden books in this team.")(call)
    elif call.open.session:
        await refusing(Code.KILLED, "killed")(call)
    else:
        await once(call)


def test_the_examples_run_as_they_stand(gateway: GatewayServer, capsys: pytest.CaptureFixture[str]) -> None:
    """And do what the page says they do."""
    gateway.script = librarian
    scripted = model(asks(("search", {"query": "rivers"})), "three", asks(("search", {"query": "more"})), "done")
    page: dict[str, Any] = {"model": scripted, "config": {"configurable": {"thread_id": "t"}}}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, example {number + 1}", "exec"), page)
        if "create_agent(model" in block:
            assert page["state"]["messages"][-1].content == "three"
            page["agent"] = langgraph_agent(page)
    assert [call.open.tool for call in gateway.calls][:3] == ["local.search", "mail.send", "local.search"]
    assert page["get_balance"].metadata == {"outrider_tool": "ledger.get_balance"}
    assert capsys.readouterr().out == "No forbidden books in this team. [denied: trying again will not help]\n"
    assert "denied: trying again will not help" in PAGE.read_text(encoding="utf-8")
    last = page["agent"].get_state(page["config"]).values["messages"][-1]
    assert last.type == "tool" and last.status == "error"


def langgraph_agent(page: dict[str, Any]) -> Any:
    """The page's agent with a checkpointer, which its last example takes for granted."""
    from langchain.agents import create_agent

    return create_agent(
        model(asks(("search", {"query": "more"})), "done"), tools=[page["search"]], checkpointer=InMemorySaver()
    )


def test_the_page_names_every_setting_its_default_and_every_export() -> None:
    """A setting that is not on the page does not exist for its reader."""
    text = PAGE.read_text(encoding="utf-8")
    source = Path(langgraph.__file__).with_name("environment.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"OUTRIDER_[A-Z_]+", source)):
        assert name in text, name
    assert DEFAULT_URL in text and f"default {DEFAULT_WAIT_S:g}" in text
    for name in langgraph.__all__:
        assert name in text or name == "SUPPORTED", name
    for package, (low, _) in langgraph.SUPPORTED.items():
        assert f"{package} {low} and later" in text

"""The examples of docs/adapters/autogen.md run, in order, as they stand there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider.errors import Code
from outrider_adapters import autogen, autogen_calls
from outrider_adapters.environment import DEFAULT_URL, DEFAULT_WAIT_S
from tests.support.adapters import served
from tests.support.gateway_server import GatewayServer, ServedCall, once, refusing
from tests.support.scripted_autogen import asks, model

PAGE = Path(__file__).parents[2] / "docs" / "adapters" / "autogen.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayServer]:
    with served(monkeypatch) as server:
        try:
            yield server
        finally:
            autogen_calls.settings.some_tools = False
            autogen.uninstall()


async def librarian(call: ServedCall) -> None:
    """Denies one book, kills whoever asks for another, executes everything else."""
    asked = str(call.open.args)
    if "forbidden" in asked:
        await refusing(Code.DENIED, "No forbidden books in this team.")(call)
    elif "deadly" in asked:
        await refusing(Code.KILLED, "killed")(call)
    else:
        await once(call)


def test_the_examples_run_as_they_stand(gateway: GatewayServer, capsys: pytest.CaptureFixture[str]) -> None:
    """And do what the page says they do."""
    gateway.script = librarian
    scripted = model(asks(("search", {"query": "rivers"})), "three", asks(("search", {"query": "deadly"})), "no")
    page: dict[str, Any] = {"model_client": scripted}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, example {number + 1}", "exec"), page)

    async def read() -> None:
        assert await page["find"]() == "three"
        assert await page["send"]("you", text="hello") == "sent to you"
        await page["find_forbidden"]()
        assert await page["go_on"]() == "killed"

    asyncio.run(read())
    tools = [call.open.tool for call in gateway.calls]
    assert tools == ["local.search", "mail.send", "local.search", "local.search"]
    assert page["balance"].outrider_tool == "ledger.get_balance"
    assert capsys.readouterr().out == "No forbidden books in this team. [denied: trying again will not help]\n"
    assert len(scripted.create_calls) == 3, "no model is asked again after a kill"


def test_the_page_names_every_setting_its_default_and_every_export() -> None:
    """A setting that is not on the page does not exist for its reader."""
    text = PAGE.read_text(encoding="utf-8")
    source = Path(autogen.__file__).with_name("environment.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"OUTRIDER_[A-Z_]+", source)):
        assert name in text, name
    assert DEFAULT_URL in text and f"default {DEFAULT_WAIT_S:g}" in text
    for name in autogen.__all__:
        assert name in text or name == "SUPPORTED", name
    for package, (low, high) in autogen.SUPPORTED.items():
        assert f"{package} {low} and later below {high}" in text

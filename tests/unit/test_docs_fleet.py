"""docs/fleet.md keeps its word: its commands, options, states and answers are those of the code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from outrider.cli import main
from outrider.control.kills import ROUTES as KILLS
from outrider.peers import fleet
from outrider.peers.book import State
from outrider.settings import MAX_PEERS, Peers
from outrider.supervisor import Receipt

PAGE = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_command_shown_has_these_options(capsys: pytest.CaptureFixture[str]) -> None:
    """As ``--help`` tells them; and every option of the table is serve's."""
    shown = [shlex.split(line)[1:] for kind, text in BLOCK.findall(PAGE) if kind == "sh" for line in text.splitlines()]
    assert {words[0] for words in shown} == {"serve", "peers", "kill"}
    for words in shown:
        assert main([*words[: 2 if words[0] == "peers" else 1], "--help"]) == 0
        told = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in told] == []
    assert main(["serve", "--help"]) == 0
    told = capsys.readouterr().out
    options = re.findall(r"^\| `(--[a-z-]+)", PAGE, re.MULTILINE)
    assert sorted(options) == sorted(set(re.findall(r"--peer[a-z-]*", told)))


def test_the_receipt_shown_is_one() -> None:
    """Every field of a receipt, and no other; it adds up."""
    (text,) = [text for kind, text in BLOCK.findall(PAGE) if kind == "json"]
    receipt = json.loads(text)
    assert set(receipt) == {*Receipt.__dataclass_fields__, "sidecar", "complete", "peers"}
    assert receipt["complete"] is all(peer["answered"] for peer in receipt["peers"])
    assert any(path == "/v1/kills" for _, path, _ in KILLS)


def test_states_and_bounds_are_those_of_the_code() -> None:
    """Words and numbers."""
    table = PAGE.split("## Who the peers are")[1].split("## The secret")[0]
    rows = [row.split("|")[1] for row in re.findall(r"^\| `.*", table, re.MULTILINE)]
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} == set(State)
    assert f"At most\n{MAX_PEERS} sidecars know each other" in PAGE
    assert f"waited for; {Peers().timeout_s:g} s |" in PAGE
    assert f"looked up every {fleet.LOOK_UP_EVERY_S:g} s" in PAGE

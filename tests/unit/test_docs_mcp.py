"""docs/mcp.md keeps its word: its policies load, its commands exist, its figures are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from outrider.cli import main
from outrider.policy.load import check_texts
from outrider.policy.plans import McpUpstream
from outrider.upstreams.mcp import child, child_driver, child_log, liveness, stdio, supervision
from outrider.upstreams.mcp.keeper import Keeper

PAGE = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEAD = "apiVersion: outrider.dev/v1alpha1\nkind: Policy\nrules: [{name: all, tools: ['*'], then: allow}]\n"
WORDS = " ".join(PAGE.split())


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(PAGE) if kind == language]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_policy_shown_loads(text: str, tmp_path: Path) -> None:
    """Without errors."""
    env = dict.fromkeys(re.findall(r"\{env:(\w+)\}", text), "sample")
    whole = text if "apiVersion" in text else HEAD + text
    policy, faults = check_texts({"policy.yaml": whole.encode()}, tmp_path, env=env)
    assert policy is not None, faults


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines() if "outrider" in line])
def test_every_command_shown_is_one(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name and its options, as ``--help`` tells them."""
    words = shlex.split(line, comments=True)[1:]
    assert main([*words[:2], "--help"]) == 0
    told = capsys.readouterr().out
    assert [word for word in words[2:] if word in {"--name", "--out", "--header", "--env"} and word not in told] == []


def test_the_figures_of_children_are_those_of_the_code() -> None:
    """What a person plans with."""
    said = [
        f"at most {child_log.LINES_PER_S:g} a second after a burst of {child_log.BURST}",
        f"at most {child_log.MAX_SHOWN_CHARS} characters",
        f"{stdio.MAX_GARBAGE} in a row end it",
        f"{stdio.FLOOD:,} notifications within {stdio.FLOOD_S:g} s",
        f"more than {stdio.MAX_ASKING} open questions",
        f"It has {child_driver.START_S:g} s to answer",
        f"unanswered for {stdio.PROBE_S:g} s",
        f"the wait is {supervision.FIRST_WAIT_S:g} s",
        f"at most {supervision.LONGEST_WAIT_S / 60:g} m. {supervision.GOOD_S / 60:g} minutes without a crash",
        f"asked every {liveness.PERIOD_S:g} s",
        f"nothing came for {liveness.HUNG_S:g} s",
        f"unanswered for {liveness.ANSWER_S:g} s each",
        f"after {child.LEAVE_S:g} s SIGTERM, after {child.TERM_S:g} s more SIGKILL",
        *(f"`{name}`" for name in child.INHERITED),
    ]
    assert [one for one in said if one not in WORDS] == []
    assert liveness.FAILURES == 3 and "three questions" in WORDS


async def test_what_is_shown_of_a_child_are_the_keys_that_there_are() -> None:
    """In JSON."""
    (shown,) = (text for text in blocks("json") if '"state"' in text)
    keys = set(Keeper("files", McpUpstream(command=("x",))).snapshot())
    assert set(re.findall(r'"(\w+)":', shown)) <= keys

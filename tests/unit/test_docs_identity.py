"""docs/identity.md keeps its word: its policies load, its commands exist, its numbers are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from outrider.cli.app import app
from outrider.identity import keeper, keyring
from outrider.identity.jwts import MAX_KNOWN
from outrider.policy.load import check

PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w[\w ]*)\n(.*?)^```$", PAGE, re.M | re.S)
HEAD = 'apiVersion: outrider.dev/v1alpha1\nkind: Policy\nupstreams:\n  ledger: {http: {url: "http://127.0.0.1:9"}}\n'


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "yaml"], ids=lambda text: text[:40])
def test_each_policy_on_the_page_loads(block: str, tmp_path: Path) -> None:
    """Of what it needs, only the files of a cluster are missing here."""
    rules = "" if "\nrules:" in block else 'rules:\n  - {name: all, tools: ["*"], then: allow}\n'
    (tmp_path / "policy.yaml").write_text(HEAD + block + rules)
    missing = [
        str(fault) for fault in check(tmp_path)[1] if fault.code != "E49" or "/var/run/secrets/" not in str(fault)
    ]
    assert missing == []


def test_the_pod_on_the_page_is_yaml_with_the_audience_of_the_policy() -> None:
    """What the kubelet is asked for is what the policy wants."""
    (pod,) = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml pod"]
    (source,) = pod["spec"]["volumes"][0]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "outrider"


def test_each_command_on_the_page_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """With these options."""
    lines = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        with pytest.raises(SystemExit) as ended:
            app([*words[1:3], "--help"], prog_name="outrider")
        shown = capsys.readouterr().out
        assert ended.value.code == 0 and all(word in shown for word in words if word.startswith("--")), line


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    """Where they were changed, the page was too."""
    assert f"Bounds: {keeper.MAX_TOKENS:,} valid tokens" in PAGE and f"the last {keeper.KEPT_ENDED} are kept" in PAGE
    assert f"{MAX_KNOWN:,} are known" in PAGE and f"at most once in {keyring.AT_ONCE_EVERY_S:g} s" in PAGE
    assert f"within {keyring.FETCH_S:g} s and\n{keyring.MAX_BYTES // 1024} KiB" in PAGE

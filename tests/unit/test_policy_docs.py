"""docs/policy.md says what the language does: its tables are those of the schema, its examples are run.

``OUTRIDER_UPDATE_DOCS=1 pytest tests/unit/test_policy_docs.py`` writes the tables anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from outrider.policy.conditions import NAMES, compile_condition
from outrider.policy.faults import CODES
from outrider.policy.fields import RETRY_WORDS
from outrider.policy.load import check
from outrider.policy.schema import json_schema

PAGE = Path(__file__).parents[2] / "docs" / "policy.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"^```(\w[\w ]*)\n(.*?)^```$", TEXT, re.M | re.S)
SCHEMA = json_schema()
HEAD = "apiVersion: outrider.dev/v1alpha1\nkind: Policy\n"
UPSTREAMS = "upstreams:\n" + "".join(
    f'  {name}: {{http: {{url: "http://127.0.0.1:9000"}}}}\n' for name in ("ledger", "backup", "docs", "cache")
)
ALLOW = 'rules:\n  - {name: all, tools: ["*"], then: allow}\n'
ENV = {"LEDGER_TOKEN": "sample", "DOCS_TOKEN": "sample"}


def kind_of(described: dict[str, Any]) -> str:
    """What may be written for a key."""
    if "$ref" in described:
        return "keys, see below"
    if "enum" in described:
        return ", ".join(f"`{word}`" for word in described["enum"])
    if "const" in described:
        return f"`{described['const']}`"
    if described.get("pattern", "").startswith("^([0-9]{1,5}(h|m"):
        return "duration"
    if "KiB" in described.get("pattern", ""):
        return "size"
    if "/(s|m)" in described.get("pattern", ""):
        return "rate"
    if described.get("type") == "array":
        inner = described["items"]
        return "list of keys" if "$ref" in inner else f"list of {kind_of(inner)}"
    names = {"string": "text", "integer": "number", "number": "number", "boolean": "`true`, `false`", "object": "map"}
    return names.get(described.get("type", ""), "any JSON") + bounds_of(described)


def bounds_of(described: dict[str, Any]) -> str:
    low = described.get("minimum", described.get("exclusiveMinimum"))
    high = described.get("maximum")
    if low is None or high is None:
        return ""
    above = "above " if "exclusiveMinimum" in described else ""
    return f", {above}{low:g} to {high:,}"


def default_of(described: dict[str, Any], required: bool) -> str:
    if required:
        return "must be written"
    if "default" not in described or described["default"] == []:
        return ""
    value = described["default"]
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(name: str) -> str:
    section = SCHEMA["$defs"][name]
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = section.get("required", [])
    for key, described in sorted(section["properties"].items(), key=lambda item: item[0] not in required):
        target = SCHEMA["$defs"].get(described.get("$ref", "").rpartition("/")[2], {})
        meaning = described.get("description", target.get("description"))
        default = default_of(described, key in required)
        rows.append(f"| `{key}` | {kind_of(described)} | {default} | {meaning} |")
    return "\n".join(rows)


def codes() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in CODES.items()]
    return "\n".join(["| code | what it is about |", "|---|---|", *rows])


def regenerated(text: str) -> str:
    text = re.sub(
        r"<!-- keys: (\w+) -->\n.*?<!-- end -->",
        lambda found: f"<!-- keys: {found[1]} -->\n{table(found[1])}\n<!-- end -->",
        text,
        flags=re.S,
    )
    return re.sub(
        r"<!-- codes -->\n.*?<!-- end -->", lambda _: f"<!-- codes -->\n{codes()}\n<!-- end -->", text, flags=re.S
    )


def whole(block: str) -> str:
    """A fragment with what it needs to be a policy."""
    if block.startswith("apiVersion"):
        return block
    text = HEAD + block
    text += "" if re.search(r"^upstreams:", block, re.M) else UPSTREAMS
    return text + ("" if re.search(r"^rules:", block, re.M) else ALLOW)


def test_the_tables_are_those_of_the_schema() -> None:
    """Every key, unit and default that the page shows is the one in force."""
    expected = regenerated(TEXT)
    if os.environ.get("OUTRIDER_UPDATE_DOCS"):
        PAGE.write_text(expected, encoding="utf-8")
        return
    assert expected == TEXT


def test_the_page_shows_every_section() -> None:
    """No section of the language is undocumented; those with a table of their own kind are described in words."""
    shown = set(re.findall(r"<!-- keys: (\w+) -->", TEXT))
    in_words = {"Defaults", "Idempotency", "StaticFallback", "Health"}
    assert shown | in_words == set(SCHEMA["$defs"])
    assert not shown & in_words


@pytest.mark.parametrize("block", [block for info, block in BLOCKS if info == "yaml"], ids=lambda block: block[:30])
def test_an_example_on_the_page_loads_without_a_fault(block: str, tmp_path: Path) -> None:
    """What is shown can be copied."""
    (tmp_path / "policy.yaml").write_text(whole(block), encoding="utf-8")
    policy, faults = check(tmp_path, env=ENV)
    assert [str(fault) for fault in faults] == []
    assert policy is not None


def test_the_faults_on_the_page_are_those_that_are_told(tmp_path: Path) -> None:
    """The page's wrong policy is told exactly what the page says."""
    (wrong,) = [block for info, block in BLOCKS if info == "yaml wrong"]
    (told,) = [block for info, block in BLOCKS if info == "text"]
    (tmp_path / "policy.yaml").write_text(HEAD + wrong + UPSTREAMS, encoding="utf-8")
    found = "".join(f"{fault.code} {fault}\n" for fault in check(tmp_path, env=ENV)[1])
    if os.environ.get("OUTRIDER_UPDATE_DOCS"):
        PAGE.write_text(PAGE.read_text("utf-8").replace(told, found), encoding="utf-8")
        return
    assert found == told


def test_the_conditions_on_the_page_compile() -> None:
    """Each line of the CEL examples is a condition, and together they name what the table names."""
    (examples,) = [block for info, block in BLOCKS if info == "cel"]
    for line in examples.splitlines():
        assert compile_condition(line).names <= set(NAMES)
    assert all(f"`{name}`" in TEXT for name in NAMES)
    assert all(f"`{word}`" in TEXT for word in RETRY_WORDS)

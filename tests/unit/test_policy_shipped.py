"""The policies that Outrider ships: the default one, the starter, and the examples."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from outrider import policy
from outrider.policy.load import check
from outrider.policy.schema import json_schema
from outrider.policy.strictyaml import read
from tests.unit.policy_cases import cases_of, outcome

ROOT = Path(__file__).parents[2] / "policies"
FOLDERS = [ROOT, *sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir())]
FILES = [path for folder in FOLDERS for path in sorted(folder.glob("*.yaml")) if not path.name.endswith(".test.yaml")]
CASES = [
    pytest.param(folder, env, case, id=f"{folder.name}: {case['name']}")
    for folder in FOLDERS
    for path in sorted(folder.glob("*.test.yaml"))
    for env, case in cases_of(path)
]


@pytest.mark.parametrize(("folder", "env", "case"), CASES)
def test_a_shipped_policy_does_what_its_cases_say(folder: Path, env: dict[str, str], case: dict[str, Any]) -> None:
    """Each sample call beside a policy gets the decision and the plan that it expects."""
    assert outcome(folder, env, case) == case["expect"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_shipped_policy_has_cases_and_no_fault_or_warning(folder: Path) -> None:
    """What people copy is spotless."""
    tests = list(folder.glob("*.test.yaml"))
    assert tests
    env = {name: value for path in tests for env, _ in cases_of(path) for name, value in env.items()}
    loaded, faults = check(folder, env=env)
    assert loaded is not None
    assert [str(fault) for fault in faults] == []


@pytest.mark.parametrize(
    "path", [path for folder in FOLDERS for path in folder.glob("*.yaml")], ids=lambda path: path.name
)
def test_the_json_schema_accepts_every_shipped_policy(path: Path) -> None:
    """An editor that uses the schema draws no red line under a good policy."""
    if path.name.endswith(".test.yaml"):
        return
    jsonschema.Draft202012Validator(json_schema()).validate(read(path.name, path.read_bytes()).data)


def test_the_packages_default_is_the_one_in_policies() -> None:
    """The default policy that an installed wheel carries is the one that people read in the repository."""
    packaged = (files("outrider.policy") / "default.yaml").read_bytes()
    assert packaged == (ROOT / "default.yaml").read_bytes()


def test_the_starter_is_a_policy_that_loads(tmp_path: Path) -> None:
    """What `outrider init` writes can be served at once."""
    (tmp_path / "policy.yaml").write_text(policy.starter(), encoding="utf-8")
    loaded, faults = check(tmp_path, env={})
    assert loaded is not None
    assert faults == ()


def test_the_starters_examples_are_good_once_their_comments_are_opened(tmp_path: Path) -> None:
    """A newcomer who removes the `#` in front of the examples gets a policy without a fault."""
    lines = policy.starter().splitlines()
    opened, inside = [], False
    for line in lines:
        bare = line.strip()
        inside = (inside or bare.startswith(("# upstreams:", "# - "))) and bare.startswith("#")
        opened.append(line.replace("# ", "", 1) if inside and bare != "#" else line)
    text = "\n".join(opened)
    assert "\nupstreams:" in text
    assert "\n  - name: refunds over 500 need a person" in text
    (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
    loaded, faults = check(tmp_path, env={"TICKETS_TOKEN": "sample"})
    assert [str(fault) for fault in faults] == []
    assert loaded is not None
    plan = loaded.plan("tickets.create_ticket")
    assert plan is not None and plan.idempotency_header == "Idempotency-Key"

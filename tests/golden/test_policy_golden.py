"""Golden policies: the text of a policy, a line of dashes, then what it normalises to or the exact faults.

    tests/golden/policy/NAME.txt       one file, or several, each begun by a line `=== name.yaml`

Faults are one a line: code, then what a person reads. ``OUTRIDER_UPDATE_GOLDEN=1 pytest tests/golden`` writes what is
now said below the dashes; read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from outrider.policy.faults import CODES
from outrider.policy.load import Policy, check
from outrider.policy.plans import Plan, Secret

FOLDER = Path(__file__).parent / "policy"
GOLDEN = sorted(FOLDER.glob("*.txt"))
DASHES = "-" * 80
SECRET = "s3cret-never-to-be-shown"
ENV = {"LEDGER_TOKEN": SECRET, "EMPTY": "", "LEDGER_URL": "https://ledger.test", "BAD_URL": "https://me:pw@ledger.test"}


def test_every_code_has_a_golden_policy() -> None:
    """No message of the language goes unseen: each code appears below some line of dashes."""
    said = "\n".join(path.read_text("utf-8").partition(DASHES)[2] for path in GOLDEN)
    assert {code for code in CODES if not re.search(rf"^{code} ", said, re.M)} == set()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path: Path, tmp_path: Path) -> None:
    """The policy above the dashes gives exactly what is written below them."""
    source, _, expected = path.read_text("utf-8").partition(DASHES + "\n")
    folder = tmp_path / "policy"
    folder.mkdir()
    for name, text in files_of(source).items():
        (folder / name).write_bytes(
            text.encode("utf-8").decode("unicode_escape").encode("latin-1") if "\\x" in text else text.encode()
        )
    found = answer(folder)
    if os.environ.get("OUTRIDER_UPDATE_GOLDEN"):
        path.write_text(source + DASHES + "\n" + found, encoding="utf-8")
        expected = found
    assert SECRET not in found
    assert found == expected


def files_of(source: str) -> dict[str, str]:
    parts = re.split(r"^=== (\S+)\n", source, flags=re.M)
    if len(parts) == 1:
        return {"policy.yaml": source}
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def answer(folder: Path) -> str:
    policy, faults = check(folder, env=ENV)
    lines = [f"{fault.code} {fault}".replace(str(folder), "FOLDER") for fault in faults]
    if policy is not None:
        lines.append(json.dumps(normalised(policy), indent=2, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def normalised(policy: Policy) -> dict[str, Any]:
    """What the policy comes to: only what differs from the language's own defaults."""
    summary: dict[str, Any] = policy.summary()
    named = {pattern for pattern in policy.patterns if not pattern.endswith("*")}
    found = {
        "name": policy.name,
        "mode": "" if policy.mode == "enforce" else policy.mode,
        "upstreams": {name: differing(upstream) for name, upstream in policy.upstreams.items()},
        "plans": {tool: planned(policy.plan(tool)) for tool in sorted(named)},
        "rules": [
            {key: value for key, value in rule.items() if value not in ("", [], None, False, "enforce")}
            for rule in summary["rules"]
        ],
        "limits": differing(policy.limits),
        "ledger": differing(policy.ledger),
        "kills": differing(policy.kills),
        "runs": summary["runs"],
        "identity": differing(policy.identity),
        "agents": differing(policy.agents),
    }
    return {key: value for key, value in found.items() if value}


def planned(plan: Plan | None) -> Any:
    assert plan is not None
    shown = differing(plan)
    return {**shown, "upstream": plan.upstream.name}


def differing(value: Any) -> Any:
    """A dataclass as a mapping of what is not its default; everything else as JSON."""
    if isinstance(value, Secret):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: differing(getattr(value, field.name))
            for field in fields(value)
            if getattr(value, field.name)
            != (field.default_factory() if callable(field.default_factory) else field.default)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: differing(inner) for key, inner in value.items()}
    return [differing(inner) for inner in value] if isinstance(value, (list, tuple)) else value

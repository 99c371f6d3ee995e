"""One round: a suite in a process of its own, without the adapter, or with it and a real sidecar."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from outrider.ledger.query import export
from outrider.ledger.verify import verify
from outrider.testing.gateway import GatewayProcess
from tests.upstream.suites import Suite
from tests.upstream.workshop import INSIDE

ROUND_LIMIT_S = 1800
TEST_LIMIT_S = 120
TAIL = 3000

LONGEST = {"total": "1h", "perTry": "50m"}
TRANSPARENT: Mapping[str, Any] = {
    "defaults": {"effect": "idempotent", "timeouts": LONGEST, "retry": {"maxAttempts": 1}},
    "domain": {
        "breaker": {"enabled": False},
        "bulkhead": {"maxConcurrent": 10_000, "maxQueue": 10_000, "maxWait": "1h"},
    },
    "rules": [{"name": "everything", "tools": ["*"], "then": "allow"}],
}
"""Allows everything and repeats nothing. ``idempotent``: a suite may repeat by itself what ended in an unknown outcome,
and each start is on disk before it happens, as for tools with effects."""


class RoundBroken(RuntimeError):
    """The suite's process told nothing: it crashed or hung."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the ledger holds after a round."""

    calls: int = 0
    attempts: int = 0
    children: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    open: int = 0
    intact: bool = True


@dataclass(frozen=True, slots=True)
class Round:
    """What became of each test, and why those failed that did. ``governed`` and ``direct`` are the tool bodies that ran
    inside a governed call and outside of all, the latter by test."""

    tests: Mapping[str, str]
    why: Mapping[str, str]
    adapters: tuple[str, ...]
    governed: Mapping[str, int]
    direct: Mapping[str, int]
    seconds: float
    seen: Seen

    def count(self, outcome: str) -> int:
        return sum(one == outcome for one in self.tests.values())

    @property
    def failing(self) -> frozenset[str]:
        return frozenset(name for name, outcome in self.tests.items() if outcome == "failed")


def without_adapter(suite: Suite, python: Path, folder: Path) -> Round:
    """The suite as its authors run it."""
    return _run(suite, python, folder, {"UPSTREAM_INSTALL": "0"}, Seen)


def through_adapter(suite: Suite, python: Path, folder: Path, data: Path) -> Round:
    """The same with the adapter installed in transparent mode: one attempt for each call, the tools' own errors."""
    with GatewayProcess(TRANSPARENT, data) as gateway:
        env = {
            "UPSTREAM_INSTALL": "1",
            "OUTRIDER_URL": gateway.url,
            "OUTRIDER_TOKEN": gateway.agent_token,
            "OUTRIDER_TRANSPARENT": "1",
            "OUTRIDER_CONNECT_WAIT": "30",
        }

        def seen() -> Seen:
            gateway.terminate()
            return _seen(data)

        return _run(suite, python, folder, env, seen)


def _run(suite: Suite, python: Path, folder: Path, env: Mapping[str, str], seen: Any) -> Round:
    told = folder / "outcomes.json"
    began = time.monotonic()
    process = subprocess.Popen(
        _command(suite, python),
        cwd=folder,
        env=_environment()
        | dict(suite.env)
        | dict(env)
        | {"UPSTREAM_FRAMEWORK": suite.adapter, "UPSTREAM_OUTCOMES": str(told)},
        stdin=subprocess.DEVNULL,
        stdout=(folder / "output.txt").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        code = process.wait(ROUND_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise RoundBroken(f"{suite.package} did not end within {ROUND_LIMIT_S} s\n{_output(folder)}") from None
    finally:
        process.kill()
        process.wait()
    if not told.is_file():
        raise RoundBroken(f"{suite.package} told nothing; exit code {code}\n{_output(folder)}")
    seconds = time.monotonic() - began
    outcomes = json.loads(told.read_text()) | {"seconds": seconds, "seen": seen()}
    outcomes["adapters"] = tuple(outcomes["adapters"])
    return Round(**outcomes)


def _command(suite: Suite, python: Path) -> list[str]:
    settings = ("addopts=", "asyncio_mode=auto", f"timeout={TEST_LIMIT_S}")
    options = [word for setting in settings for word in ("-o", setting)]
    words = ["-m", "pytest", *suite.targets, "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "outrider_upstream"]
    return [str(python), *words, *options, *suite.options]


def _environment() -> dict[str, str]:
    """This process's, without what would make a difference or lead out: credentials, proxies, settings of ours."""
    away = ("OUTRIDER_", "UPSTREAM_", "PYTEST_", "PYTHON", "VIRTUAL_ENV", "CI")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(away)}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith(("_api_key", "_proxy", "_token"))}
    return kept | {"PYTHONPATH": str(INSIDE), "PYTHONDONTWRITEBYTECODE": "1"}


def _output(folder: Path) -> str:
    return (folder / "output.txt").read_text(errors="replace")[-TAIL:]


def _seen(data: Path) -> Seen:
    lines = StringIO()
    export(data, lines)
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    by_type = Counter(record["type"] for record in records)
    ended = [record for record in records if record["type"] in ("call.finished", "call.refused")]
    return Seen(
        calls=by_type["call.received"],
        attempts=by_type["attempt.started"],
        children=sum(one["type"] == "call.received" and "parent_call_id" in one for one in records),
        outcomes=dict(Counter(one["outcome"] for one in ended if one["type"] == "call.finished")),
        refusals=dict(Counter(one.get("code", "?") for one in ended if one["type"] == "call.refused")),
        open=by_type["call.received"] - len(ended),
        intact=verify(data).ok,
    )

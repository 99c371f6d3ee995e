"""The official MCP conformance suite, pinned: fetched once into a folder of its own, run against an address."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.mcp.environments import Unavailable, node_env, npm

SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
RUN_S = 240
_LINE = re.compile(r"^(?P<mark>[✓✗~]) (?P<name>[\w.-]+): (?P<passed>\d+) passed, (?P<failed>\d+) failed", re.M)
_ONE = re.compile(r"Passed: (?P<passed>\d+)/(?P<all>\d+), (?P<failed>\d+) failed")


@dataclass(frozen=True, slots=True)
class Result:
    """``scenarios`` maps each to (checks passed, checks failed). ``ok``: the suite's own word, by its exit code."""

    ok: bool
    scenarios: dict[str, tuple[int, int]]
    output: str

    def failed(self) -> list[str]:
        return [name for name, (_, failed) in self.scenarios.items() if failed]


class Suite:
    """Installed in ``folder``. Make it with ``get``."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "node_modules/@modelcontextprotocol/conformance/dist/index.js"

    @classmethod
    def get(cls) -> Suite:
        """The one of this machine, installed where it is not. Raises Unavailable."""
        suite = cls(npm("npm", SUITE))
        if not suite._program.exists():
            raise Unavailable("npm did not install the suite")
        return suite

    @property
    def env(self) -> dict[str, str]:
        return node_env()

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> Result:
        """``server --url …`` or ``client --command …``, with ``env`` beside the environment. Raises Unavailable where
        it does not end."""
        try:
            return self._ended(words, {**self.env, **(env or {})})
        except subprocess.TimeoutExpired:
            raise Unavailable(f"the suite did not end within {RUN_S} s: {' '.join(words)[:300]}") from None

    def _ended(self, words: Sequence[str], env: Mapping[str, str]) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                ["node", str(self._program), *words],
                env=env,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=RUN_S,
                check=False,
            )
        output = done.stdout + done.stderr
        found = {line["name"]: (int(line["passed"]), int(line["failed"])) for line in _LINE.finditer(output)}
        one = _ONE.search(output)
        if not found and one is not None and "--scenario" in words:
            found = {words[words.index("--scenario") + 1]: (int(one["passed"]), int(one["failed"]))}
        return Result(done.returncode == 0, found, output)

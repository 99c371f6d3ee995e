"""The house keeps its rules: types, lint, who imports whom, and what a wheel holds."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.timeout(300)
def test_types_are_strict() -> None:
    """mypy --strict over both packages."""
    run("mypy")


def test_lint_and_format_are_clean() -> None:
    """ruff, banned imports included."""
    run("ruff", "check", ".")
    run("ruff", "format", "--check", ".")


def test_upper_floors_import_lower_ones_only() -> None:
    """The import contracts of ARCHITECTURE.md."""
    run("importlinter.cli")


def test_the_sidecar_imports_no_agent_framework() -> None:
    """Starting a sidecar must not cost what a framework costs."""
    program = (
        "import sys, outrider.sidecar\n"
        "heavy = {'langgraph', 'langchain', 'langchain_core', 'crewai', 'autogen_core', 'outrider_adapters'}\n"
        "found = heavy & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(found)}' if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_an_agents_process_imports_is_light() -> None:
    """The adapters' base needs aiohttp, msgspec and opentelemetry-api, and nothing of the sidecar's."""
    program = (
        "import sys, outrider_adapters.channel\n"
        "heavy = {'pydantic', 'yaml', 'cel', 'sqlite_utils', 'typer', 'rich', 'uvloop', 'langchain_core'}\n"
        "found = heavy & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(found)}' if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_both_packages_whole_and_nothing_else(tmp_path: Path) -> None:
    """What lies under gateway/ and adapters/ is what is installed."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {
        str(path.relative_to(ROOT / top))
        for top in ("gateway", "adapters")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == there

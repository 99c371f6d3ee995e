"""Fetch a suite's sdist, take the tests out of it, and make an environment in which they run. All in a scratch folder:
nothing of theirs is kept in this project. pip's configured index is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from tests.upstream.suites import Suite

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSIDE = HERE / "inside"
"""Modules that run inside the suite's process. Never ``tests.…`` there: that name is the suite's own."""
PIP_LIMIT_S = 900
TAIL = 1500


class Unavailable(RuntimeError):
    """What is needed cannot be had: no framework, no index, no such sdist. Nothing is known about the adapter."""


class Workshop:
    """The scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def sdist(self, suite: Suite) -> Path:
        """The archive of the installed version, fetched once. Raises Unavailable."""
        wanted = self.version(suite)
        folder = self.scratch / "sdists"
        stem = f"{suite.package.replace('-', '_')}-{wanted}"
        found = folder / f"{stem}.tar.gz"
        if not found.is_file():
            flags = ("--quiet", "--no-deps", "--no-binary", suite.package, "--dest", str(folder))
            _pip(Path(sys.executable), "download", *flags, f"{suite.package}=={wanted}")
        if not found.is_file():
            raise Unavailable(f"pip fetched no {found.name}; there is {sorted(p.name for p in folder.glob('*'))}")
        return found

    def version(self, suite: Suite) -> str:
        """Of the package in this environment. Raises Unavailable."""
        try:
            return metadata.version(suite.package)
        except metadata.PackageNotFoundError:
            fix = f'pip install -c constraints.txt -e ".[{suite.adapter}]"'
            raise Unavailable(f"{suite.package} is not installed here: {fix}") from None

    def unpack(self, suite: Suite, sdist: Path, folder: Path) -> Path:
        """Only tests and settings: the code under test is the one that is installed. Returns where to run them."""
        base = folder / suite.folder
        base.mkdir(parents=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(base, members=_tests(archive), filter="data")
        if not (base / "tests").is_dir():
            raise Unavailable(f"{sdist.name} holds no tests")
        if suite.conftest:
            shutil.copy(INSIDE / suite.conftest, base / "conftest.py")
        return base

    def environment(self, suite: Suite) -> Path:
        """A Python that sees all of this environment and the few packages that the suite needs beside it."""
        folder = self.scratch / f"env-{suite.package}"
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if not python.exists():
            venv.create(folder, with_pip=False)
            here = sysconfig.get_path("purelib")
            paths = _site_packages(python) / "of_the_running_environment.pth"
            paths.write_text(f"import site; site.addsitedir({here!r})\n")
        if suite.needs:
            pins = ("-c", str(ROOT / "constraints.txt"), "-c", str(HERE / "pins.txt"))
            _pip(python, "install", "--quiet", *pins, *suite.needs)
        return python


def _tests(archive: tarfile.TarFile) -> Iterable[tarfile.TarInfo]:
    for member in archive.getmembers():
        _, _, inner = member.name.partition("/")
        if inner == "pyproject.toml" or inner.startswith("tests/"):
            yield member.replace(name=inner)


def _site_packages(python: Path) -> Path:
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip())


def _pip(python: Path, command: str, *arguments: str) -> None:
    line: Sequence[str] = [str(python), "-m", "pip", command, "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=PIP_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip {command} did not end within {PIP_LIMIT_S} s") from None
    if done.returncode:
        raise Unavailable(f"pip {command} {' '.join(arguments[-3:])} failed:\n{done.stderr[-TAIL:]}")

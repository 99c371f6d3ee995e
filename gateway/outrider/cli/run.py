"""``outrider run``: an agent's program with its framework governed. Standard library only: the agent's environment
holds the base install and the framework, not the sidecar's packages."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from outrider.cli.fault import CliError
from outrider.cli.place import data_folder, listener_url
from outrider.errors import Misconfigured


def parser() -> argparse.ArgumentParser:
    """The options, for ``--help`` and the reference."""
    words = argparse.ArgumentParser(
        prog="outrider run",
        usage="outrider run [--agent NAME] [--data DIR] -- COMMAND [ARGUMENT …]",
        description="Run an agent's program with its framework governed, with no line of code. The sidecar is found by "
        "--data, or by OUTRIDER_URL and OUTRIDER_TOKEN.",
        allow_abbrev=False,
    )
    words.add_argument("--agent", default=os.environ.get("OUTRIDER_AGENT", ""), help="the agent's name")
    words.add_argument("--data", type=Path, metavar="DIR", help="the sidecar's data folder")
    words.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run")
    return words


def main(words: list[str]) -> int:
    """Does not return: the program takes this process over, with its id, its terminal and its signals."""
    given = parser().parse_args(words)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        raise CliError("no command was given.", "for example: outrider run --agent researcher -- python agent.py", 2)
    if given.data is not None or not os.environ.get("OUTRIDER_URL"):
        _point_to(given.data)
    adapters = importlib.import_module("outrider_adapters.run")
    try:
        adapters.run(command, given.agent)
    except Misconfigured as wrong:
        raise CliError(str(wrong)) from None
    raise AssertionError("the program takes this process over")


def _point_to(data: Path | None) -> None:
    """Tell the program where the sidecar is, where a data folder knows it. The token stays in its file."""
    folder = data_folder(data)
    if data is None and not (folder / "listeners.json").exists():
        return  # the adapter's own default, and its own words where that does not answer
    os.environ["OUTRIDER_URL"] = listener_url(folder, "listen", "OUTRIDER_URL")
    if data is not None:
        os.environ.pop("OUTRIDER_TOKEN", None)
    if not os.environ.get("OUTRIDER_TOKEN"):
        os.environ["OUTRIDER_TOKEN_FILE"] = str((folder / "agent.token").resolve())

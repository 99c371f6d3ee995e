"""``outrider run``: an agent's program with its framework governed. Standard library only: the agent's environment
holds the base install and the framework, not the sidecar's packages."""

from __future__ import annotations

import argparse
import http.client
import importlib
import os
import ssl
import sys
from pathlib import Path

from outrider.cli.client import connect
from outrider.cli.fault import CliError
from outrider.cli.place import LISTENERS, data_folder, listener_url
from outrider.errors import Misconfigured

DEFAULT_URL = "http://127.0.0.1:7070"
"""Where the adapters look without any setting."""
LISTENS_S = 0.5
"""How long it may take a sidecar to be found; the program waits for it."""


def parser() -> argparse.ArgumentParser:
    """The options, for ``--help`` and the reference."""
    words = argparse.ArgumentParser(
        prog="outrider run",
        usage="outrider run [--agent NAME] [--token-file FILE] [--data DIR] -- COMMAND [ARGUMENT …]",
        description="Run an agent's program with its framework governed, with no line of code. The sidecar is found by "
        "--data, or by OUTRIDER_URL and OUTRIDER_TOKEN; where none listens the program starts with a warning, and its "
        "governed calls are refused until one does.",
        allow_abbrev=False,
    )
    words.add_argument("--agent", default=os.environ.get("OUTRIDER_AGENT", ""), help="the agent's name")
    words.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the file of this agent's token; it then needs no --agent"
    )
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
    if given.token_file is not None:
        os.environ.pop("OUTRIDER_TOKEN", None)
        os.environ["OUTRIDER_TOKEN_FILE"] = str(given.token_file.resolve())
    _warn_where_nobody_listens()
    adapters = importlib.import_module("outrider_adapters.run")
    try:
        adapters.run(command, given.agent)
    except Misconfigured as wrong:
        raise CliError(str(wrong)) from None
    raise AssertionError("the program takes this process over")


def _point_to(data: Path | None) -> None:
    """Tell the program where the sidecar is, where a data folder knows it. The token stays in its file."""
    folder = data_folder(data)
    if data is None and not (folder / LISTENERS).exists():
        if os.environ.get("OUTRIDER_TOKEN") or os.environ.get("OUTRIDER_TOKEN_FILE"):
            return  # the adapter's own default address
        raise CliError(
            f"no sidecar is known: there is no {folder / LISTENERS}, and OUTRIDER_URL and OUTRIDER_TOKEN are not set.",
            f"start one: outrider serve --policy DIR --data {folder}. Of one that runs elsewhere, name the folder with "
            "--data, or set both.",
        )
    os.environ["OUTRIDER_URL"] = listener_url(folder, "listen", "OUTRIDER_URL")
    if data is not None:
        os.environ.pop("OUTRIDER_TOKEN", None)
        os.environ.pop("OUTRIDER_TOKEN_FILE", None)
    if not (os.environ.get("OUTRIDER_TOKEN") or os.environ.get("OUTRIDER_TOKEN_FILE")):
        os.environ["OUTRIDER_TOKEN_FILE"] = str((folder / "agent.token").resolve())


def _warn_where_nobody_listens() -> None:
    """A sidecar may be started later, and the adapters go on trying; but a person should know before the first call."""
    url = os.environ.get("OUTRIDER_URL") or DEFAULT_URL
    why = _not_listening(url)
    if why:
        told = CliError(
            f"warning: no sidecar listens at {url} ({why}). Until one does, every governed tool call is refused.",
            "start one: outrider serve --policy DIR --data DIR",
        )
        print(told.told(), file=sys.stderr)


def _not_listening(url: str) -> str:
    """Why nothing can be reached there; empty where something can, or where others will say what is wrong."""
    try:
        connection = connect(url, LISTENS_S)
        connection.connect()
    except (CliError, ssl.SSLError, http.client.HTTPException):
        return ""
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    connection.close()
    return ""

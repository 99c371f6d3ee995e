"""``outrider demo``: see it work."""

from __future__ import annotations

import importlib

import typer

from outrider.cli.fault import CliError
from outrider.cli.options import Json


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(json: Json = False) -> None:
    """Watch a sidecar govern flaky tools and LangGraph agents, all on this machine, in less than a minute.

    With --json the last line is the summary as one JSON object.
    """
    try:
        show = importlib.import_module("outrider.demo")
        code = show.main(json=json)
    except ImportError as missing:
        raise CliError(f"a part of the demo is not installed: {missing}.", "pip install 'outrider[demo]'") from None
    raise typer.Exit(code)

"""``outrider demo``: see it work."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from outrider.cli.fault import CliError
from outrider.cli.options import Json

Frameworks = Annotated[
    str,
    typer.Option(
        "--frameworks",
        metavar="NAMES",
        help="Which take part beside LangGraph: crewai, autogen (with commas) or all; langgraph for it alone. Without "
        "this option: those that are installed.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(frameworks: Frameworks = "", json: Json = False) -> None:
    """Watch a sidecar govern flaky tools and agents, all on this machine, in less than a minute.

    LangGraph is always needed; CrewAI and AutoGen take part where they are installed. With --json the last line is the
    summary as one JSON object.
    """
    try:
        show = importlib.import_module("outrider.demo")
        code = show.main(json=json, frameworks=frameworks)
    except ImportError as missing:
        raise CliError(f"a part of the demo is not installed: {missing}.", "pip install 'outrider[demo]'") from None
    raise typer.Exit(code)

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.client import Client
from outrider.cli.place import control_plane

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The sidecar's data folder. Without it: the environment, then ./outrider-data.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON instead of a table.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for those who read the ledger later.")]


def people(data: Path | None) -> Client:
    """The control plane's client."""
    return Client(control_plane(data))

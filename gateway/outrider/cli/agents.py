"""``outrider agents ls``: who is here."""

from __future__ import annotations

import typer

from outrider.cli.fleet import warn_of_silent, with_sidecar
from outrider.cli.options import Data, Json, people
from outrider.cli.shown import as_json, table


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The agents that this sidecar knows.", no_args_is_help=True)
    group.command("ls")(ls)
    app.add_typer(group, name="agents")


def ls(data: Data = None, json: Json = False) -> None:
    """Who is here, and what they did."""
    found = people(data).get("/v1/agents")
    warn_of_silent(found)
    if json:
        return as_json(found["agents"])
    rows = [
        (
            agent["name"],
            agent["state"],
            agent["framework"],
            sum(instance["state"] == "connected" for instance in agent["instances"]),
            len(agent["tools"]),
            agent["in_flight"],
            agent["calls"],
            agent["failures"],
            agent["refused"],
            agent["last_seen"],
        )
        for agent in found["agents"]
    ]
    columns = (
        "agent", "state", "framework", "processes", "tools", "in flight", "calls", "failed", "refused", "last seen",
    )  # fmt: skip
    return table(*with_sidecar(found, columns, rows, "agents"), nothing="No agent was seen yet.")

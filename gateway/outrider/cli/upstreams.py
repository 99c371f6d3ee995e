"""``outrider upstreams ls``: health, breakers, queues."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from outrider.cli.options import Data, Json, Reason, people
from outrider.cli.shown import as_json, say, table

MAX_LOCAL = 50
"""Fault domains of ``local`` shown in the table; ``--json`` shows all."""


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Where tools live.", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("accept")(accept)
    app.add_typer(group, name="upstreams")


def ls(data: Data = None, json: Json = False) -> None:
    """Health, breakers and queues of every upstream; for local of every fault domain that was used."""
    found = people(data).get("/v1/upstreams")["upstreams"]
    if json:
        return as_json(found)
    rows = [row for upstream in found for row in _rows(upstream)]
    columns = ("upstream", "health", "breaker", "failures", "in use", "waiting", "last word")
    return table(columns, rows, "The policy names no upstream.")


def accept(
    name: Annotated[str, typer.Argument(help="The upstream, an MCP server.")],
    reason: Reason,
    tool: Annotated[str, typer.Argument(help="One of its tools; without it, all that have drifted.")] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Trust tools of an MCP server as they are now, whose schema or description has changed."""
    path = f"/v1/upstreams/{quote(name, safe='')}/accept"
    answer = people(data).expect("POST", path, {"tool": tool, "reason": reason})
    if json:
        return as_json(answer)
    trusted = ", ".join(f"{one['name']} ({one['digest']})" for one in answer["tools"])
    return say(f"Trusted as they are now, of {name}: {trusted}.")


def _rows(upstream: dict[str, Any]) -> list[tuple[object, ...]]:
    child = (upstream.get("mcp") or {}).get("child")
    health = _child(child) if child else "-"
    last = (child or {}).get("last_error") or ""
    if drifted := (upstream.get("mcp") or {}).get("drifted"):
        last = f"drifted: {', '.join(tool['name'] for tool in drifted[:5])}"
    if upstream["probed"]:
        health = "ready" if upstream["health"]["ready"] else "not ready"
        last = upstream["health"].get("last", "")
    domains = upstream["domains"][:MAX_LOCAL]
    if not domains:
        return [(upstream["name"], health, "closed", 0, 0, 0, last)]
    return [
        (
            domain["key"],
            health,
            domain["breaker"]["state"],
            f"{domain['breaker']['failures']} of {domain['breaker']['calls']}",
            domain["bulkhead"]["held"],
            domain["bulkhead"]["waiting"],
            last,
        )
        for domain in domains
    ]


def _child(child: dict[str, Any]) -> str:
    """How a server that is a child of the sidecar is."""
    if child["pid"]:
        return f"{child['state']}, pid {child['pid']}"
    return f"crashed, waits {child['wait_s']:.0f} s" if child["wait_s"] else child["state"]

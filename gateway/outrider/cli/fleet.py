"""``outrider peers ls``, and how commands show what all sidecars together answered."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from outrider.cli.options import Data, Json, people
from outrider.cli.plain import safe
from outrider.cli.shown import Rows, as_json, table, warn

INCOMPLETE = 3
"""The exit code of what was done here and is not known to be done everywhere."""

Answer = Mapping[str, Any]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="The other sidecars that this one knows.", no_args_is_help=True)
    group.command("ls")(ls)
    app.add_typer(group, name="peers")


def ls(data: Data = None, json: Json = False) -> None:
    """Who the peers are, and whether they answer."""
    found = people(data).get("/v1/peers")
    if json:
        return as_json(found)
    rows = [
        (
            peer["peer"],
            peer["sidecar"],
            peer["state"],
            peer["answered_at"],
            _kills(peer),
            peer["error"],
        )
        for peer in found["peers"]
    ]
    table(("peer", "sidecar", "state", "last answer", "kills", "why"), rows, _nobody(found))
    if not found["caught_up"]:
        warn("Warning: no peer has answered since this sidecar started, so it may lack kills that they have.")
    if found["left_out"]:
        warn(f"Warning: {found['left_out']} more are listed than can know each other; nothing is told to them.")
    return None


def _kills(peer: Answer) -> str:
    if peer["state"] == "self":
        return ""
    if peer["in_step"]:
        return "the same as here"
    return f"{len(peer['missed'])} not heard" if peer["missed"] else "not known"


def _nobody(found: Answer) -> str:
    if found["name"] is not None:
        return f"No peer yet: {found['name']} names none."
    return "This sidecar was told of no peers; see outrider serve --peers."


def with_sidecar(found: Answer, columns: Sequence[str], rows: Rows, what: str) -> tuple[Sequence[str], Rows]:
    """The table's columns and rows, with whose each row is where there is more than one sidecar."""
    if not found.get("peers"):
        return columns, rows
    return (*columns, "sidecar"), [(*row, one["sidecar"]) for row, one in zip(rows, found[what], strict=True)]


def warn_of_silent(found: Answer) -> None:
    """A list that lacks what a peer has must not look whole."""
    for peer in _silent(found):
        warn(f"Warning: {_name(peer)} did not answer, and what it has is not in this list: {peer['error']}")


def exit_incomplete(found: Answer, consequence: str) -> None:
    """Loudly, and with an exit code, where not every sidecar is known to have done it."""
    if found.get("complete", True):
        return
    if silent := _silent(found):
        _loud(f"NOT EVERYWHERE: {len(silent)} of {len(found['peers'])} peers did not answer. {consequence}")
    else:
        _loud("NOT EVERYWHERE: more peers are listed than can know each other; see outrider peers ls.")
    for peer in silent:
        _loud(f"  {_name(peer)}: {peer['error']}")
    raise typer.Exit(INCOMPLETE)


def _silent(found: Answer) -> list[Answer]:
    return [peer for peer in found.get("peers", ()) if not peer["answered"]]


def _name(peer: Answer) -> str:
    sidecar, address = peer["sidecar"], peer["peer"]
    return f"peer {address}" if sidecar in (None, address) else f"peer {sidecar} ({address})"


def _loud(line: str) -> None:
    red, plain = ("\x1b[1;31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}{safe(line)}{plain}", file=sys.stderr)

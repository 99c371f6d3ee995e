"""``outrider kill``, ``kills ls`` and ``revive``: stop, see what is stopped, release."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from outrider.cli.client import Client
from outrider.cli.fault import CliError
from outrider.cli.options import Data, Json, Reason, people
from outrider.cli.shown import as_json, say, table, warn

NO_REASON = "stopped from the command line"


def register(app: typer.Typer) -> None:
    app.command()(kill)
    group = typer.Typer(help="Kill switches.", no_args_is_help=True)
    group.command("ls")(ls)
    app.add_typer(group, name="kills")
    app.command()(revive)


def kill(
    scope: Annotated[
        str, typer.Argument(help="global, agent:NAME, agent:PREFIX*, run:ID, tool:NAME, tool:PREFIX* or upstream:NAME.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who read the ledger later.")] = NO_REASON,
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="DURATION", help="Ends by itself after 30s, 15m, 2h …", show_default=False)
    ] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Stop calls, at once, and print what became of those under way. It lasts until it is lifted."""
    body = {"scope": scope, "reason": reason} | ({"ttl": ttl} if ttl else {})
    receipt = people(data).expect("POST", "/v1/kills", body)
    if not receipt.get("durable", True):
        warn("Warning: the kill is in force and not yet on disk: the ledger cannot be written. It is tried again.")
    if json:
        return as_json(receipt)
    counts = receipt["counts"]
    say(
        f"Stopped {receipt['scope']} in {receipt['took_ms']:.0f} ms. Calls under way: {counts['not_executed']} not "
        f"executed, {counts['completed']} completed, {counts['unknown']} unknown."
    )
    rows = [(call["call_id"], call["agent"], call["tool"], call["result"]) for call in receipt["calls"]]
    if rows:
        table(("call", "agent", "tool", "result"), rows, "")
    return say(f"Lift it with: outrider revive {receipt['id']} --reason …")


def ls(
    history: Annotated[bool, typer.Option("--history", help="Those that were lifted, too.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """What is stopped now."""
    found = people(data).get("/v1/kills", {"history": "true"} if history else None)
    if json:
        return as_json(found if history else found["kills"])
    rows = [_row(kill) for kill in found["kills"] + found.get("lifted", [])]
    columns = ("id", "scope", "reason", "by", "engaged", "until", "on disk")
    return table(columns, rows, "Nothing is stopped.")


def _row(kill: dict[str, Any]) -> tuple[object, ...]:
    until = f"lifted {kill['lifted_at']}" if "lifted_at" in kill else kill["expires_at"] or "it is lifted"
    return (kill["id"], kill["scope"], kill["reason"], kill["by"], kill["engaged_at"], until, kill["durable"])


def revive(
    kill_id: Annotated[str, typer.Argument(metavar="ID", help="The kill's id, or its scope.")],
    reason: Reason,
    data: Data = None,
    json: Json = False,
) -> None:
    """Lift a kill: its calls pass again."""
    client = people(data)
    lifted = client.expect("DELETE", f"/v1/kills/{quote(_id(client, kill_id), safe='')}", {"reason": reason})
    as_json(lifted) if json else say(f"Lifted {lifted['scope']} ({lifted['id']}).")


def _id(client: Client, text: str) -> str:
    """A kill may be named by its scope, which is what people remember."""
    if text != "global" and ":" not in text:
        return text
    found = [kill["id"] for kill in client.get("/v1/kills")["kills"] if kill["scope"] == text]
    if len(found) == 1:
        return str(found[0])
    what = f"no kill of {text} is engaged." if not found else f"{len(found)} kills of {text} are engaged."
    raise CliError(what, "name one by its id; list them with: outrider kills ls")

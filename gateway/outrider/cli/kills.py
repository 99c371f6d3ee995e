"""``outrider kill``, ``kills ls`` and ``revive``: stop, see what is stopped, release."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from outrider.cli.client import Client
from outrider.cli.fault import CliError
from outrider.cli.fleet import exit_incomplete, with_sidecar
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
    as_json(receipt) if json else _show(receipt)
    exit_incomplete(
        receipt, "It is told to them again until they answer or the kill is lifted; until then they may go on."
    )


def _show(receipt: dict[str, Any]) -> None:
    counts, peers = receipt["counts"], [peer for peer in receipt.get("peers", ()) if peer["answered"]]
    took_ms = max([receipt["took_ms"], *(peer["took_ms"] for peer in peers)])
    where = f" on {len(peers) + 1} of {len(receipt['peers']) + 1} sidecars" if receipt.get("peers") else ""
    say(
        f"Stopped {receipt['scope']}{where} in {took_ms:.0f} ms. Calls under way: {counts['not_executed']} not "
        f"executed, {counts['completed']} completed, {counts['unknown']} unknown."
    )
    rows = [(call["call_id"], call["agent"], call["tool"], call["result"]) for call in receipt["calls"]]
    if rows:
        table(*with_sidecar(receipt, ("call", "agent", "tool", "result"), rows, "calls"), nothing="")
    if receipt["scope"].startswith("agent:"):
        say("Tokens and JWTs issued to it until now are revoked, and stay so once the kill is lifted.")
    say(f"Lift it with: outrider revive {receipt['id']} --reason …")


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
    kill_id: Annotated[str, typer.Argument(metavar="ID", help="The kill's id, or its scope: all of them.")],
    reason: Reason,
    data: Data = None,
    json: Json = False,
) -> None:
    """Lift a kill: its calls pass again. By its scope: all kills of that scope."""
    client = people(data)
    answers = [
        client.expect("DELETE", f"/v1/kills/{quote(one, safe='')}", {"reason": reason}) for one in _ids(client, kill_id)
    ]
    if json:
        as_json(answers[0] if len(answers) == 1 else answers)
    else:
        _show_lifted(answers)
    for lifted in answers:
        exit_incomplete(lifted, "They stay stopped until they hear of it, which they do as soon as they answer.")


def _show_lifted(answers: list[dict[str, Any]]) -> None:
    for lifted in answers:
        say(f"Lifted {lifted['scope']} ({lifted['id']}).")
    last = answers[-1]
    if still := last.get("still"):
        warn(f"Warning: {last['scope']} stays stopped by {', '.join(still)}; see: outrider kills ls")


def _ids(client: Client, text: str) -> list[str]:
    """A kill may be named by its scope, which is what people remember."""
    if text != "global" and ":" not in text:
        return [text]
    found = [str(kill["id"]) for kill in client.get("/v1/kills")["kills"] if kill["scope"] == text]
    if not found:
        raise CliError(f"no kill of {text} is engaged.", "name one by its id; list them with: outrider kills ls")
    return found

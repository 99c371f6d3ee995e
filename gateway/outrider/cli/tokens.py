"""``outrider tokens issue``, ``ls`` and ``revoke``: a credential for each agent."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from outrider.cli.fault import CliError
from outrider.cli.options import Data, Json, people
from outrider.cli.shown import as_json, say, table, warn

NO_REASON = "revoked from the command line"


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Tokens of agents.", no_args_is_help=True)
    group.command("issue")(issue)
    group.command("ls")(ls)
    group.command("revoke")(revoke)
    app.add_typer(group, name="tokens")


def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent's name, exactly.")],
    also: Annotated[
        list[str] | None, typer.Option("--also", metavar="NAME", help="Another name that its process may call under.")
    ] = None,
    owner: Annotated[str, typer.Option("--owner", help="Who answers for the agent.", show_default=False)] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="For conditions of rules: agent.labels.")
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="DURATION", help="How long it lasts: 30d, 12h …", show_default=False)
    ] = "",
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", metavar="PATTERN", help="Only these tools; never more than the rules allow."),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a token for an agent. It is printed once, and kept nowhere."""
    body: dict[str, Any] = {"agent": name, "also": also or [], "owner": owner, "tools": tool or []}
    body |= {"labels": _labels(label or [])} | ({"expires": expires} if expires else {})
    made = people(data).expect("POST", "/v1/tokens", body)
    if json:
        return as_json(made)
    until = f"until {made['expires_at']}" if made["expires_at"] else "until it is revoked"
    warn(f"Token {made['id']} of agent {name}, valid {until}. This is the only time that it is shown.")
    return say(made["token"])


def _labels(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise CliError(f"--label '{key}' is not KEY=VALUE.", "for example: --label team=research", 2)
    return {key: value for key, _, value in pairs}


def ls(
    history: Annotated[bool, typer.Option("--history", help="Those that are revoked or expired, too.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """The tokens of agents, and when each was last used."""
    found = people(data).get("/v1/tokens", {"history": "true"} if history else None)["tokens"]
    if json:
        return as_json(found)
    columns = ("id", "agent", "owner", "tools", "state", "expires", "last used", "issued by")
    return table(
        columns, [_row(token) for token in found], "No token is valid." if not history else "No token was issued."
    )


def _row(token: dict[str, Any]) -> tuple[object, ...]:
    names = ", ".join([token["agent"], *token["also"]])
    tools = ", ".join(token["tools"]) or "all that rules allow"
    return (
        token["id"], names, token["owner"], tools, token["state"], token["expires_at"] or "never",
        token["last_used_at"], token["issued_by"],
    )  # fmt: skip


def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, the part after ort_.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; whoever still uses it reads this.")] = NO_REASON,
    data: Data = None,
    json: Json = False,
) -> None:
    """Revoke a token, at once."""
    if token_id.startswith("ort_"):
        raise CliError("that is a whole token.", f"name its id only: outrider tokens revoke {token_id[4:16]}", 2)
    ended = people(data).expect("DELETE", f"/v1/tokens/{quote(token_id, safe='')}", {"reason": reason})
    if not ended["durable"]:
        warn("Warning: it is revoked and that is not yet on disk: the ledger cannot be written. It is tried again.")
    as_json(ended) if json else say(f"Revoked the token {ended['id']} of agent {ended['agent']}.")

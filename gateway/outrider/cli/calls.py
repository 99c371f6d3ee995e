"""``outrider call``, ``calls ls`` and ``settle``."""

from __future__ import annotations

import json as json_format
from typing import Annotated, Any

import typer

from outrider.cli.client import Client, refusal
from outrider.cli.fault import CliError
from outrider.cli.fleet import warn_of_silent, with_sidecar
from outrider.cli.options import Data, Json, Reason, people
from outrider.cli.place import data_plane
from outrider.cli.plain import safe
from outrider.cli.shown import as_json, say, table

CALL_TIMEOUT_S = 3600.0
"""The sidecar ends a call at its deadline; this only bounds a sidecar that does not answer at all."""


def register(app: typer.Typer) -> None:
    app.command()(call)
    group = typer.Typer(help="Calls under way.", no_args_is_help=True)
    group.command("ls")(ls)
    app.add_typer(group, name="calls")
    app.command()(settle)


def call(
    tool: Annotated[str, typer.Argument(help="The tool's name, for example ledger.get_balance.")],
    args: Annotated[str, typer.Option("--args", metavar="JSON", help="The arguments, a JSON object.")] = "{}",
    agent: Annotated[
        str, typer.Option("--agent", envvar="OUTRIDER_AGENT", help="In whose name.", show_default=False)
    ] = "",
    run: Annotated[str, typer.Option("--run", help="The run it belongs to.", show_default=False)] = "",
    session: Annotated[str, typer.Option("--session", help="The session it belongs to.", show_default=False)] = "",
    timeout_ms: Annotated[
        int | None, typer.Option("--timeout-ms", min=1, help="How long you are willing to wait.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make one governed call, as an agent would. Prints the result; --json prints the whole answer."""
    body: dict[str, Any] = {"tool": tool, "args": _arguments(args)}
    body |= {name: value for name, value in (("agent", agent), ("run", run), ("session", session)) if value}
    headers = {} if timeout_ms is None else {"Gateway-Timeout-Ms": str(timeout_ms)}
    answer = Client(data_plane(data), CALL_TIMEOUT_S).ask("POST", "/v1/call", body, headers)
    if json:
        as_json(answer.body)
        raise typer.Exit(0 if answer.ok else 1)
    if not answer.ok:
        raise _with_facts(refusal(answer), answer.body)
    _show_result(answer.body["result"])


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json_format.loads(text)
    except (ValueError, RecursionError) as error:
        raise CliError(f"--args is not JSON: {error}.", 'for example: --args \'{"id": "42"}\'', 2) from None
    if not isinstance(found, dict):
        raise CliError("--args is not a JSON object.", 'for example: --args \'{"id": "42"}\'', 2)
    return found


def _show_result(result: Any) -> None:
    say(result) if isinstance(result, str) else print(json_format.dumps(result, indent=2, ensure_ascii=True))


def _with_facts(error: CliError, problem: Any) -> CliError:
    """What a person wants to know next: may it have run, and which call was it."""
    if not isinstance(problem, dict) or "call_id" not in problem:
        return error
    outcome, attempts = problem.get("outcome", "?"), problem.get("attempts", 0)
    error.fix = error.fix or f"outcome {outcome}, attempts {attempts}; see: outrider ledger show {problem['call_id']}"
    return CliError(f"{error.what}\n  {error.fix}")


def ls(data: Data = None, json: Json = False) -> None:
    """The calls under way."""
    found = people(data).get("/v1/calls", {"state": "in_flight"})
    warn_of_silent(found)
    if json:
        return as_json(found["calls"])
    rows = [
        (
            call["call_id"],
            call["agent"],
            call["tool"],
            call["run"],
            call["attempts"],
            f"{call['took_ms'] / 1000:.1f} s",
            call["stopping"],
        )
        for call in found["calls"]
    ]
    columns = ("call", "agent", "tool", "run", "attempts", "since", "stopping")
    return table(*with_sidecar(found, columns, rows, "calls"), nothing="No call is under way.")


def settle(
    call_id: Annotated[str, typer.Argument(metavar="CALL", help="The call's id.")],
    as_: Annotated[str, typer.Option("--as", metavar="executed|not_executed", help="What became of it.")],
    reason: Reason,
    data: Data = None,
    json: Json = False,
) -> None:
    """Say what became of a call whose outcome was unknown, so that its agent may make it again."""
    if as_ not in ("executed", "not_executed"):
        raise CliError(f"--as '{as_}' is not known.", "write --as executed or --as not_executed.", 2)
    settled = people(data).expect("POST", f"/v1/calls/{_in_path(call_id)}/settle", {"as": as_, "reason": reason})
    as_json(settled) if json else say(f"Settled: {safe(call_id)} was {as_.replace('_', ' ')}.")


def _in_path(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")

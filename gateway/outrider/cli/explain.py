"""``outrider explain``: why a call is, or was, treated as it is."""

from __future__ import annotations

import json as json_format
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.explained import show
from outrider.cli.fault import CliError
from outrider.cli.options import Data, Json
from outrider.cli.place import DEFAULT_POLICY, data_folder
from outrider.cli.plain import safe
from outrider.cli.shown import as_json

if TYPE_CHECKING:
    from outrider.policy.load import Policy


def register(app: typer.Typer) -> None:
    app.command()(explain)


def explain(
    call_id: Annotated[
        str, typer.Argument(metavar="[CALL]", help="A call of the ledger, instead of the options below.")
    ] = "",
    agent: Annotated[str, typer.Option("--agent", help="Who would call.", show_default=False)] = "",
    tool: Annotated[str, typer.Option("--tool", help="The tool, for example ledger.get_balance.")] = "",
    args: Annotated[str, typer.Option("--args", metavar="JSON", help="The arguments, a JSON object.")] = "{}",
    run: Annotated[str, typer.Option("--run", help="The run it would belong to.", show_default=False)] = "",
    session: Annotated[str, typer.Option("--session", help="The session.", show_default=False)] = "",
    framework: Annotated[str, typer.Option("--framework", help="The agent's framework.", show_default=False)] = "",
    owner: Annotated[str, typer.Option("--owner", help="The agent's owner.", show_default=False)] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label of the agent; may be repeated.")
    ] = None,
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="When, in RFC 3339; without it: now.", show_default=False)
    ] = "",
    policy: Annotated[
        Path,
        typer.Option("--policy", envvar="OUTRIDER_POLICY", metavar="DIR", help="The folder of policy files."),
    ] = DEFAULT_POLICY,
    data: Data = None,
    json: Json = False,
) -> None:
    """Why a call is treated as it is: the rules that match or not, the plan with file and line of every value, the
    request it would be sent as. With CALL: why that call was, by the policy that was in force then."""
    if bool(call_id) == bool(tool):
        raise CliError(
            "say what is to be explained: a call of the ledger, or --tool.",
            "outrider explain --agent NAME --tool UPSTREAM.OPERATION --args JSON, or outrider explain CALL.",
            2,
        )
    if call_id:
        answer = _of_call(data_folder(data), call_id)
    else:
        who = {"name": agent or "anonymous", "framework": framework, "owner": owner, "labels": _labels(label or [])}
        answer = _of_question(policy, tool, _object(args), who, run, session, _moment(at))
    as_json(answer) if json else show(answer)


def _of_question(
    folder: Path, tool: str, args: dict[str, Any], who: dict[str, Any], run: str, session: str, now: float
) -> dict[str, Any]:
    from outrider.calls import Agent
    from outrider.explain.answer import explanation
    from outrider.policy.rules import Facts

    facts = Facts(tool, args, Agent(**who), run, session, "token:agent", now)
    return explanation(_loaded(folder), facts)


def _loaded(folder: Path) -> Policy:
    """The folder's policy. What it needs of the sidecar's environment need not be here."""
    from outrider.errors import Misconfigured
    from outrider.policy.load import SECRETS_MISSING, check

    policy, faults = check(folder, forgive=SECRETS_MISSING)
    if policy is None:
        raise Misconfigured([fault for fault in faults if fault.severity == "error"])
    return policy


def _of_call(folder: Path, call_id: str) -> dict[str, Any]:
    from outrider.explain.answer import explanation
    from outrider.explain.recorded import asked, policy_of

    found = asked(folder, call_id)
    if found is None:
        raise CliError(f"the ledger holds no call '{safe(call_id)}'.", "list calls with: outrider ledger search")
    answer = explanation(policy_of(folder, found.policy_digest), found.facts)
    return {"call_id": call_id, **answer, "args_known": found.args_known, "story": found.story}


def _object(text: str) -> dict[str, Any]:
    try:
        found = json_format.loads(text)
    except (ValueError, RecursionError) as error:
        raise CliError(f"--args is not JSON: {error}.", 'for example: --args \'{"id": "42"}\'', 2) from None
    if not isinstance(found, dict):
        raise CliError("--args is not a JSON object.", 'for example: --args \'{"id": "42"}\'', 2)
    return found


def _labels(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise CliError(f"--label '{safe(pair)}' is no label.", "write --label KEY=VALUE.", 2)
        found[key] = value
    return found


def _moment(text: str) -> float:
    if not text:
        return datetime.now(UTC).timestamp()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(f"--at '{safe(text)}' is no time.", "write 2026-11-22T15:04:05Z.", 2) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

"""``outrider runs``: what each run did, stop one, let one go on."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from outrider.cli import kills
from outrider.cli.fleet import warn_of_silent, with_sidecar
from outrider.cli.options import Data, Json, Reason, people
from outrider.cli.plain import safe, short
from outrider.cli.shown import as_json, say, table

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Runs: one invocation of an agent each, nested agents included.", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("show")(show)
    group.command("kill")(kill)
    group.command("resume")(resume)
    app.add_typer(group, name="runs")


def ls(
    agent: Annotated[str, typer.Option("--agent", help="Only runs that this agent is in.", show_default=False)] = "",
    state: Annotated[
        str,
        typer.Option("--state", metavar="running|idle|limited|paused|killed", help="Only these.", show_default=False),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")] = 100,
    data: Data = None,
    json: Json = False,
) -> None:
    """The runs that are known, the latest first."""
    found = people(data).get("/v1/runs", {"agent": agent, "state": state, "limit": limit})
    warn_of_silent(found)
    if json:
        return as_json(found["runs"])
    rows = [_row(run) for run in found["runs"]]
    table(*with_sidecar(found, COLUMNS, rows, "runs"), nothing="No run is known.")
    if found["more"]:
        say(f"{found['more']} more; narrow it with --agent or --state, or raise --limit.")
    return None


COLUMNS = ("run", "agent", "state", "calls", "retries", "failed", "refused", "in flight", "last call", "why")


def _row(run: dict[str, Any]) -> tuple[object, ...]:
    agent = run["agent"] + (f" +{len(run['agents']) - 1}" if len(run["agents"]) > 1 else "")
    counts = (_of(run, "calls"), _of(run, "retries"), run["failures"], run["refused"], run["in_flight"])
    return (run["run"], agent, run["state"], *counts, run["last_call"], run["why"])


def _of(run: dict[str, Any], what: str) -> str:
    """A count, and what the policy allows of it."""
    most = (run["limits"] or {}).get(f"max_{what}")
    return str(run[what]) if most is None else f"{run['counted'][what]}/{most}"


def show(run: RunId, data: Data = None, json: Json = False) -> None:
    """One run: what stops it, and its calls, each below the call that it was made in."""
    found = people(data).get(f"/v1/runs/{quote(run, safe='')}")
    if json:
        return as_json(found)
    table(COLUMNS, [_row(row) for row in found["runs"]], "The run is not known any more; what the ledger holds:")
    rows = [
        (
            "  " * depth + call["tool"],
            call["agent"],
            call["outcome"] or "under way",
            call["code"],
            call["attempts"],
            "" if call["took_ms"] is None else f"{call['took_ms']:.0f} ms",
            call["call_id"],
            short(call["detail"]),
        )
        for depth, call in _tree(found["calls"])
    ]
    columns = ("tool", "agent", "outcome", "code", "attempts", "took", "call", "detail")
    return table(columns, rows, "The ledger holds no recent call of it.")


def _tree(calls: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Parents before their children, with the depth of each. Whose parent is not told stands at the root."""
    below: dict[str, list[dict[str, Any]]] = {}
    known = {call["call_id"] for call in calls}
    for call in calls:
        below.setdefault(call["parent"] if call["parent"] in known else "", []).append(call)
    found: list[tuple[int, dict[str, Any]]] = []
    waiting = [(0, call) for call in reversed(below.get("", []))]
    while waiting:
        depth, call = waiting.pop()
        found.append((depth, call))
        waiting += [(depth + 1, child) for child in reversed(below.get(call["call_id"], []))]
    return found


def kill(
    run: RunId,
    reason: Annotated[
        str, typer.Option("--reason", help="Why, for those who read the ledger later.")
    ] = kills.NO_REASON,
    data: Data = None,
    json: Json = False,
) -> None:
    """Stop a run with a kill switch, at once. It lasts until it is lifted: outrider revive."""
    kills.kill(f"run:{run}", reason, "", data, json)


def resume(run: RunId, reason: Reason, data: Data = None, json: Json = False) -> None:
    """Let a run go on that the policy's guards stopped. Its limits count anew."""
    answer = people(data).expect("POST", f"/v1/runs/{quote(run, safe='')}/resume", {"reason": reason})
    if json:
        return as_json(answer)
    say(f"Resumed {safe(run)}; its limits count anew.")
    if any(one["state"] == "killed" for one in answer["runs"]):
        say(f"A kill still stops it; lift that with: outrider revive {safe(f'run:{run}')} --reason …")
    return None

"""``outrider agents …``: who is here, and what people command of them."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from outrider.cli.fleet import warn_of_silent, with_sidecar
from outrider.cli.options import Data, Json, Reason, people
from outrider.cli.shown import as_json, say, table, warn

Name = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name; it need not have been seen yet.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="The agents that this sidecar knows, and what people command of them.", no_args_is_help=True
    )
    for command in (ls, show, cordon, uncordon, drain, pause, resume, retire, accept):
        group.command(command.__name__)(command)
    app.add_typer(group, name="agents")


def ls(data: Data = None, json: Json = False) -> None:
    """Who is here, how they stand, and what they did."""
    found = people(data).get("/v1/agents")
    warn_of_silent(found)
    if json:
        return as_json(found["agents"])
    rows = [
        (
            agent["name"],
            agent["standing"],
            _notes(agent),
            agent["owner"],
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
        "agent", "standing", "notes", "owner", "framework", "processes", "tools", "in flight", "calls", "failed",
        "refused", "last seen",
    )  # fmt: skip
    return table(*with_sidecar(found, columns, rows, "agents"), nothing="No agent was seen yet.")


def _notes(agent: dict[str, Any]) -> str:
    """What a person should look at."""
    notes = []
    if agent["quarantined"]:
        notes.append("quarantined")
    elif agent["declared"] is False:
        notes.append("undeclared")
    if agent["drift"]:
        notes.append(f"{len(agent['drift'])} drifted")
    if agent["waiting"]:
        notes.append(f"{agent['waiting']} waiting")
    if agent["commanded"].get("automated"):
        notes.append("by Outrider")
    if agent["standing"] == "draining" and agent["commanded"].get("drained_at"):
        notes.append("drained")
    return ", ".join(notes)


def show(agent: Name, data: Data = None, json: Json = False) -> None:
    """Everything that is known of one agent."""
    found = people(data).get(_path(agent))
    if json:
        return as_json(found)
    commanded = found["commanded"]
    facts = [
        ("name", f"{found['name']} ({'its own word' if found['asserted'] else 'proven by its credential'})"),
        ("standing", found["standing"]),
        ("commanded", " ".join(_told(commanded))),
        ("observed", found["observed"]),
        ("declared", found["declared"]),
        ("owner", found["owner"]),
        ("labels", ", ".join(f"{key}={value}" for key, value in found["labels"].items())),
        ("framework", " ".join([found["framework"], *(f"{key} {value}" for key, value in found["versions"].items())])),
        ("calls", f"{found['calls']}, failed {found['failures']}, refused {found['refused']}"),
        ("now", f"{found['in_flight']} in flight, {found['waiting']} waiting"),
        ("seen", f"first {found['first_seen']}, last {found['last_seen']}"),
    ]
    table(("agent", ""), facts, "")
    say("")
    table(
        ("process", "state", "observed", "host", "pid", "since"),
        [
            tuple(one[key] for key in ("instance", "state", "observed", "host", "pid", "since"))
            for one in found["instances"]
        ],
        "It keeps no channel.",
    )
    say("")
    rows = [(tool["name"], tool["drifted"], tool["digest"][:19], tool["first_seen"]) for tool in found["tools"]]
    return table(("tool", "drifted", "digest", "first seen"), rows, "It has declared no tool.")


def _told(commanded: dict[str, Any]) -> list[str]:
    words = [commanded["state"]]
    if "by" in commanded:
        words.append(f"by {commanded['by']} since {commanded['since']}: {commanded['why']}.")
    if commanded["state"] == "draining":
        drained = commanded["drained_at"]
        words.append(
            f"Drained {drained}." if drained else f"{commanded['remaining']} calls until {commanded['deadline']}."
        )
    return words


def cordon(agent: Name, reason: Reason, data: Data = None, json: Json = False) -> None:
    """Let no new run begin; runs under way go on."""
    _command("cordon", agent, {"reason": reason}, data, json)


def uncordon(agent: Name, reason: Reason, data: Data = None, json: Json = False) -> None:
    """Open an agent that was cordoned or drained."""
    _command("uncordon", agent, {"reason": reason}, data, json)


def drain(
    agent: Name,
    reason: Reason,
    deadline: Annotated[
        str, typer.Option("--deadline", metavar="DURATION", help="How long calls in flight may take.")
    ] = "30s",
    data: Data = None,
    json: Json = False,
) -> None:
    """Let nothing new begin; calls in flight may end until the deadline, and are then stopped."""
    _command("drain", agent, {"reason": reason, "deadline": deadline}, data, json)


def pause(agent: Name, reason: Reason, data: Data = None, json: Json = False) -> None:
    """Let calls wait, as many and as long as the policy says; more are refused."""
    _command("pause", agent, {"reason": reason}, data, json)


def resume(agent: Name, reason: Reason, data: Data = None, json: Json = False) -> None:
    """End a pause: calls that wait go on."""
    _command("resume", agent, {"reason": reason}, data, json)


def retire(agent: Name, reason: Reason, data: Data = None, json: Json = False) -> None:
    """Refuse an agent's calls for good. Nothing lifts this."""
    _command("retire", agent, {"reason": reason}, data, json)


def accept(
    agent: Name,
    tool: Annotated[str, typer.Argument(help="The tool that has drifted, for example local.search.")],
    reason: Reason,
    data: Data = None,
    json: Json = False,
) -> None:
    """Trust a tool as it is now, whose schema or description has changed."""
    answer = people(data).expect("POST", f"{_path(agent)}/accept", {"tool": tool, "reason": reason})
    if json:
        return as_json(answer)
    return say(f"{tool} of agent {agent} is trusted as it is now ({answer['tool']['digest']}).")


def _command(word: str, agent: str, body: dict[str, str], data: Any, json: bool) -> None:
    answer = people(data).expect("POST", f"{_path(agent)}/{word}", body)
    commanded = answer["commanded"]
    if not commanded.get("durable", True):
        warn("Warning: this is in force and not yet on disk: the ledger cannot be written. It is tried again.")
    if json:
        return as_json(answer)
    return say(f"Agent {agent} is {' '.join(_told(commanded))}")


def _path(agent: str) -> str:
    return f"/v1/agents/{quote(agent, safe='')}"

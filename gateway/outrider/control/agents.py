"""Who is here, and what people command of them.

GET    /v1/agents                 the agents, their processes, what they did, on all sidecars
GET    /v1/agents/{name}          one of them, with its tools
POST   /v1/agents/{name}/cordon   no new runs                    /uncordon  opens it
POST   /v1/agents/{name}/pause    calls wait                     /resume    ends that
POST   /v1/agents/{name}/drain    nothing new; what is in flight may end until the deadline
POST   /v1/agents/{name}/retire   refused for good
POST   /v1/agents/{name}/accept   trust what a drifted tool is now
"""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from outrider.agents.commanded import Command
from outrider.agents.lifecycle import DRAIN_S
from outrider.control.merged import everywhere
from outrider.control.routes import Routes, by, to_its_end
from outrider.control_bodies import AcceptBody, DrainBody, ReasonBody, read_body, refuse_unknown
from outrider.errors import Code
from outrider.http_common import json_response, problem_response
from outrider.kills import Kill
from outrider.services import Services


def local_agents(services: Services) -> list[dict[str, Any]]:
    """The agents of this sidecar."""
    exact, others = _agent_kills(services)
    return [_with_kills(row, exact, others) for row in services.agents.snapshot()]


def _agent_kills(services: Services) -> tuple[dict[str, Kill], list[Kill]]:
    """The kills of agents, by name, and those of many: a thousand agents are not compared with a thousand kills."""
    kills = [kill for kill in services.kills.all() if kill.target.kind in ("global", "agent")]
    exact = {kill.target.name: kill for kill in kills if kill.target.name and not kill.target.name.endswith("*")}
    return exact, [kill for kill in kills if kill.target.name not in exact]


def _with_kills(row: dict[str, Any], exact: dict[str, Kill], others: list[Kill]) -> dict[str, Any]:
    """``killed`` is not stored with the agent: the kill board is asked."""
    name = row["name"]
    named = [exact[name]] if name in exact else []
    row["killed"] = [kill.id for kill in (*named, *(kill for kill in others if kill.target.covers(name, "", "", "")))]
    if row["killed"]:
        row["standing"] = "killed"
    return row


async def _agents(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    return json_response(await everywhere(services, "agents", local_agents(services)))


async def _agent(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    name = request.match_info["name"]
    try:
        row = services.agents.show(name)
    except KeyError:
        return problem_response(Code.NOT_FOUND, f"No agent '{name[:80]}' was seen; GET /v1/agents lists them.")
    row["commanded"] = services.lifecycle.shown(name)
    return json_response(_with_kills(row, *_agent_kills(services)))


async def _command(command: Command, services: Services, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    raw = await request.read()
    body = read_body(raw, DrainBody) if command is Command.DRAIN else read_body(raw, ReasonBody)
    deadline_s = (body.deadline_s() if isinstance(body, DrainBody) else None) or DRAIN_S
    await to_its_end(services.lifecycle.command(name, command, body.reason, by(request), deadline_s))
    return json_response({"name": name, "commanded": services.lifecycle.shown(name)})


async def _accept(services: Services, request: web.Request) -> web.Response:
    name = request.match_info["name"]
    body = read_body(await request.read(), AcceptBody)
    try:
        tool = await to_its_end(services.lifecycle.accept(name, body.tool, body.reason, by(request)))
    except KeyError:
        detail = (
            f"No tool '{body.tool[:80]}' of agent '{name[:80]}' has drifted; GET /v1/agents/{{name}} shows its tools."
        )
        return problem_response(Code.NOT_FOUND, detail)
    return json_response({"name": name, "tool": tool})


ROUTES: Routes = (
    ("GET", "/v1/agents", _agents),
    ("GET", "/v1/agents/{name}", _agent),
    ("POST", "/v1/agents/{name}/accept", _accept),
    *(("POST", f"/v1/agents/{{name}}/{command.value}", partial(_command, command)) for command in Command),
)

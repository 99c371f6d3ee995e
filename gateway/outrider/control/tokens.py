"""Tokens of agents.

GET    /v1/tokens                 those that are valid; ?history=true: those that are over, too
POST   /v1/tokens                 issue one; its text is in the answer and nowhere else
DELETE /v1/tokens/{id}            revoke one
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from outrider.control.routes import Routes, by, to_its_end
from outrider.control_bodies import FOREVER_S, ReasonBody, read_body, refuse_unknown
from outrider.errors import Code
from outrider.http_common import json_response, problem_response
from outrider.identity.keeper import Wanted
from outrider.policy.patterns import MAX_NAME, pattern_fault
from outrider.policy.units import parse_duration
from outrider.services import Services

MAX_LIST: Final = 64
MAX_LABELS: Final = 32
DAY_S: Final = 86_400.0
_DAYS: Final = re.compile(r"([0-9]{1,4})d")


class TokenBody(msgspec.Struct, frozen=True):
    """``POST /v1/tokens``. ``expires`` is how long it lasts, with a unit; ``tools`` are patterns."""

    agent: str
    also: list[str] = []
    owner: str = ""
    labels: dict[str, str] = {}
    tools: list[str] = []
    expires: str | int | float | None = None

    def wanted(self) -> Wanted:
        also = tuple(name for name in dict.fromkeys(self.also) if name != self.agent)
        lasts_s = parse_lifetime(self.expires) if isinstance(self.expires, str) else None
        return Wanted(self.agent, also, self.owner, self.labels, tuple(dict.fromkeys(self.tools)), lasts_s)


def parse_lifetime(text: str) -> float | None:
    """Seconds of ``30d``, or of any duration of the policy language; None where the text is neither."""
    days = _DAYS.fullmatch(text)
    return int(days[1]) * DAY_S if days else parse_duration(text)


# ── what is wrong with a body ────────────────────────────────────────────────────────────────────────────────────


def _not_a_name(value: str) -> str:
    if not value.strip():
        return "is empty; name the agent"
    if len(value) > MAX_NAME or not value.isprintable() or value != value.strip():
        return f"is longer than {MAX_NAME} characters, or holds control characters or space around it"
    return "has a '*'; a token is of agents that are named exactly" if "*" in value else ""


def _not_names(value: list[str]) -> str:
    return _too_many(value, MAX_LIST) or next(filter(None, map(_not_a_name, value)), "")


def _not_text(value: str) -> str:
    return "" if len(value) <= MAX_NAME and value.isprintable() else f"is longer than {MAX_NAME} characters, or no text"


def _not_labels(value: Mapping[str, str]) -> str:
    wrong = next((key for key in value if not key or _not_text(key) or _not_text(value[key])), None)
    faulty = "" if wrong is None else f"'{wrong[:40]}' or its value is too long or no text"
    return _too_many(value, MAX_LABELS) or faulty


def _not_tools(value: list[str]) -> str:
    return _too_many(value, MAX_LIST) or next(filter(None, map(_not_a_tool, value)), "")


def _not_a_tool(value: str) -> str:
    wrong = pattern_fault(value)
    if wrong is None and not value.endswith("*") and "." not in value.strip("."):
        wrong = f"a tool is UPSTREAM.OPERATION; write local.{value[:40]} for an in-process function"
    return "" if wrong is None else f"'{value[:40]}': {wrong}"


def _too_many(value: Any, most: int) -> str:
    return "" if len(value) <= most else f"has {len(value)} entries; at most {most}"


def _not_a_lifetime(value: str | float | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value} has no unit; write for example '{value}d', or leave it out"
    seconds = parse_lifetime(value)
    if seconds is not None and 0 < seconds <= FOREVER_S:
        return ""
    return f"'{value[:40]}' is not a time to last; write for example 30d, 12h or 15m, or leave it out"


CHECKS: Mapping[str, Callable[[Any], str]] = {
    "agent": _not_a_name,
    "also": _not_names,
    "owner": _not_text,
    "labels": _not_labels,
    "tools": _not_tools,
    "expires": _not_a_lifetime,
}


# ── routes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def local_tokens(services: Services, *, ended: bool = False) -> list[dict[str, Any]]:
    """Those that this sidecar issued."""
    return services.keeper.all(ended=ended)


async def _tokens(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query, "history")
    return json_response({"tokens": local_tokens(services, ended=request.query.get("history") == "true")})


async def _issue(services: Services, request: web.Request) -> web.Response:
    body = read_body(await request.read(), TokenBody, CHECKS)
    held, text = await to_its_end(services.keeper.issue(body.wanted(), by(request)))
    response = json_response({"token": text} | held.as_dict(), status=201)
    response.headers["Cache-Control"] = "no-store"
    return response


async def _revoke(services: Services, request: web.Request) -> web.Response:
    token_id = request.match_info["id"]
    body = read_body(await request.read(), ReasonBody)
    try:
        held = await to_its_end(services.keeper.revoke(token_id, body.reason, by(request)))
    except KeyError:
        return problem_response(Code.NOT_FOUND, f"There is no token '{token_id[:80]}'; GET /v1/tokens lists them.")
    return json_response(held.as_dict())


ROUTES: Routes = (
    ("GET", "/v1/tokens", _tokens),
    ("POST", "/v1/tokens", _issue),
    ("DELETE", "/v1/tokens/{id}", _revoke),
)

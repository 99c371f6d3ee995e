"""Outcomes of the pipeline as MCP results and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code
from outrider.mcp_wire import INVALID_PARAMS, META_SERVER, OWN, STATUS_OF, Message, RpcError
from outrider.upstreams.mcp.session import OURSELVES

REFUSED = -31000
"""Our own code for a refusal of what is no tool's call; outside of every reserved range."""


def of_outcome(outcome: Outcome, problem: Mapping[str, Any] | None, *, tool: bool, modern: bool) -> Message | RpcError:
    """The result object, or the error. ``problem`` is the RFC 9457 object of an outcome that is not ok; ``tool``:
    it was a tool's call, whose refusals are results that a model can read."""
    value = outcome.value
    if outcome.kind in (OutcomeKind.OK, OutcomeKind.SUSPENDED):
        result = value if isinstance(value, dict) and not outcome.degraded else of_value(value)
        return complete(result, modern=modern)
    if isinstance(value, dict) and value.get("isError") is True:
        return complete(value, modern=modern)
    if isinstance(value, dict) and "code" in value and "message" in value:
        return RpcError.of(value)
    assert problem is not None
    if outcome.code is Code.UNKNOWN_TOOL:
        return RpcError(INVALID_PARAMS, outcome.detail)
    if not tool:
        return RpcError(REFUSED, outcome.detail or str(problem.get("title")), dict(problem))
    return complete(refusal(str(problem.get("detail") or problem.get("title")), problem), modern=modern)


def refusal(sentence: str, problem: Mapping[str, Any]) -> Message:
    """A tool's result that says no. No structured content: it would not be what the tool's schema promises."""
    return {
        "content": [{"type": "text", "text": sentence}],
        "isError": True,
        "_meta": {f"{OWN}problem": dict(problem)},
    }


def of_value(value: Any) -> Message:
    """A result of what is no MCP server: a fallback's value."""
    if isinstance(value, str):
        return {"content": [{"type": "text", "text": value}]}
    from outrider.mcp.answering import encode

    return {"content": [{"type": "text", "text": encode(value).decode()}], "structuredContent": value}


def complete(result: Message, *, modern: bool) -> Message:
    """As the era wants it: the modern one says what kind of result this is, and who answered."""
    if not modern:
        return {key: value for key, value in result.items() if key != "resultType"}
    meta = {META_SERVER: OURSELVES, **(result.get("_meta") or {})}
    return {"resultType": "complete", **result, "_meta": meta}


def status_of(error: RpcError, *, modern: bool) -> int:
    """The legacy era answers with 200 whatever the error is."""
    return STATUS_OF.get(error.code, 200) if modern else 200

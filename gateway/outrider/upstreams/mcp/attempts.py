"""What one attempt asks of a server, and what becomes of what the server says meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from outrider.calls import Attempt
from outrider.mcp_wire import INTERNAL_ERROR, META_PROGRESS, METHOD_NOT_FOUND, OWN, Message, RpcError
from outrider.policy.compile import MCP_METHOD
from outrider.policy.plans import Plan
from outrider.upstreams.mcp.caller import McpCaller
from outrider.upstreams.mcp.catalog import Shelf
from outrider.upstreams.mcp.listening import TOOLS_CHANGED
from outrider.upstreams.mcp.transport import Listener


def asked(attempt: Attempt, plan: Plan, caller: McpCaller | None) -> tuple[str, Mapping[str, Any]]:
    """Method and parameters: all that an MCP client sent, or what a plain call means. The arguments are those of the
    call, which the rules saw."""
    operation = attempt.tool.partition(".")[2]
    arguments = dict(attempt.call.args)
    if attempt.idempotency_key and plan.idempotency_argument:
        arguments[plan.idempotency_argument] = attempt.idempotency_key
    sent = dict(caller.params) if caller is not None else {}
    if operation.startswith(MCP_METHOD):
        return operation[len(MCP_METHOD) :], {**sent, **arguments}
    return "tools/call", {**sent, "name": operation, "arguments": arguments}


def meta(attempt: Attempt, params: Mapping[str, Any]) -> tuple[Message, Any]:
    """What is put over the caller's ``_meta``, and the caller's own token of progress: ours is one for this attempt."""
    meta: Message = {f"{OWN}call-id": attempt.call.id}
    if attempt.deadline_ms is not None:
        meta[f"{OWN}deadline-ms"] = attempt.deadline_ms
    traceparent = attempt.traceparent or attempt.call.traceparent
    if traceparent:
        meta["traceparent"] = traceparent
        if attempt.call.tracestate:
            meta["tracestate"] = attempt.call.tracestate
    token = (params.get("_meta") or {}).get(META_PROGRESS)
    if token is not None:
        meta[META_PROGRESS] = f"{attempt.call.id}/{attempt.n}"
    return meta, token


def listener(attempt: Attempt, caller: McpCaller | None, token: Any, shelf: Shelf) -> Listener:
    def sent() -> None:
        attempt.sent = True

    def told(message: Message) -> None:
        if message.get("method") == TOOLS_CHANGED:
            shelf.forget()
        if caller is not None and (own := _with_token(message, token)) is not None:
            caller.notify(own)

    return Listener(sent, told, _asks(attempt, caller))


def _asks(attempt: Attempt, caller: McpCaller | None) -> Callable[[Message], Awaitable[Message]]:
    """What becomes of the server's requests to its client: nobody is asked twice, so the attempt is committed."""

    async def asked(message: Message) -> Message:
        method = str(message["method"])
        if method == "ping":
            return {}
        if caller is None:
            raise RpcError(METHOD_NOT_FOUND, f"this call has no MCP client that could be asked for {method[:100]}")
        if attempt.commit is None or not await attempt.commit():
            raise RpcError(INTERNAL_ERROR, "it cannot be recorded that the client is asked, so it is not")
        return await caller.ask(method, message.get("params") or {})

    return asked


def _with_token(message: Message, token: Any) -> Message | None:
    """A notification as the caller knows it; None for progress that it did not ask for."""
    if message.get("method") != "notifications/progress":
        return message
    if token is None:
        return None
    return {**message, "params": {**(message.get("params") or {}), "progressToken": token}}


def notification(method: str, params: Message) -> Message:
    return {"jsonrpc": "2.0", "method": method, "params": params}

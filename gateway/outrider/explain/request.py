"""The request that a call would be sent as. Of the upstream's own headers only the names and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from outrider.policy.compile import MCP_METHOD
from outrider.policy.plans import McpUpstream, Plan
from outrider.upstreams.template import TemplateError, render

CHILD = "the child's stdin"
CALL_ID = "«the call's id»"
MAX_BODY_CHARACTERS = 4000
_encode = msgspec.json.Encoder(enc_hook=str).encode


def request_of(plan: Plan, args: Mapping[str, Any], url: str, own: Mapping[str, str]) -> dict[str, Any] | None:
    """Method, url, headers and body; ``{"error"}`` where the arguments do not fit; None for an in-process tool.

    ``url`` is the upstream's address as the policy writes it, for where it could not be resolved; ``own`` are the
    upstream's headers as people may see them."""
    if plan.upstream.mcp is not None:
        return _of_mcp(plan, plan.upstream.mcp, args, url, own)
    http = plan.upstream.http
    if http is None:
        return None
    given = dict(args)
    if plan.effect == "keyed" and plan.idempotency_argument:
        given[plan.idempotency_argument] = CALL_ID
    try:
        request = render(plan.http, plan.tool.partition(".")[2], given)
    except TemplateError as wrong:
        return {"error": str(wrong)}
    headers = dict(request.headers)
    if plan.effect == "keyed" and plan.idempotency_header:
        headers[plan.idempotency_header] = CALL_ID
    headers.update(own)
    body = request.body.decode("utf-8", "replace")[:MAX_BODY_CHARACTERS] if request.body is not None else None
    return {"method": request.method, "url": (http.url or url) + request.path, "headers": headers, "body": body}


def _of_mcp(
    plan: Plan, settings: McpUpstream, args: Mapping[str, Any], url: str, own: Mapping[str, str]
) -> dict[str, Any]:
    """The JSON-RPC request, without what depends on the version that is spoken. A program has no address."""
    operation, given = plan.tool.partition(".")[2], dict(args)
    if plan.effect == "keyed" and plan.idempotency_argument:
        given[plan.idempotency_argument] = CALL_ID
    asked: dict[str, Any] = {"method": "tools/call", "params": {"name": operation, "arguments": given}}
    if operation.startswith(MCP_METHOD):
        asked = {"method": operation.removeprefix(MCP_METHOD), "params": given}
    body = _encode(asked).decode()[:MAX_BODY_CHARACTERS]
    if settings.http is None and settings.command:
        return {"method": "WRITE", "url": CHILD, "headers": {}, "body": body}
    headers = dict(own)
    if plan.effect == "keyed" and plan.idempotency_header:
        headers = {plan.idempotency_header: CALL_ID, **headers}
    address = settings.http.url if settings.http is not None else ""
    return {"method": "POST", "url": address or url, "headers": headers, "body": body}

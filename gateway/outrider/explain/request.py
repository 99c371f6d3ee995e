"""The request that a call would be sent as. Of the upstream's own headers only the names and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outrider.policy.plans import Plan
from outrider.upstreams.template import TemplateError, render

CALL_ID = "«the call's id»"
MAX_BODY_CHARACTERS = 4000


def request_of(plan: Plan, args: Mapping[str, Any], url: str, own: Mapping[str, str]) -> dict[str, Any] | None:
    """Method, url, headers and body; ``{"error"}`` where the arguments do not fit; None for an in-process tool.

    ``url`` is the upstream's address as the policy writes it, for where it could not be resolved; ``own`` are the
    upstream's headers as people may see them."""
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

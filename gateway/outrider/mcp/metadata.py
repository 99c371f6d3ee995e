"""Where a client that was turned away learns which credential is wanted (RFC 9728). No secret is told, so nobody has to
show one."""

from __future__ import annotations

from aiohttp import web

from outrider.http_common import json_response
from outrider.policy.load import Policy

PREFIX = "/.well-known/oauth-protected-resource"
ENDPOINT = "/mcp"


def is_endpoint(path: str) -> bool:
    """``/mcp`` or one below it."""
    return path == ENDPOINT or path.startswith(f"{ENDPOINT}/")


def is_metadata(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}{ENDPOINT}")


def challenge(request: web.Request) -> str:
    """What ``WWW-Authenticate`` says beside the rest at an endpoint."""
    return f'resource_metadata="{_origin(request)}{PREFIX}{request.path}"'


def document(request: web.Request, policy: Policy) -> web.Response:
    """Of the endpoint that the path names. Issuers are those of the policy that are addresses; tokens of Outrider's own
    have none to be got from."""
    resource = request.path.removeprefix(PREFIX) or ENDPOINT
    issuers = [jwt.issuer for jwt in policy.identity.jwt if jwt.issuer.startswith(("https://", "http://"))]
    told: dict[str, object] = {
        "resource": _origin(request) + resource,
        "resource_name": "Outrider",
        "bearer_methods_supported": ["header"],
    }
    return json_response({**told, "authorization_servers": issuers} if issuers else told)


def _origin(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}".replace('"', "")

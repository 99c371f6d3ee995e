"""The policy in force.

GET    /v1/policy                 what it is
POST   /v1/policy/reload          read it again
"""

from __future__ import annotations

from aiohttp import web

from outrider import clock
from outrider.control.routes import Routes, to_its_end
from outrider.control_bodies import NoBody, read_body, refuse_unknown
from outrider.errors import Code, Misconfigured
from outrider.http_common import json_response, problem_response
from outrider.services import Services


async def _policy(services: Services, request: web.Request) -> web.Response:
    refuse_unknown(request.query)
    policies = services.policies
    return json_response(
        policies.current.summary()
        | {
            "loaded_at": clock.stamp(policies.loaded_at_wall),
            "rejected": [str(fault) for fault in policies.rejected],
        }
    )


async def _reload(services: Services, request: web.Request) -> web.Response:
    read_body(await request.read(), NoBody)
    before = services.policies.current.digest
    try:
        policy = await to_its_end(services.policies.reload())
    except Misconfigured as bad:
        detail = f"The policy has {len(bad.faults)} fault(s); the one before stays in force."
        faults = [str(fault) for fault in bad.faults]
        return problem_response(Code.INVALID_REQUEST, detail, status=422, faults=faults)
    warnings = [str(fault) for fault in policy.warnings]
    return json_response({"digest": policy.digest, "changed": policy.digest != before, "warnings": warnings})


ROUTES: Routes = (
    ("GET", "/v1/policy", _policy),
    ("POST", "/v1/policy/reload", _reload),
)

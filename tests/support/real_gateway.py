"""What the tests against one long-lived sidecar share."""

from __future__ import annotations

from outrider.testing.gateway import GatewayProcess


def lift_all(gateway: GatewayProcess) -> None:
    """No kill of one test reaches the next."""
    for kill in gateway.control("GET", "/v1/kills")[1]["kills"]:
        gateway.control("DELETE", f"/v1/kills/{kill['id']}", {"reason": "the test is over"})

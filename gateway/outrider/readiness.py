"""What is said of an upstream that is not ready: one sentence, for the peek and for each attempt."""

from __future__ import annotations

from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code
from outrider.health import Health


def unready(health: Health, upstream: str, stage: str) -> Outcome | None:
    """The refusal for an upstream whose probes fail, None where it is ready or has no probe."""
    if health.ready(upstream):
        return None
    return Outcome(
        OutcomeKind.NOT_EXECUTED,
        code=Code.UPSTREAM_UNREADY,
        detail=f"The health probes of upstream '{upstream}' fail; nothing was sent. It is asked again by itself.",
        stage=stage,
        retry_after_s=health.retry_after_s(upstream),
    )

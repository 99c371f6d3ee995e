"""What an HTTP status that says failure proves."""

from __future__ import annotations

from outrider.calls import OutcomeKind
from outrider.policy.plans import HttpUpstream

NEVER_PROCESSED = frozenset({425, 429})
"""RFC 8470 and RFC 6585: the server says that it did not process the request."""
BETWEEN_GATEWAYS = frozenset({502, 504})
"""An intermediary got no answer: what it asked may have run."""


def kind_of(status: int, settings: HttpUpstream) -> OutcomeKind:
    """Of a status that is no success."""
    if status in NEVER_PROCESSED or status in settings.safe_statuses:
        return OutcomeKind.NOT_EXECUTED
    return OutcomeKind.UNKNOWN if status in BETWEEN_GATEWAYS else OutcomeKind.DEFINITE

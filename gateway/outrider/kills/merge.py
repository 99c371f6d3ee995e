"""What several sidecars know of one kill, brought together. Pure: nothing here writes or waits.

A kill is known by its id, wherever it was engaged. Two sidecars' knowledge of it merges by three rules, which is why no
order, repetition or loss of messages changes where they end:

    lifted wins over engaged          a kill that was lifted does not come back
    the longer time wins              of two that are engaged
    what is unknown is taken over     engaged as engaged, lifted as lifted

Asking to stop the same scope again is a kill of its own where sidecars share their kills: a lift that is on its way
from elsewhere was meant for the kill that its author saw, not for the one that a person asks for now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import Enum

from outrider.kills.scopes import Kill

KEPT_LIFTED = 1000
"""Lifted kills remembered, the last ones. A sidecar that was away for longer than that brings its kill back, which errs
on the side of stopping; the ledger keeps all."""


class Step(Enum):
    """What somebody who knows ``mine`` has to do to know what ``theirs`` says, too."""

    NOTHING = "nothing"
    ENGAGE = "engage"
    OUTLAST = "outlast"
    LIFT = "lift"
    REMEMBER = "remember"  # lifted before it was ever heard of here


def decide(mine: Kill | None, theirs: Kill) -> Step:
    """The merge rules."""
    if mine is None:
        return Step.ENGAGE if theirs.lifted is None else Step.REMEMBER
    if mine.lifted is not None:
        return Step.NOTHING
    if theirs.lifted is not None:
        return Step.LIFT
    return Step.OUTLAST if _longer(theirs, mine) else Step.NOTHING


def ends_ms(kill: Kill) -> int | None:
    """When it ends by its author's wall clock; None: when it is lifted. In whole milliseconds, because the seconds do
    not survive a database and back to the last bit."""
    return None if kill.ttl_s is None else round((kill.at + kill.ttl_s) * 1000)


def _longer(one: Kill, other: Kill) -> bool:
    first, second = ends_ms(one), ends_ms(other)
    return second is not None and (first is None or first > second)


def digest(kills: Iterable[Kill]) -> str:
    """Equal for two sidecars exactly when neither knows anything that the other does not."""
    lines = sorted(f"{kill.id} {'lifted' if kill.lifted is not None else ends_ms(kill)}" for kill in kills)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

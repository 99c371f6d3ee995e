"""One file, one stage. Stages do not know each other; pipeline.py is their order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from outrider.calls import Outcome
from outrider.flight import Flight

Next = Callable[[Flight], Awaitable[Outcome]]
"""The rest of the chain."""


class Stage(Protocol):
    """One small object with settings only; the state of one call lives in its flight.

    A stage answers with an Outcome or passes the flight on. An exception out of a stage is a bug, and the call is
    then refused, never passed on.
    """

    async def __call__(self, flight: Flight, following: Next) -> Outcome: ...

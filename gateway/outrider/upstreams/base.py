"""What every kind of upstream is to the pipeline."""

from __future__ import annotations

from typing import Protocol

from outrider.calls import Attempt, Outcome
from outrider.policy.plans import Plan


class UpstreamDriver(Protocol):
    """Sends attempts to one place. One ``send`` is at most one request on the wire.

    ``send`` may be cancelled at any await by a kill, the per-try timeout or the deadline. Before the first byte may
    leave, it sets ``attempt.sent``. After a cancellation the pipeline awaits ``stopped``, which is bounded by the
    driver itself, is never cancelled, and says what is then known: ``not_executed`` only with proof, else ``unknown``.
    """

    async def send(self, attempt: Attempt, plan: Plan, timeout_s: float) -> Outcome:
        """One sending. ``timeout_s`` is what the pipeline enforces; the driver may pass it on, 0 means none.
        Failures are Outcomes with a ``failure``, never exceptions."""
        ...

    async def stopped(self, attempt: Attempt, plan: Plan, why: str) -> Outcome:
        """What is known after ``send`` was interrupted, by ``timeout`` or by a verdict's cause (``flight.Cause``)."""
        ...

    async def close(self) -> None:
        """Release sockets. Called once."""
        ...

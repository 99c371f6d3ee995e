"""The retry budget of one fault domain: retries are a share of calls, so that they cannot feed an outage. Pure."""

from __future__ import annotations

from typing import Any

from outrider.domains.window import Window
from outrider.policy import plans


class Reservation:
    """One retry that is decided but still sleeps. Either ``start`` it or ``cancel`` it."""

    __slots__ = ("_budget",)

    def __init__(self, budget: RetryBudget) -> None:
        self._budget: RetryBudget | None = budget

    def start(self, now: float) -> bool:
        """The retry is sent now. False: while it slept, the calls that paid for it left the window; do not send it,
        give up with the last error. Either way the reservation is used up; False too if it was before."""
        budget, self._budget = self._budget, None
        return budget is not None and budget._start(now)

    def cancel(self) -> None:
        """The retry will not be sent. Does nothing after ``start`` or a second time."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget._reserved -= 1


class RetryBudget:
    """Allows a retry while ``retries + reserved < min_retries + ratio * calls`` over the last ``window_s`` seconds.

    A share of calls over a window, after Finagle's and Linkerd's retry budgets, but with the floor counted per window:
    a floor per second never binds at agents' rates. What is reserved counts at once, or all that sleep at the same time
    would each find the budget free. It never makes anybody wait. The window's edge is exact to a tenth, in doubt on the
    side of fewer retries."""

    __slots__ = ("_calls", "_reserved", "_retries", "_settings")

    def __init__(self, settings: plans.RetryBudget) -> None:
        self._settings = settings
        self._calls = Window(settings.window_s)
        self._retries = Window(settings.window_s)
        self._reserved = 0

    @property
    def settings(self) -> plans.RetryBudget:
        return self._settings

    def configure(self, settings: plans.RetryBudget) -> None:
        """Other settings, the same counts and reservations."""
        if settings.window_s != self._settings.window_s:
            self._calls = self._calls.resized(settings.window_s)
            self._retries = self._retries.resized(settings.window_s, late=True)
        self._settings = settings

    def note_call(self, now: float) -> None:
        """A first attempt is sent."""
        self._calls.add(now)

    def reserve(self, now: float) -> Reservation | None:
        """The right to sleep and then retry, or None: over budget, give up with the last error."""
        if not self._affords_one_more(now):
            return None
        self._reserved += 1
        return Reservation(self)

    def _start(self, now: float) -> bool:
        self._reserved -= 1
        affordable = self._affords_one_more(now)
        if affordable:
            self._retries.add(now)
        return affordable

    def _affords_one_more(self, now: float) -> bool:
        return self._retries.at_least(now) + self._reserved < self.allowance(now)

    def allowance(self, now: float) -> float:
        """How many retries the calls of the window pay for, those already spent included."""
        return self._settings.min_retries + self._settings.ratio * self._calls.at_most(now)

    @property
    def reserved(self) -> int:
        return self._reserved

    def snapshot(self, now: float) -> dict[str, Any]:
        """What people and metrics see; JSON types only."""
        return {
            "calls": self._calls.at_most(now),
            "retries": self._retries.at_least(now),
            "reserved": self._reserved,
            "allowance": round(self.allowance(now), 3),
        }

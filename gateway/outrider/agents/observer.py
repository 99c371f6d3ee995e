"""Watches the processes of agents: what does the silence of each mean by now?"""

from __future__ import annotations

from collections.abc import Callable

from outrider import clock
from outrider.agents.entry import Entry, Instance
from outrider.agents.observed import NEXT, Observed, OwnTime, sign_of


class Observer:
    """The processes that can still be heard. ``lost(entry, instance)`` is called when one that is away was silent for
    ``lost_after_s()``."""

    def __init__(self, lost_after_s: Callable[[], float], lost: Callable[[Entry, Instance], None]) -> None:
        self._lost_after_s = lost_after_s
        self._lost = lost
        self._watched: dict[str, tuple[Entry, Instance]] = {}
        self._time = OwnTime(clock.monotonic())

    @property
    def ran(self) -> float:
        """The sidecar's own running time."""
        return self._time.ran

    def watch(self, entry: Entry, instance: Instance) -> None:
        """It has connected, which is being heard."""
        instance.heard = self._time.ran
        self._watched[instance.session] = (entry, instance)

    def heartbeat(self, session: str) -> None:
        """It is still here. Weighed at the next look."""
        watched = self._watched.get(session)
        if watched is not None:
            watched[1].beat = True

    def forget(self, session: str) -> None:
        """Nothing will be heard of it any more."""
        self._watched.pop(session, None)

    def look(self) -> None:
        """Once a second. After a gap in our own time everybody gets a fresh period."""
        gap = self._time.tick(clock.monotonic())
        ran, lost_after_s = self._time.ran, self._lost_after_s()
        for entry, instance in tuple(self._watched.values()):
            if gap or instance.beat:
                instance.heard, instance.beat = ran, False
            connected = instance.state == "connected"
            sign = sign_of(ran - instance.heard, connected, lost_after_s)
            instance.observed = NEXT[instance.observed, sign]
            if instance.observed is Observed.LOST and not connected:
                self.forget(instance.session)
                self._lost(entry, instance)

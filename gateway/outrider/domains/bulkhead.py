"""The bulkhead of one fault domain: how many attempts are in flight at once, and who waits, first come first served.

Waiting itself, and for how long, is the caller's business: it awaits the future under its own time limit.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Generator
from typing import Any

from outrider.policy import plans


class Slot:
    """The right to be in flight. ``release`` gives it to the next one in the queue; a second time does nothing."""

    __slots__ = ("_bulkhead",)

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead: Bulkhead | None = bulkhead

    @property
    def held(self) -> bool:
        return self._bulkhead is not None

    def release(self) -> None:
        bulkhead, self._bulkhead = self._bulkhead, None
        if bulkhead is not None:
            bulkhead._released()


class Place(asyncio.Future[Slot]):
    """A place in the queue: a future that becomes a slot.

    ``await`` it, or ``give_up``; either way no slot is lost. A task can be cancelled in the very moment in which its
    place was served; a plain future would then keep a slot that nobody holds, so the place passes it on."""

    def __init__(self, bulkhead: Bulkhead, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._bulkhead = bulkhead

    def cancel(self, msg: Any | None = None) -> bool:
        """Leave the queue; False if it was already served, and then the slot is the holder's to release."""
        left = super().cancel(msg)
        if left:
            self._bulkhead._left(self)
        return left

    def give_up(self) -> None:
        """Leave the queue, or release the slot that was already served. For whoever does not await the place."""
        if not self.cancel() and not self.cancelled():
            self.result().release()

    def __await__(self) -> Generator[Any, None, Slot]:
        try:
            return (yield from super().__await__())
        except BaseException:
            self.give_up()
            raise

    __iter__ = __await__


class Bulkhead:
    """At most ``max_concurrent`` slots held, at most ``max_queue`` waiting, served in the order they came."""

    def __init__(self, settings: plans.Bulkhead) -> None:
        self._settings = settings
        self._held = 0
        self._queue: OrderedDict[Place, None] = OrderedDict()

    @property
    def settings(self) -> plans.Bulkhead:
        return self._settings

    @property
    def held(self) -> int:
        """Slots in use, those just handed to a waiter included."""
        return self._held

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def configure(self, settings: plans.Bulkhead) -> None:
        """Other limits. More slots serve the queue at once; fewer take no slot away, they are only not given again."""
        self._settings = settings
        self._serve()

    def try_acquire(self) -> Slot | None:
        """A slot if one is free, else None. Overtakes nobody: a free slot is given to the queue at once."""
        if not self._has_room:
            return None
        self._held += 1
        return Slot(self)

    def enqueue(self) -> Place | None:
        """A place at the end of the queue, served at once if a slot is free; None when the queue is full.

        Needs a running loop. Await the place in the same step: until then nobody watches over it."""
        if not self._has_room and len(self._queue) >= self._settings.max_queue:
            return None
        place = Place(self, asyncio.get_running_loop())
        self._queue[place] = None
        self._serve()
        return place

    @property
    def _has_room(self) -> bool:
        return self._held < self._settings.max_concurrent

    def _released(self) -> None:
        self._held -= 1
        self._serve()

    def _left(self, place: Place) -> None:
        self._queue.pop(place, None)

    def _serve(self) -> None:
        while self._queue and self._has_room:
            place, _ = self._queue.popitem(last=False)
            self._held += 1
            place.set_result(Slot(self))

    def snapshot(self) -> dict[str, Any]:
        """What people and metrics see; JSON types only."""
        return {
            "held": self._held,
            "waiting": len(self._queue),
            "max_concurrent": self._settings.max_concurrent,
            "max_queue": self._settings.max_queue,
        }

"""What ended here and is not acked yet; and which attempts are over, for frames that cross on the wire.

Not thread-safe: the channel's gate guards it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from outrider import wire

MAX_ENTRIES = 10_000
"""Above this, new calls are refused: what happened is never dropped for what has not begun."""
MAX_VIEW_BYTES = 16 * 1024 * 1024
"""Above this, a new end keeps its digest and size and lets go of its view."""
REMEMBERED = 4096
Key = tuple[str, int]


class Spool:
    """Ends in the order they came."""

    def __init__(self) -> None:
        self._ends: OrderedDict[Key, wire.Finished] = OrderedDict()
        self._view_bytes = 0
        self._over: OrderedDict[Key, bool] = OrderedDict()  # whether it provably never began

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[wire.Finished]:
        return iter(self._ends.values())

    @property
    def full(self) -> bool:
        return len(self._ends) >= MAX_ENTRIES

    def put(self, finished: wire.Finished) -> wire.Finished:
        """Keep it until ``ack``; what is to be sent comes back. A later word on the same attempt takes the place of
        an earlier one ("gave up waiting", then the real end)."""
        key = (finished.call, finished.n)
        self._drop(key)
        size = _view_bytes(finished)
        if self._view_bytes + size > MAX_VIEW_BYTES:
            finished, size = msgspec.structs.replace(finished, view=None), 0
        self._ends[key] = finished
        self._view_bytes += size
        self.close(key, never_began=finished.state == "not_started")
        return finished

    def ack(self, key: Key, state: str) -> None:
        """The end that said ``state`` is durable at the other side; a later word on the same attempt is not."""
        finished = self._ends.get(key)
        if finished is not None and state in ("", finished.state):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        finished = self._ends.pop(key, None)
        if finished is not None:
            self._view_bytes -= _view_bytes(finished)

    def close(self, key: Key, *, never_began: bool) -> None:
        """Remember that this attempt is over: whatever is asked of it later begins nothing."""
        self._over[key] = never_began
        if len(self._over) > REMEMBERED:
            self._over.popitem(last=False)

    def is_over(self, key: Key) -> bool:
        return key in self._over or key in self._ends

    def word_on(self, key: Key) -> wire.Finished | None:
        """What to say when an attempt that is over is ordered again: its end, as long as it is kept; that it never
        began, where that is so; nothing of one whose end was acked."""
        if key in self._ends:
            return self._ends[key]
        return wire.Finished(*key, state="not_started") if self._over.get(key) else None

    def split(self, max_bytes: int) -> tuple[list[wire.Finished], list[wire.Finished]]:
        """Those that fit into so many bytes of a greeting, and the others."""
        fit: list[wire.Finished] = []
        rest: list[wire.Finished] = []
        left = max_bytes
        for finished in self._ends.values():
            left -= len(wire.encode_frame(finished)) if left > 0 else 0
            (fit if left > 0 else rest).append(finished)
        return fit, rest


def _view_bytes(finished: wire.Finished) -> int:
    view = finished.view
    return len(bytes(view)) if isinstance(view, msgspec.Raw) else 0

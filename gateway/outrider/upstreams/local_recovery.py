"""Attempts that a former incarnation of the sidecar left open: whose functions may be running still.

Each is held open until its process says how it ended, until that process comes back and does not know it, or until
the window passes and nobody claimed it. Then it is given up, once: its end is ``unknown``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

Pair = tuple[str, int]
"""(call id, number of the attempt): what the far end knows an attempt by."""


class Recovery:
    """The open attempts, by the instance that runs each ("" where nobody knows)."""

    def __init__(self, gave_up: Callable[[str, int], None]) -> None:
        self._gave_up = gave_up
        self._open: dict[Pair, str] = {}
        self._claims: dict[Pair, str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._open

    def start(self, pairs: Mapping[Pair, str], window_s: float) -> None:
        """Hold ``pairs`` open for ``window_s``, and longer those that a connected process says it runs."""
        self._open.update(pairs)
        if pairs and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(window_s, self._window_passed)

    def connected(self, far_id: str, instance: str, running: Collection[Pair], unacked: Collection[Pair]) -> None:
        """A process is here. What it ran then and does not mention now is given up."""
        for pair in [pair for pair, holder in self._open.items() if holder in ("", instance)]:
            if pair in running:
                self._claims[pair] = far_id
            elif self._open[pair] and pair not in unacked:
                self._give_up(pair)

    def allows(self, pair: Pair, instance: str) -> bool:
        """Whether ``instance`` may report the end of ``pair``: it is not another's."""
        return self._open.get(pair, "") in ("", instance)

    def finished(self, pair: Pair) -> None:
        """Its end is known; it will not be given up."""
        self._open.pop(pair, None)
        self._claims.pop(pair, None)

    def over(self, far_id: str) -> None:
        """A process is gone for good, and its attempts with it."""
        for pair in [pair for pair, claimant in self._claims.items() if claimant == far_id]:
            self._give_up(pair)

    def close(self) -> None:
        """Forget everything; the next incarnation finds the same attempts open again."""
        if self._timer is not None:
            self._timer.cancel()
        self._open.clear()
        self._claims.clear()

    def _window_passed(self) -> None:
        self._timer = None
        for pair in [pair for pair in self._open if pair not in self._claims]:
            self._give_up(pair)

    def _give_up(self, pair: Pair) -> None:
        self.finished(pair)
        self._gave_up(*pair)

"""Epochs: what a kill or the retirement of an agent revokes.

Each such act raises the epoch of an agent's name, or of a prefix of names, by a number that only grows. A token keeps
the number of the time when it was issued, a JWT its ``iat``; what is older than the newest epoch of its agent is
refused, also when the kill has been lifted since: whoever was worth killing is given a new credential by a person.

Prefixes are kept as they are and matched when something is shown, so that names nobody has seen yet are covered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from outrider import clock

MAX_EPOCHS: Final = 10_000
"""Past it the oldest is widened to every agent (``*``): what is older still must be issued anew, never let in."""

Mutation = tuple[str, tuple[Any, ...]]
SELECT: Final = "SELECT * FROM epochs ORDER BY number"
_UPSERT: Final = (
    "INSERT INTO epochs (pattern, number, raised_at, cause, reason) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (pattern) DO UPDATE SET number = excluded.number, raised_at = excluded.raised_at, "
    "cause = excluded.cause, reason = excluded.reason WHERE excluded.number > epochs.number"
)
_DELETE: Final = "DELETE FROM epochs WHERE pattern = ? AND number = ?"


@dataclass(frozen=True, slots=True)
class Epoch:
    """``at`` is seconds since the epoch; ``cause`` is the id of the kill, or what else raised it."""

    pattern: str
    number: int
    at: float
    cause: str
    reason: str

    def sentence(self) -> str:
        """The middle of what a refused holder reads."""
        return f"was revoked by {self.cause} of {self.pattern}: {self.reason}"


class Epochs:
    """All epochs, by pattern."""

    def __init__(self) -> None:
        self.number = 0
        self._by_pattern: dict[str, Epoch] = {}
        self._lengths: tuple[int, ...] = ()  # of the prefixes
        self._raising: dict[str, Epoch] = {}  # by cause: on their way to the disk, not in force yet

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take over stored rows. One that cannot be read may have been anybody's, and counts as everybody's."""
        doubtful = ""
        for row in rows:
            try:
                epoch = _read(row)
            except (TypeError, KeyError, ValueError) as fault:
                doubtful = f"a stored epoch cannot be read ({fault})"
                continue
            self.number = max(self.number, epoch.number)
            self._put(epoch)
        if doubtful:
            self.number += 1
            self._put(Epoch("*", self.number, clock.wall(), "a doubt", doubtful))

    def newest(self, names: Iterable[str]) -> Epoch | None:
        """The newest epoch that covers any of these names."""
        found = [epoch for name in names for epoch in self.covering(name)]
        return max(found, key=lambda epoch: epoch.number, default=None)

    def raising(self, cause: str, pattern: str, at: float, reason: str) -> list[Mutation]:
        """Begin to raise: the statements that go into the same transaction as the act. The same cause again is the same
        epoch. In force with ``raised``."""
        known = self._by_pattern.get(pattern)
        epoch = self._raising.get(cause) or (known if known is not None and known.cause == cause else None)
        if epoch is None:
            self.number += 1
            epoch = self._raising[cause] = Epoch(pattern, self.number, at, cause, reason)
        rows = [_upsert(epoch)]
        widened = self._widened(pattern)
        if widened is not None:
            oldest, wide = widened
            rows += [(_DELETE, (oldest.pattern, oldest.number)), _upsert(wide)]
        return rows

    def raised(self, cause: str) -> Epoch | None:
        """It counts from now on. None: it did already."""
        epoch = self._raising.pop(cause, None)
        if epoch is not None:
            widened = self._widened(epoch.pattern)
            if widened is not None:
                del self._by_pattern[widened[0].pattern]
                self._put(widened[1])
            self._put(epoch)
        return epoch

    def all(self) -> tuple[Epoch, ...]:
        return tuple(self._by_pattern.values())

    def _put(self, epoch: Epoch) -> None:
        before = self._by_pattern.get(epoch.pattern)
        if before is None or before.number < epoch.number:
            self._by_pattern[epoch.pattern] = epoch
        if epoch.pattern.endswith("*"):
            self._lengths = tuple(sorted({*self._lengths, len(epoch.pattern) - 1}))

    def covering(self, name: str) -> list[Epoch]:
        """Every epoch of this name."""
        patterns = (name, *(name[:length] + "*" for length in self._lengths if length <= len(name)))
        return [self._by_pattern[pattern] for pattern in patterns if pattern in self._by_pattern]

    def _widened(self, pattern: str) -> tuple[Epoch, Epoch] | None:
        """The epoch that makes room for one of ``pattern``, and what it becomes."""
        if pattern in self._by_pattern or len(self._by_pattern) < MAX_EPOCHS:
            return None
        oldest = min((one for one in self._by_pattern.values() if one.pattern != "*"), key=lambda one: one.number)
        return oldest, replace(oldest, pattern="*")


def _upsert(epoch: Epoch) -> Mutation:
    return _UPSERT, (epoch.pattern, epoch.number, epoch.at, epoch.cause, epoch.reason)


def _read(row: Mapping[str, Any]) -> Epoch:
    pattern, number, at = row["pattern"], row["number"], row["raised_at"]
    if not isinstance(pattern, str) or not pattern or type(number) is not int or not isinstance(at, int | float):
        raise TypeError(f"unexpected values: {str(pattern)[:40]!r}")
    return Epoch(pattern, number, float(at), str(row["cause"]), str(row["reason"]))

"""Calls whose outcome is unknown, and that the same run may therefore not make again until someone settles them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from outrider import clock
from outrider.calls import Call, Effect

MAX_ENTRIES = 10_000
"""More unsettled calls than this at once means that something is badly wrong: further writes are then refused, because
forgetting one of these could repeat a side effect."""

MAX_CLEARED = 100
"""Rows whose time is over that go with one that is written."""
MAX_CLEARED_AT_START = 10_000
SWEEP_EVERY_S = 1.0

GUARDED = frozenset({Effect.WRITE, Effect.KEYED})
"""Effects whose unknown outcome bars the same call: a keyed one, issued anew, would carry another key."""

Mutation = tuple[str, tuple[object, ...]]
_canonical = msgspec.json.Encoder(order="sorted", enc_hook=str).encode


@dataclass(frozen=True, slots=True)
class Entry:
    """One call with an unknown outcome. It stays until both clocks have passed ``until``: a restriction expires late
    rather than early. ``until_wall`` is seconds since the epoch, ``until`` monotonic seconds."""

    call_id: str
    key: str
    tool: str
    agent: str
    run: str
    until_wall: float
    until: float


class Unresolved:
    """The book of them, in memory, mirrored by rows that are written in the ledger's own transaction."""

    def __init__(self, digest: Callable[[bytes], str]) -> None:
        """``digest`` is keyed: only this store can make the key of a call (``Store.digest``)."""
        self._digest = digest
        self._by_key: dict[str, dict[str, Entry]] = {}  # two like calls at once may both end unknown
        self._by_call: dict[str, Entry] = {}
        self._over: dict[str, None] = {}  # no longer here, and their rows not yet gone
        self._sweep_at = 0.0

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> list[Mutation]:
        """The rows of the table ``unresolved`` as they stood before a restart. Returns what must be written: after a
        restart only the wall clock can say that a time is over, and the rows of these go."""
        wall = clock.wall()
        for row in rows:
            if row["until_wall"] <= wall:
                continue
            until = clock.monotonic() + row["until_wall"] - wall
            tool, agent, run = (str(row[name] or "") for name in ("tool", "agent", "run"))
            self._remember(Entry(row["call_id"], row["key"], tool, agent, run, row["until_wall"], until))
        some = "SELECT call_id FROM unresolved WHERE until_wall <= ? LIMIT ?"
        clear = f"DELETE FROM unresolved WHERE call_id IN ({some})"  # noqa: S608 - our own text
        return [(clear, (wall, MAX_CLEARED_AT_START))]

    def key_of(self, call: Call) -> str:
        """A keyed digest of run (without one: the agent), the tool as called and the arguments."""
        whose = call.run or f"agent:{call.agent.name}"
        return self._digest(_canonical([whose, call.tool, call.args]))

    def find(self, call: Call) -> Entry | None:
        """The unsettled call that this one would repeat."""
        if not self._by_key:
            return None
        for entry in tuple(self._by_key.get(self.key_of(call), {}).values()):
            if not self._expired(entry):
                return entry
            self._end(entry)
        return None

    @property
    def full(self) -> bool:
        """Whether no further unknown outcome could be remembered."""
        if len(self._by_call) >= MAX_ENTRIES:
            self._sweep()
        return len(self._by_call) >= MAX_ENTRIES

    def get(self, call_id: str) -> Entry | None:
        return self._by_call.get(call_id)

    def note(self, call: Call, ttl_s: float) -> list[Mutation]:
        """Remember that this call may have run. Returns what must be written beside the call's end."""
        return self.note_key(call.id, self.key_of(call), call.tool, call.agent.name, call.run, ttl_s)

    def hold(self, call: Call) -> None:
        """Bar the like of a call under way, in memory, until its end says what becomes of the bar. A crash finds the
        call open, and bars it then."""
        self._remember(
            Entry(call.id, self.key_of(call), call.tool, call.agent.name, call.run, math.inf, math.inf),
        )

    def note_key(self, call_id: str, key: str, tool: str, agent: str, run: str, ttl_s: float) -> list[Mutation]:
        """The same for a call of which only the key is known: one that a crash left open."""
        wall = clock.wall()
        mono = clock.monotonic()
        if mono >= self._sweep_at:
            self._sweep()
        self._remember(Entry(call_id, key, tool, agent, run, wall + ttl_s, mono + ttl_s))
        return [
            *self._clear(),
            (
                "INSERT OR REPLACE INTO unresolved (call_id, key, tool, agent, run, since_wall, until_wall) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (call_id, key, tool, agent, run, wall, wall + ttl_s),
            ),
        ]

    def settle_rows(self, call_id: str) -> list[Mutation]:
        """What must be written when this call is settled; ``forget`` it once that is durable."""
        return [("DELETE FROM unresolved WHERE call_id = ?", (call_id,))]

    def forget(self, call_id: str) -> None:
        """Lift the bar on this call's like."""
        entry = self._by_call.get(call_id)
        if entry is not None:
            self._forget(entry)

    def _clear(self) -> list[Mutation]:
        """The rows of some that are over. Where they cannot be written they stay, and the next start clears them."""
        gone = tuple(itertools.islice(self._over, MAX_CLEARED))
        for call_id in gone:
            del self._over[call_id]
        marks = ",".join("?" * len(gone))
        return [(f"DELETE FROM unresolved WHERE call_id IN ({marks})", gone)] if gone else []  # noqa: S608 - marks

    def _expired(self, entry: Entry) -> bool:
        return clock.wall() >= entry.until_wall and clock.monotonic() >= entry.until

    def _remember(self, entry: Entry) -> None:
        self._by_key.setdefault(entry.key, {})[entry.call_id] = entry
        self._by_call[entry.call_id] = entry
        self._over.pop(entry.call_id, None)

    def _forget(self, entry: Entry) -> None:
        self._by_call.pop(entry.call_id, None)
        like = self._by_key.get(entry.key, {})
        like.pop(entry.call_id, None)
        if not like:
            self._by_key.pop(entry.key, None)

    def _sweep(self) -> None:
        self._sweep_at = clock.monotonic() + SWEEP_EVERY_S
        for entry in [entry for entry in self._by_call.values() if self._expired(entry)]:
            self._end(entry)

    def _end(self, entry: Entry) -> None:
        """Its time is over: the bar falls, and its row goes with the next one that is written."""
        self._forget(entry)
        if len(self._over) < MAX_ENTRIES:
            self._over[entry.call_id] = None

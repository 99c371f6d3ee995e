"""Calls whose outcome is unknown, and that the same run may therefore not make again until someone settles them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from outrider import clock
from outrider.calls import Call, Effect

MAX_ENTRIES = 10_000
"""More unsettled calls than this at once means that something is badly wrong: further writes are then refused, because
forgetting one of these could repeat a side effect."""

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

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The rows of the table ``unresolved`` as they stood before a restart."""
        for row in rows:
            left_s = max(0.0, row["until_wall"] - clock.wall())
            until = clock.monotonic() + left_s
            tool, agent, run = (str(row[name] or "") for name in ("tool", "agent", "run"))
            self._remember(Entry(row["call_id"], row["key"], tool, agent, run, row["until_wall"], until))

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
            self._forget(entry)
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

    def note_key(self, call_id: str, key: str, tool: str, agent: str, run: str, ttl_s: float) -> list[Mutation]:
        """The same for a call of which only the key is known: one that a crash left open."""
        wall = clock.wall()
        self._remember(Entry(call_id, key, tool, agent, run, wall + ttl_s, clock.monotonic() + ttl_s))
        return [
            (
                "INSERT OR REPLACE INTO unresolved (call_id, key, tool, agent, run, since_wall, until_wall) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (call_id, key, tool, agent, run, wall, wall + ttl_s),
            )
        ]

    def settle_rows(self, call_id: str) -> list[Mutation]:
        """What must be written when this call is settled; ``forget`` it once that is durable."""
        return [("DELETE FROM unresolved WHERE call_id = ?", (call_id,))]

    def forget(self, call_id: str) -> None:
        """Lift the bar on this call's like."""
        entry = self._by_call.get(call_id)
        if entry is not None:
            self._forget(entry)

    def _expired(self, entry: Entry) -> bool:
        return clock.wall() >= entry.until_wall and clock.monotonic() >= entry.until

    def _remember(self, entry: Entry) -> None:
        self._by_key.setdefault(entry.key, {})[entry.call_id] = entry
        self._by_call[entry.call_id] = entry

    def _forget(self, entry: Entry) -> None:
        self._by_call.pop(entry.call_id, None)
        like = self._by_key.get(entry.key, {})
        like.pop(entry.call_id, None)
        if not like:
            self._by_key.pop(entry.key, None)

    def _sweep(self) -> None:
        for entry in [entry for entry in self._by_call.values() if self._expired(entry)]:
            self._forget(entry)

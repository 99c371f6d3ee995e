"""After a crash: every attempt that began gets exactly one end, and every call that was taken gets one.

What was sent over the network and has no end may have run: ``unknown``. What ran in an agent's process may be running
still; it stays suspect until its process says how it ended, or until the window passes (``upstreams/local_recovery``).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code
from outrider.ledger.record import Event, EventType
from outrider.ledger.recovery import OpenAttempt, OpenCall
from outrider.ledger.writer import Ledger
from outrider.unresolved import Unresolved

log = logging.getLogger("outrider.recovery")
Pair = tuple[str, int]
SettledLate = Callable[[str, int, Outcome], Awaitable[None]]
CRASHED = "The sidecar ended before this was known."
SEVERITY = (OutcomeKind.UNKNOWN, OutcomeKind.OK, OutcomeKind.DEFINITE, OutcomeKind.NOT_EXECUTED)
"""Of several attempts, what the call is: one that may have run outweighs one that did, that one outweighs a failure."""


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger holds of a call's attempts: the outcomes of those that ended, the key that bars its like, and the
    in-process ones whose end says unknown and has not been settled."""

    ends: tuple[OutcomeKind, ...] = ()
    like: str = ""
    unsettled: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Open:
    """A call that the former incarnation did not answer. ``attempts`` are those without an end. ``told``: its agent has
    the result, because its own process ran the function."""

    event: dict[str, Any]
    attempts: dict[int, OpenAttempt]
    ends: list[OutcomeKind]
    like: str
    told: bool = False
    taken: dict[int, Outcome] = field(default_factory=dict)  # the ends written by us
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # "nobody claimed it" and "its process is back" may cross


class Recovery:
    """The former incarnation's open work. ``settled_late`` takes late truths about attempts that have their end."""

    def __init__(self, ledger: Ledger, unresolved: Unresolved, ttl_s: Callable[[], float]) -> None:
        self._ledger = ledger
        self._unresolved = unresolved
        self._ttl_s = ttl_s
        self._open: dict[str, _Open] = {}
        self._tasks: set[asyncio.Task[bool]] = set()
        self._history: Callable[[str], History] = lambda call_id: History()
        self.settled_late: SettledLate | None = None

    async def begin(
        self, attempts: Sequence[OpenAttempt], calls: Sequence[OpenCall], history: Callable[[str], History]
    ) -> dict[Pair, str]:
        """Write the ends of everything but in-process attempts, and return those with their agent's instance.

        Done before anything is served. ``history`` is asked later too, about late truths."""
        self._history = history
        by_call: defaultdict[str, dict[int, OpenAttempt]] = defaultdict(dict)
        for attempt in attempts:
            by_call[attempt.call_id][attempt.n] = attempt
        for call in calls:
            self._take(call.call_id, call.event, by_call.pop(call.call_id, {}))
        for call_id, orphaned in by_call.items():  # an end of the call, none of its attempt: cannot be, so be careful
            self._take(call_id, next(iter(orphaned.values())).event, orphaned)
        suspects: dict[Pair, str] = {}
        for call_id in tuple(self._open):
            suspects.update(await self._close_remote(call_id))
        if attempts or calls:
            data = {"attempts": len(attempts), "calls": len(calls), "suspect": len(suspects)}
            await self._ledger.append(Event(type=EventType.RECOVERED, data=data), durable=True)
            log.warning("recovered what the former incarnation left open", extra=data)
        return suspects

    def _take(self, call_id: str, event: dict[str, Any], attempts: dict[int, OpenAttempt]) -> None:
        known = self._history(call_id)
        self._open[call_id] = _Open(event, attempts, list(known.ends), known.like)

    async def _close_remote(self, call_id: str) -> dict[Pair, str]:
        """End what went over the network; the call too, when nothing of it is suspect."""
        it = self._open[call_id]
        suspects: dict[Pair, str] = {}
        for n, attempt in sorted(it.attempts.items()):
            if attempt.event.get("upstream") == "local":
                suspects[call_id, n] = str(attempt.event.get("agent", {}).get("instance", ""))
            else:
                await self._end_attempt(call_id, n, Outcome(OutcomeKind.UNKNOWN, detail=CRASHED))
        if not suspects:
            await self._end_call(call_id)
        elif it.like:  # it may be running still: its like is barred until that is known
            self._note(call_id, it, math.inf)
        return suspects

    async def settled(self, call_id: str, n: int, outcome: Outcome) -> None:
        """The process says how a suspect attempt ended: that is its end. Durable when this returns.

        About an in-process attempt whose end says unknown it is a late truth, and is passed on. A process has no word
        on anything else: what was sent over the network, what is known already, what never was."""
        if await self._end_suspect(call_id, n, outcome):
            return
        if self.settled_late is not None and n in self._history(call_id).unsettled:
            await self.settled_late(call_id, n, outcome)
        else:
            log.info("a process told an end that is known, or not its to tell: call %s attempt %d", call_id, n)

    def gave_up(self, call_id: str, n: int) -> None:
        """Nobody claimed a suspect attempt: it may have run."""
        if call_id not in self._open:
            return
        outcome = Outcome(OutcomeKind.UNKNOWN, detail="Its process did not come back in time to say how it ended.")
        task = asyncio.get_running_loop().create_task(self._end_suspect(call_id, n, outcome))
        self._tasks.add(task)
        task.add_done_callback(self._gave_up_written)

    def _gave_up_written(self, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the end of a suspect attempt could not be written; the next start tries again: %s", error)

    async def _end_suspect(self, call_id: str, n: int, outcome: Outcome) -> bool:
        """Write it as the attempt's end, and the call's where it was the last. False: it has another end, or none was
        missing. May be tried again with the same outcome until both are written."""
        it = self._open.get(call_id)
        if it is None:
            return False
        async with it.lock:
            if n in it.attempts:
                if outcome.ok:  # its own process has the result
                    it.told = True
                    self._unresolved.forget(call_id)
                await self._end_attempt(call_id, n, outcome)
            if not it.attempts and call_id in self._open:
                await self._end_call(call_id)
        return it.taken.get(n) is outcome

    async def _end_attempt(self, call_id: str, n: int, outcome: Outcome) -> None:
        it = self._open[call_id]
        event = it.attempts[n].event
        await self._ledger.append(
            Event(
                type=EventType.ATTEMPT_FINISHED,
                call_id=call_id,
                attempt=n,
                agent={"name": event.get("agent", {}).get("name", "")},
                tool=event.get("tool", ""),
                outcome=outcome.kind.value,
                code="" if outcome.ok else Code.OUTCOME_UNKNOWN.value,
                detail=outcome.detail,
                data={"recovered": True},
            ),
            durable=True,
        )
        del it.attempts[n]
        it.ends.append(outcome.kind)
        it.taken[n] = outcome

    async def _end_call(self, call_id: str) -> None:
        it = self._open[call_id]
        kind = next((kind for kind in SEVERITY if kind in it.ends), OutcomeKind.NOT_EXECUTED)
        event = it.event
        agent = str(event.get("agent", {}).get("name", ""))
        await self._ledger.append(
            Event(
                type=EventType.CALL_FINISHED,
                call_id=call_id,
                run_id=event.get("run_id", ""),
                agent={"name": agent},
                tool=event.get("tool", ""),
                outcome=kind.value,
                code=Code.OUTCOME_UNKNOWN.value if kind is OutcomeKind.UNKNOWN else "",
                detail=CRASHED,
                data={"recovered": True, "answered": it.told},
            ),
            durable=True,
            mutations=self._bar(call_id, kind, it),
        )
        del self._open[call_id]

    def _bar(self, call_id: str, kind: OutcomeKind, it: _Open) -> tuple[Any, ...]:
        """A caller that never got an answer does not know, even where the call ran: its like is barred."""
        if it.told or not it.like or kind not in {OutcomeKind.UNKNOWN, OutcomeKind.OK}:
            self._unresolved.forget(call_id)
            return ()
        return tuple(self._note(call_id, it, self._ttl_s()))

    def _note(self, call_id: str, it: _Open, ttl_s: float) -> list[Any]:
        event = it.event
        agent = str(event.get("agent", {}).get("name", ""))
        tool, run = event.get("tool", ""), event.get("run_id", "")
        return self._unresolved.note_key(call_id, it.like, tool, agent, run, ttl_s)

"""The runs that are known, and what their guards say. An end of a run is never told: one is known until it has been
silent for long and another needs its place.

Ids come from callers, so the number of runs is bounded (``limits.max_runs``), and one owner may take half of it; past
that its own oldest runs make room. Where there is no room, a run that nothing limits is merely not counted, and one
that is limited is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from outrider import clock
from outrider.calls import Call, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.ledger.record import EventType
from outrider.policy.load import Policy
from outrider.policy.plans import Limits
from outrider.runs import stored, verdicts
from outrider.runs.run import Key, Owner, Pause, Run, key_of
from outrider.runs.verdicts import Bar, Barred

log = logging.getLogger("outrider.runs")

SILENT_S = 3600.0
"""A run without a call for this long makes room for a new one."""
SILENT_AT_START_S = 0.0
"""Of those that a start finds in the ledger, the older ones make room for the newer."""
PAUSED_SILENT_S = 7 * 86_400.0
"""So does one that is paused, after this long: nobody is going to resume it."""
TRIES = 8
"""How many runs are looked at for one that makes room, so that a flood of ids costs nothing."""

Mutation = tuple[str, tuple[object, ...]]
Emit = Callable[[EventType, Run, dict[str, Any], Sequence[Mutation]], asyncio.Future[int]]


class NothingToResume(Exception):
    """The run is known, and nothing of it is stopped."""


class Runs:
    """``emit(type, run, data, mutations)`` writes to the ledger what became of a run."""

    def __init__(self, *, limits: Callable[[], Limits], emit: Emit) -> None:
        self._limits = limits
        self._emit = emit
        self._runs: OrderedDict[Key, Run] = OrderedDict()  # the next one to make room first
        self._of_owner: dict[Owner, OrderedDict[Key, None]] = {}

    # ── a call ───────────────────────────────────────────────────────────────────────────────────────────────────

    def of(self, call: Call, parents: Run | None, policy: Policy, wall: float) -> Run | Outcome | None:
        """The run of a call: its parent's, else the one that it names. Where there is no room to tell another apart:
        None where nothing limits it, else the refusal."""
        run = parents if parents is not None else self._runs.get(key_of(call))
        if run is None:
            run = self._begin(key_of(call), call.agent.name, wall)
            if run is None:
                unlimited = policy.observes or policy.runs.of(call.agent.name) is None
                return None if unlimited else _no_room(self._limits().max_runs)
        run.last_wall = wall
        if run.held_to is not policy.runs:
            run.hold_to(policy.runs, observed=policy.observes)
        return run

    def barred(self, run: Run, call: Call, like: bytes) -> Outcome | None:
        """The refusal of a call that the run's guards are against. Nothing waits between this and ``run.admit``."""
        now = clock.monotonic()
        found = verdicts.decide(run, run.guards, like, now)
        if found is None:
            return None
        told = verdicts.refusal(found, run, call, run.guards)
        run.refused += 1
        self._follow(found, run, call, now)
        return told

    def _follow(self, found: Barred, run: Run, call: Call, now: float) -> None:
        """What a refusal does to the run."""
        if found.bar in (Bar.MAX_CALLS, Bar.MAX_DURATION):
            self._tell_limit(run, found.bar.value)
        if not found.bar.is_runaway:
            return
        why = verdicts.why_runaway(found.bar, run, call)
        is_new = verdicts.is_new(run, now)
        if found.bar is Bar.FAILURES:
            run.failed_in_row = 0
        if not is_new:
            return
        run.refusals += 1
        run.refused_at = now
        data = {"guard": found.bar.value, "tool": call.tool, "why": why, "refusals": run.refusals}
        if not found.pauses or run.observed:
            action = "observed" if run.observed else "refused"
            self._emit(EventType.RUN_RUNAWAY, run, {**data, "action": action}, ())
            return
        run.paused = Pause(f"it has {why}", clock.wall())
        log.warning("run %s of agent %s is paused: it has %s", run.id, run.root, why)
        run.pausing = self._emit(EventType.RUN_RUNAWAY, run, {**data, "action": "paused"}, [stored.pause_row(run)])

    def may_retry(self, run: Run | None) -> bool:
        """Whether its calls may have another retry together; it is counted with the answer."""
        if run is None:
            return True
        limit = None if run.guards is None else run.guards.max_retries
        if limit is not None and run.counted_retries >= limit:
            self._tell_limit(run, "maxRetries")
            if not run.observed:
                return False
        run.retried()
        return True

    def _tell_limit(self, run: Run, limit: str) -> None:
        """In the ledger once; each refused call has a record of its own."""
        if limit in run.told:
            return
        run.told.add(limit)
        data: dict[str, Any] = {"limit": limit, "calls": run.counted_calls, "retries": run.counted_retries}
        if run.observed:
            data["action"] = "observed"
        self._emit(EventType.RUN_LIMITED, run, data, ())

    # ── people ───────────────────────────────────────────────────────────────────────────────────────────────────

    def all(self) -> list[Run]:
        """The one that made a call last first."""
        return sorted(self._runs.values(), key=lambda run: run.last_wall, reverse=True)

    def named(self, run_id: str) -> list[Run]:
        """Every run of this id; several where several owners chose the same."""
        return [run for run in self._runs.values() if run.id == run_id]

    async def resume(self, run_id: str, reason: str, by: str) -> list[Run]:
        """Lift what stops the runs of this id; their limits count anew. Raises KeyError where no such run is known,
        NothingToResume, LedgerUnavailable (it then stays stopped)."""
        named = self.named(run_id)
        if not named:
            raise KeyError(run_id)
        stopped = [run for run in named if run.paused is not None or run.spent or run.told]
        if not stopped:
            raise NothingToResume(run_id)
        for run in stopped:
            data = {"reason": reason, "by": by, "was": run.paused.why if run.paused else run.spent, **_mark_after(run)}
            await self._emit(EventType.RUN_RESUMED, run, data, [stored.resume_row(run)])
            run.paused = None
            run.resumes += 1
            run.count_anew(clock.monotonic())
        return stopped

    # ── after a restart ──────────────────────────────────────────────────────────────────────────────────────────

    def restore(self, marks: Iterable[stored.Mark], paused: Iterable[stored.Paused]) -> None:
        """What was paused, then what the sidecar before this one counted: a pause is not what makes room. Nothing is
        under way yet."""
        for row in paused:
            run = self._restored(row.key, row.root, row.began_wall)
            if run is not None:
                row.apply(run)
        for mark in marks:
            run = self._restored(mark.key, mark.root, mark.at)
            if run is not None:
                mark.apply(run)

    def _restored(self, key: Key, root: str, wall: float) -> Run | None:
        run = self._runs.get(key) or self._begin(key, root, wall, SILENT_AT_START_S)
        if run is not None:
            run.last_wall = wall
            self._runs.move_to_end(key)
        return run

    # ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, key: Key, root: str, wall: float, silent_s: float = SILENT_S) -> Run | None:
        owner = key[:2]
        own = self._of_owner.get(owner)
        most = self._limits().max_runs
        if own is not None and len(own) >= max(1, most // 2):
            if not self._make_room(own, wall, 0.0):
                return None
        elif len(self._runs) >= most and not self._make_room(self._runs, wall, silent_s):
            return None
        run = self._runs[key] = Run(key, root, now=clock.monotonic(), wall=wall)
        self._of_owner.setdefault(owner, OrderedDict())[key] = None
        return run

    def _make_room(self, among: OrderedDict[Key, Any], wall: float, silent_s: float) -> bool:
        """The first that may go, goes; one that must stay goes to the end."""
        for key in tuple(islice(among, TRIES)):
            if _may_go(self._runs[key], wall, silent_s):
                self._forget(key)
                return True
            among.move_to_end(key)
        return False

    def _forget(self, key: Key) -> None:
        del self._runs[key]
        own = self._of_owner[key[:2]]
        del own[key]
        if not own:
            del self._of_owner[key[:2]]


def _may_go(run: Run, wall: float, silent_s: float) -> bool:
    """A run that is stopped is not forgotten for the asking: it would begin anew."""
    if run.in_flight:
        return False
    stays_s = PAUSED_SILENT_S if run.paused is not None else SILENT_S if run.spent else silent_s
    return wall - run.last_wall >= stays_s


def _mark_after(run: Run) -> dict[str, Any]:
    return {"run": {**run.mark(), "calls": 0, "retries": 0, "began": clock.wall(), "resumes": run.resumes + 1}}


def _no_room(most: int) -> Outcome:
    detail = f"{most} runs are known, as many as limits.maxRuns allows, and a run that is limited must be. Call later."
    return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.OVERLOADED, detail=detail, stage=verdicts.STAGE)

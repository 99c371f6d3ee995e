"""``local``: the upstream whose far end is an adapter, which runs the functions of its own process.

The driver gives every attempt its machine (``local_machine``), feeds it with what happens, and does what the table
says. Attempts outlive connections: they belong to a *far end*, a process, which may break off and come back within a
window that its channel session keeps. What this driver hears:

    pipeline   send, stopped, recorded            (``recorded``: the end of that attempt is in the ledger)
    channel    connected, lost, over, finished, aborted, ended

What it calls: ``settled(call_id, n, outcome)``, awaited, when a truth comes after the attempt ended ``unknown``, or
about a pair that only the ledger may remember; it returns when that is durable or of no use. ``gave_up(call_id, n)``
when nobody claimed an attempt of a former incarnation.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from outrider.calls import Attempt, Effect, Outcome, OutcomeKind, Reason
from outrider.errors import Code
from outrider.policy.plans import Limits, Plan
from outrider.upstreams import local_outcomes as outcomes
from outrider.upstreams.local_machine import WAITING, Do, Event, State, step
from outrider.upstreams.local_recovery import Pair, Recovery
from outrider.wire import Abort, Aborted, Ack, Ended, Execute, Finished, FromGateway

log = logging.getLogger("outrider.local")

MAX_ATTEMPTS = 20_000
"""The most attempts remembered at once, over all processes; more are refused."""
MAX_SETTLING = 5_000
"""The most late truths being written at once; more stay with their adapters until those connect again."""
MAX_KNOWN = 8_192
"""How many attempts whose truth is durable are remembered, for an end that is told again because its ack was lost."""
SETTLE_AGAIN_S = (0.5, 30.0)
"""The first and the longest pause before a late truth is written again after the ledger refused it."""

EVENT_OF_ABORTED = {"not_started": Event.NOT_STARTED, "running": Event.RUNNING, "done": Event.DONE}


class FarEnd(Protocol):
    """A process that holds functions, as its channel session presents it. ``id`` stays over reconnections."""

    @property
    def id(self) -> str: ...

    @property
    def instance(self) -> str: ...

    def push(self, frame: FromGateway) -> bool:
        """Hand a frame to the socket now. False: there is no connection, and nothing was sent."""
        ...

    def ref_of(self, call_id: str) -> str | None:
        """What the adapter calls this call; None when it is not open there."""
        ...


@dataclass(slots=True, eq=False)
class _Local:
    """One attempt and its machine. ``told``: what the pipeline knows; ``late``: what is known better, later."""

    attempt: Attempt
    far_id: str
    waiter: asyncio.Future[Outcome]
    state: State = State.EXECUTING
    told: Outcome | None = None
    late: Outcome | None = None
    unacked: str = ""  # the state that the newest ``finished`` said
    why: str = ""
    connect_proves: bool = False  # the policy's word on failed connections inside the function

    @property
    def pair(self) -> Pair:
        return self.attempt.call.id, self.attempt.n


class LocalUpstream:
    """The driver of ``local``. All methods are called on the event loop.

    ``limits`` and ``abort_timeout_s`` are asked each time, so that a reloaded policy counts."""

    def __init__(
        self,
        *,
        limits: Callable[[], Limits],
        abort_timeout_s: Callable[[], float],
        settled: Callable[[str, int, Outcome], Awaitable[None]],
        gave_up: Callable[[str, int], None],
    ) -> None:
        self._limits = limits
        self._abort_timeout_s = abort_timeout_s
        self._settled = settled
        self._recovery = Recovery(gave_up)
        self._fars: dict[str, FarEnd] = {}
        self._locals: dict[Pair, _Local] = {}
        self._known: dict[Pair, None] = {}
        self._settling: dict[Pair, asyncio.Task[None]] = {}
        self._behind: dict[Pair, Finished] = {}  # came while the one before was being written; keys are of _settling
        self._deeds: Mapping[Do, Callable[[_Local, Event, Outcome | None], None]] = {
            Do.HOLD: self._hold,
            Do.RELEASE: self._release,
            Do.TELL: self._tell,
            Do.TELL_UNKNOWN: self._tell_unknown,
            Do.KEEP: self._keep,
            Do.ABORT: self._abort,
            Do.SETTLE: self._settle,
            Do.ACK: self._ack,
            Do.DROP: self._drop,
        }

    # ── the pipeline's side ──────────────────────────────────────────────────────────────────────────────────────

    async def send(self, attempt: Attempt, plan: Plan, timeout_s: float) -> Outcome:
        """Have the function run once. ``timeout_s`` is told to the adapter as a backstop; 0 means none."""
        call = attempt.call
        far = self._fars.get(call.origin)
        ref = far.ref_of(call.id) if far is not None else None
        refusal = self._refuse(attempt)
        if refusal is not None:
            return refusal
        if far is None or ref is None:
            return outcomes.gone()
        local = _Local(attempt, far.id, asyncio.get_running_loop().create_future())
        local.connect_proves = plan.connect_errors == "not_executed"
        attempt.sent = far.push(self._execute(ref, attempt, plan, timeout_s))
        if not attempt.sent:
            return outcomes.gone()
        self._locals[local.pair] = local
        return await local.waiter

    async def stopped(self, attempt: Attempt, plan: Plan, why: str) -> Outcome:
        """The abort handshake, no longer than ``abort_timeout_s``; the real outcome where it came meanwhile."""
        del plan
        local = self._locals.get((attempt.call.id, attempt.n))
        if local is None:
            return self._stopped_unsent(attempt)
        if local.told is None:
            await self._handshake(local, why)
        assert local.told is not None
        return local.told

    def recorded(self, call_id: str, n: int) -> None:
        """The end of this attempt is in the ledger. Must be called for every attempt that was sent."""
        local = self._locals.get((call_id, n))
        if local is not None:
            self._step(local, Event.RECORDED)

    def recover(self, pairs: Mapping[Pair, str]) -> None:
        """Attempts that the former incarnation left open, each with its agent's instance ("" where not known)."""
        self._recovery.start(pairs, self._limits().suspect_s)

    async def close(self) -> None:
        """Every process counts as gone; late truths not yet written stay with their adapters."""
        for far_id in list(self._fars):
            self.over(far_id)
        self._recovery.close()
        tasks = list(self._settling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ── the channel's side ───────────────────────────────────────────────────────────────────────────────────────

    def connected(self, far: FarEnd, running: Collection[Pair] = (), unacked: Collection[Finished] = ()) -> None:
        """A process is here, or here again: what its ``hello`` says still runs, and what has ended unheard."""
        self._fars[far.id] = far
        running = set(running)
        self._recovery.connected(far.id, far.instance, running, {(frame.call, frame.n) for frame in unacked})
        for frame in unacked:
            self.finished(far, frame)
        for local in self._of(far.id):
            self._step(local, Event.BACK if local.pair in running else Event.MISSING)

    def lost(self, far_id: str) -> None:
        """The connection broke; the process may come back."""
        for local in self._of(far_id):
            self._step(local, Event.LOST)

    def over(self, far_id: str) -> None:
        """The process said goodbye, or did not come back within its window."""
        if self._fars.pop(far_id, None) is None:
            return
        for local in self._of(far_id):
            self._step(local, Event.OVER)
        self._recovery.over(far_id)

    def holds(self, far_id: str) -> bool:
        """Whether anything of this process is not finished with."""
        return any(local.far_id == far_id for local in self._locals.values())

    def finished(self, far: FarEnd, frame: Finished) -> bool:
        """The adapter's word on an end. False: this attempt is another process's."""
        pair = (frame.call, frame.n)
        local = self._locals.get(pair)
        if local is None:
            return self._finished_unheard_of(far, pair, frame)
        if local.far_id != far.id:
            return False
        local.unacked = frame.state
        outcome = outcomes.of_finished(frame, local.attempt.effect, connect_proves=local.connect_proves)
        self._step(local, _event_of(frame, local, outcome), outcome)
        return True

    def aborted(self, far: FarEnd, frame: Aborted) -> bool:
        """The adapter's answer to ``abort``. False: this attempt is another process's."""
        proof = None
        if frame.state == "not_started":
            proof = outcomes.not_executed(Reason.NOT_STARTED, outcomes.NEVER_BEGAN)
        return self._heard(far, (frame.call, frame.n), EVENT_OF_ABORTED[frame.state], proof)

    def ended(self, far: FarEnd, frame: Ended) -> bool:
        """An abandoned thread ended. False: this attempt is another process's."""
        return self._heard(far, (frame.call, frame.n), Event.THREAD_ENDED)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _of(self, far_id: str) -> list[_Local]:
        return [local for local in self._locals.values() if local.far_id == far_id]

    def _heard(self, far: FarEnd, pair: Pair, event: Event, outcome: Outcome | None = None) -> bool:
        local = self._locals.get(pair)
        if local is None:
            return True
        if local.far_id != far.id:
            return False
        self._step(local, event, outcome)
        return True

    def _refuse(self, attempt: Attempt) -> Outcome | None:
        """What cannot be sent, whoever is connected."""
        if attempt.tool != attempt.call.tool:
            text = f"{attempt.tool} is a function of the agent's process, which was asked for {attempt.call.tool} only."
            return outcomes.not_executed(Reason.NOT_STARTED, text)
        if (attempt.call.id, attempt.n) in self._locals:
            text = f"Attempt {attempt.n} of this call was sent before."
            return outcomes.not_executed(Reason.NOT_STARTED, text, Code.INTERNAL)
        if len(self._locals) >= MAX_ATTEMPTS and not self._forget_one():
            text = f"{MAX_ATTEMPTS} in-process attempts have not ended; wait until some have."
            return outcomes.not_executed(Reason.NOT_STARTED, text, Code.OVERLOADED)
        return None

    def _forget_one(self) -> bool:
        """Make room: forget an end that the ledger could not take; its adapter tells it again in its next hello."""
        unrecorded = next((local for local in self._locals.values() if local.state is State.ENDED), None)
        if unrecorded is None:
            return False
        del self._locals[unrecorded.pair]
        return True

    def _execute(self, ref: str, attempt: Attempt, plan: Plan, timeout_s: float) -> Execute:
        return Execute(
            ref=ref,
            call=attempt.call.id,
            n=attempt.n,
            timeout_ms=0 if plan.composite else math.ceil(timeout_s * 1000),
            start_by_ms=math.ceil(self._limits().start_by_s * 1000),
            on_ok="report" if attempt.effect is Effect.READ else "await",
            placement=plan.placement,
            composite=plan.composite,
            traceparent=attempt.traceparent if attempt.span_id else "",
        )

    @staticmethod
    def _stopped_unsent(attempt: Attempt) -> Outcome:
        if attempt.sent:
            return outcomes.unknown(Reason.STOPPED, "Nobody remembers what became of this attempt.", attempt.effect)
        return outcomes.not_executed(Reason.NOT_STARTED, outcomes.NEVER_BEGAN)

    async def _handshake(self, local: _Local, why: str) -> None:
        loop = asyncio.get_running_loop()
        local.why = why
        local.waiter = loop.create_future()  # the one of ``send`` was cancelled with it
        self._step(local, Event.STOP)
        timer = loop.call_later(self._abort_timeout_s(), self._step, local, Event.EXPIRED)
        await local.waiter
        timer.cancel()

    def _finished_unheard_of(self, far: FarEnd, pair: Pair, frame: Finished) -> bool:
        """A former incarnation's attempt, or one long forgotten here: only the ledger can say what to make of it."""
        if not self._recovery.allows(pair, far.instance):
            return False
        outcome = outcomes.of_finished(frame)
        if pair in self._settling:
            self._behind[pair] = frame  # an adapter that gave up waiting reports twice: timed_out, then the truth
        elif pair in self._known or (outcome.kind is OutcomeKind.UNKNOWN and pair not in self._recovery):
            self._acknowledge(far.id, pair, frame.state)  # no news: its end, if only "unknown", is in the ledger
        elif len(self._settling) < MAX_SETTLING:
            self._recovery.finished(pair)
            self._write_behind(pair, outcome, lambda: self._settled_unheard_of(far, pair, frame))
        return True

    def _settled_unheard_of(self, far: FarEnd, pair: Pair, frame: Finished) -> None:
        newer = self._behind.pop(pair, None)
        if newer is None or newer.state == frame.state:
            self._acknowledge(far.id, pair, frame.state)
        else:
            self._finished_unheard_of(far, pair, newer)

    def _write_behind(self, pair: Pair, outcome: Outcome, then: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._until_settled(pair, outcome))
        self._settling[pair] = task

        def done(task: asyncio.Task[None]) -> None:
            del self._settling[pair]
            if not task.cancelled():
                then()

        task.add_done_callback(done)

    async def _until_settled(self, pair: Pair, outcome: Outcome) -> None:
        pause_s, longest_s = SETTLE_AGAIN_S
        while True:
            try:
                return await self._settled(*pair, outcome)
            except Exception as error:
                log.warning("late outcome of call %s attempt %d is not in the ledger yet: %s", *pair, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _acknowledge(self, far_id: str, pair: Pair, state: str) -> None:
        far = self._fars.get(far_id)
        if far is not None:
            far.push(Ack(*pair, state))  # lost: the adapter reports it again in its next hello

    # ── the deeds of the table ───────────────────────────────────────────────────────────────────────────────────

    def _step(self, local: _Local, event: Event, outcome: Outcome | None = None) -> None:
        local.state, todo = step(local.state, event)
        for do in todo:
            self._deeds[do](local, event, outcome)

    def _hold(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        local.attempt.still_running = asyncio.get_running_loop().create_future()

    def _release(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        running = local.attempt.still_running
        if running is not None and not running.done():
            running.set_result(None)

    def _tell(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        assert local.told is None and outcome is not None
        local.told = outcome
        if not local.waiter.done():
            local.waiter.set_result(outcome)

    def _tell_unknown(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        self._tell(local, event, outcomes.unknown_by(event, local.why, local.attempt.effect))

    def _keep(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        local.late = outcome

    def _abort(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        far = self._fars.get(local.far_id)
        if far is not None:
            far.push(Abort(*local.pair, reason=local.why))

    def _settle(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        assert local.late is not None
        self._write_behind(local.pair, local.late, lambda: self._step(local, Event.SETTLED))

    def _ack(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        if local.unacked:
            self._acknowledge(local.far_id, local.pair, local.unacked)
            local.unacked = ""

    def _drop(self, local: _Local, event: Event, outcome: Outcome | None) -> None:
        self._locals.pop(local.pair, None)
        assert local.told is not None
        if local.late is not None or local.told.kind is not OutcomeKind.UNKNOWN:
            self._known[local.pair] = None
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]


def _event_of(frame: Finished, local: _Local, outcome: Outcome) -> Event:
    if frame.state == "timed_out":
        return Event.TIMED_OUT
    if local.state not in WAITING and outcome.kind is OutcomeKind.UNKNOWN:
        return Event.THREAD_ENDED  # "unknown" is what was told already
    return Event.FINISHED

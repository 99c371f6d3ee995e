"""Owns the task of every call: start it, let others observe it, stop it once, finalise it.

Request handlers and the channel only observe. Finalisation (the call's end in the ledger, then the answer) cannot be
cancelled: nobody but a flight's own scope ever cancels its task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from outrider import clock
from outrider.agents import Agents
from outrider.calls import Call, Effect, Outcome, OutcomeKind, Reason
from outrider.errors import Code, problem
from outrider.flight import Cause, Flight, Traffic, Verdict, killed_by
from outrider.identity.credential import Credential
from outrider.kills import Kill, KillBoard
from outrider.ledger.writer import LedgerUnavailable
from outrider.policy.current import CurrentPolicy
from outrider.policy.load import Policy
from outrider.pulse import Pulse
from outrider.recorder import Mutation, Recorder
from outrider.stages import Next
from outrider.telemetry import Ending, Telemetry, Trace
from outrider.unresolved import GUARDED, Unresolved

log = logging.getLogger("outrider.supervisor")

RECEIPT_SLACK_S = 0.5
"""How much longer than the adapters' abort timeout a receipt waits for the calls' ends to be written."""

RECEIPT_WORDS = ("not_executed", "completed", "unknown")
"""What a receipt says of a call."""

ENDING_WAIT_S = 1.0
"""How long a refused or killed call waits for a ledger that does not answer: it must not hold up the answer "no"."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a kill did. ``calls``: ``{call_id, agent, tool, result}``; ``durable`` False: in force, not yet on disk."""

    id: str
    scope: str
    took_ms: float
    counts: dict[str, int]
    calls: list[dict[str, str]] = field(default_factory=list)
    durable: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Acknowledges(Protocol):
    """The in-process upstream, told which ends are durable so that its adapters may forget them."""

    def recorded(self, call_id: str, n: int) -> None: ...


class Supervisor:
    """The calls under way."""

    def __init__(
        self,
        *,
        traffic: Traffic,
        policies: CurrentPolicy,
        recorder: Recorder,
        kills: KillBoard,
        agents: Agents,
        unresolved: Unresolved,
        telemetry: Telemetry,
        pulse: Pulse,
        local: Acknowledges,
        run: Next,
    ) -> None:
        self._traffic = traffic
        self._policies = policies
        self._recorder = recorder
        self._kills = kills
        self._agents = agents
        self._unresolved = unresolved
        self._telemetry = telemetry
        self._pulse = pulse
        self._local = local
        self._run_stages = run
        self.on_lifecycle: Callable[[str, str], None] = lambda state, reason: None
        kills.subscribe(self._kill_changed)

    @property
    def flights(self) -> dict[str, Flight]:
        return self._traffic.flights

    @property
    def draining(self) -> bool:
        return self._traffic.draining

    # ── a call ───────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, call: Call, caller: object | None = None) -> Flight:
        """Start a call. Never raises; ``flight.answer`` resolves exactly once. ``caller``: its side of an exchange that
        is more than a question and an answer; the upstream's driver knows its kind."""
        loop = asyncio.get_running_loop()
        flight = Flight(call, self._policies.current, received=clock.monotonic(), started_wall=clock.wall())
        flight.answer = loop.create_future()
        flight.caller = caller
        flight.ahead = len(self.flights) - self._traffic.waiting
        flight.on_observed = self._observed
        parent = self.flights.get(call.parent) if call.parent else None
        self.flights[call.id] = flight
        if parent is not None:
            _nest(flight, parent)
        flight.task = loop.create_task(self._live(flight))
        return flight

    def _observed(self, flight: Flight, tool: str, refusal: Outcome, policy: Policy) -> None:
        self._recorder.observed(flight, tool, refusal, policy)
        self._telemetry.on_observed(refusal.code)

    async def _live(self, flight: Flight) -> None:
        traces = self._telemetry.traces
        if traces is not None:
            flight.trace, flight.traceparent = traces.begin(
                flight.call, received=flight.received, started_wall=flight.started_wall
            )
        outcome = await self._guarded(flight)
        took_s = clock.monotonic() - flight.received
        outcome = await self._record_end(flight, outcome, took_s)
        del self.flights[flight.call.id]
        assert flight.answer is not None
        if not flight.answer.done():  # before the statistics: a fault in those must not cost the answer
            flight.answer.set_result(outcome)
        self._agents.finished(flight.call, outcome)
        self._pulse.ended(outcome, flight.attempts, flight.received + took_s)
        self._telemetry.on_call_finished(flight.call, outcome, took_s, flight.attempts)
        if flight.trace is not None:
            _end_trace(flight.trace, flight, outcome, took_s)

    async def _guarded(self, flight: Flight) -> Outcome:
        """The stages; an unexpected exception in one of them refuses, it never passes on."""
        try:
            flight.entry = self._agents.seen(flight.call)
            self._recorder.received(flight)
            return await self._run_stages(flight)
        except Exception:
            log.exception("a stage failed", extra={"call_id": flight.call.id})
            kind = OutcomeKind.UNKNOWN if _may_have_run(flight) else OutcomeKind.NOT_EXECUTED
            detail = "A fault in Outrider ended this call; see the sidecar's log."
            return Outcome(kind, code=Code.INTERNAL, detail=detail, retryable=False)

    async def _record_end(self, flight: Flight, outcome: Outcome, took_s: float) -> Outcome:
        try:
            ending = self._recorder.finished(flight, outcome, took_s, self._guard_of(flight, outcome))
            if flight.call.origin and flight.attempts:
                ending.add_done_callback(partial(self._acknowledge, flight))
            if _answers_without_the_ledger(flight):
                await asyncio.wait([ending], timeout=ENDING_WAIT_S)
                return outcome
            await ending
        except Exception as error:  # LedgerUnavailable, or a fault of ours: the caller is answered in any case
            if not isinstance(error, LedgerUnavailable):
                log.exception("the end of a call could not be recorded", extra={"call_id": flight.call.id})
            outcome = _unrecorded(flight, outcome, error)
            self._guard_of(flight, outcome)  # in memory; a restart finds the call open and bars its like again
            return outcome
        return outcome

    def _acknowledge(self, flight: Flight, ending: asyncio.Future[int]) -> None:
        """The ends are in the ledger: the adapter may forget them."""
        if not ending.cancelled() and ending.exception() is None:
            for n in range(1, flight.attempts + 1):
                self._local.recorded(flight.call.id, n)

    def _guard_of(self, flight: Flight, outcome: Outcome) -> list[Mutation]:
        """Bar the same call in the same run, when this one may have run, or ran and nobody was there to be told."""
        unsure = outcome.kind is OutcomeKind.UNKNOWN or (flight.unheard and outcome.ok)
        if not unsure or flight.plan is None or flight.plan.effect not in GUARDED:
            self._unresolved.forget(flight.call.id)
            return []
        return self._unresolved.note(flight.call, flight.policy.ledger.unknown_ttl_s)

    def caller_gone(self, flight: Flight) -> None:
        """The observer left: no further attempt; a read in flight is cancelled, an effect already sent is left to
        finish inside its deadline so that its outcome is learnt. Whoever comes back to ask for the same again does not
        know that outcome: until it is settled, the like of an effect that was sent is barred."""
        flight.stop(Verdict(Cause.CALLER_GONE, "The caller went away."))
        if flight.answer is None or flight.answer.done():
            return
        flight.unheard = True
        if flight.attempt is not None and flight.attempt.effect in GUARDED:
            self._unresolved.hold(flight.call)

    def stop_revoked(self) -> None:
        """Of callers whose credential was revoked nothing more begins. One that lapsed was good when it called."""
        for flight in tuple(self.flights.values()):
            credential = flight.call.principal.credential
            denial = credential.denial if isinstance(credential, Credential) else None
            if denial is not None and not denial.lapsed:
                flight.stop(Verdict(Cause.REVOKED, denial.detail))

    def problem(self, flight: Flight, outcome: Outcome) -> dict[str, Any]:
        """The RFC 9457 object of an outcome that is not ok."""
        return problem_of(flight, outcome)

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def kill(self, scope: str, reason: str, ttl_s: float | None, by: str) -> Receipt:
        """Engage a kill: durable, then in memory, then every waiter woken; then say what became of each call.

        Raises ValueError for a scope or reason that is not one."""
        began = clock.monotonic()
        kill = await self._kills.engage(scope, reason, ttl_s, by)
        return await self._stop_covered(kill, began, self._policies.current.kills.abort_timeout_s + RECEIPT_SLACK_S)

    async def obey(self, told: Kill, patience_s: float = 0.0) -> Receipt:
        """Another sidecar's kill, or its end, takes effect here too: as ``kill``, waiting for ends for so long at most.
        It may be told again. Raises Refused: it cannot be taken over now."""
        began = clock.monotonic()
        kill = await self._kills.adopt(told)
        if kill.lifted is not None:
            took_ms = round((clock.monotonic() - began) * 1000, 3)
            return Receipt(kill.id, kill.scope, took_ms, dict.fromkeys(RECEIPT_WORDS, 0))
        return await self._stop_covered(kill, began, patience_s)

    async def _stop_covered(self, kill: Kill, began: float, patience_s: float) -> Receipt:
        verdict = killed_by(kill)
        hit = [flight for flight in self.flights.values() if self._covers(kill.id, flight)]
        for flight in hit:
            flight.stop(verdict)
        self.on_lifecycle("killed", kill.scope)
        results = await self._ends(hit, patience_s)
        calls = [
            {"call_id": flight.call.id, "agent": flight.call.agent.name, "tool": flight.call.tool, "result": result}
            for flight, result in zip(hit, results, strict=True)
        ]
        counts = {word: results.count(word) for word in RECEIPT_WORDS}
        took_ms = round((clock.monotonic() - began) * 1000, 3)
        return Receipt(kill.id, kill.scope, took_ms, counts, calls, kill.durable)

    def _covers(self, kill_id: str, flight: Flight) -> bool:
        plan = flight.plan
        tool, upstream = (plan.tool, plan.upstream.name) if plan is not None else (None, None)
        return self._kills.covers(kill_id, flight.call, tool, upstream)

    async def _ends(self, hit: list[Flight], patience_s: float) -> list[str]:
        """``completed``, ``not_executed`` or ``unknown`` for each; no answer in time is unknown."""
        answers = [flight.answer for flight in hit if flight.answer is not None]
        if answers:
            await asyncio.wait(answers, timeout=patience_s)
        return [_receipt_word(flight) for flight in hit]

    async def revive(self, kill_id: str, reason: str, by: str) -> None:
        """Lift a kill. Raises KeyError when it is not engaged, ValueError without a reason."""
        await self._kills.lift(kill_id, reason, by)

    def _kill_changed(self, kill: Kill, engaged: bool) -> None:
        """The end of a kill is told however it came: a person lifted it, or its time was over."""
        if not engaged:
            self.on_lifecycle("revived", kill.scope)

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, let what runs end, then stop what is left."""
        self._traffic.draining = True
        self.on_lifecycle("draining", "the sidecar is shutting down")
        await self._wait_for_all(timeout_s)
        for flight in tuple(self.flights.values()):
            flight.stop(Verdict(Cause.SHUTDOWN, "The sidecar shut down before this call ended."))
        await self._wait_for_all(self._policies.current.kills.abort_timeout_s + RECEIPT_SLACK_S)

    async def _wait_for_all(self, timeout_s: float) -> None:
        answers = [flight.answer for flight in self.flights.values() if flight.answer is not None]
        if answers:
            await asyncio.wait(answers, timeout=timeout_s)

    # ── later knowledge ──────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, call_id: str, as_: str, reason: str, by: str) -> dict[str, Any]:
        """A person found out what became of an unknown call. Raises KeyError when no such call is unresolved,
        ValueError for another word than ``executed`` or ``not_executed``, or without a reason."""
        if as_ not in {"executed", "not_executed"}:
            raise ValueError(f"'{as_}' is not known; say executed or not_executed")
        if not reason.strip():
            raise ValueError("a reason is needed: say how you found out")
        if self._unresolved.get(call_id) is None:
            raise KeyError(call_id)
        kind = OutcomeKind.OK if as_ == "executed" else OutcomeKind.NOT_EXECUTED
        data = {"as": as_, "reason": reason, "by": by}
        await self._recorder.settled(call_id, None, kind, data, self._unresolved.settle_rows(call_id))
        self._unresolved.forget(call_id)
        return {"call_id": call_id, "settled": as_, "reason": reason, "by": by}

    async def settled_late(self, call_id: str, n: int, outcome: Outcome) -> None:
        """An attempt that ended unknown is known by now. That it never ran lifts the bar on its like; that it ran does
        not: the agent was told "unknown", and repeating it is just what must not happen."""
        lifts = outcome.kind is OutcomeKind.NOT_EXECUTED and self._unresolved.get(call_id) is not None
        rows = self._unresolved.settle_rows(call_id) if lifts else []
        data: dict[str, Any] = {"late": True}
        if outcome.failure is not None:
            data["text"] = outcome.failure.text[:500]
        await self._recorder.settled(call_id, n, outcome.kind, data, rows)
        if lifts:
            self._unresolved.forget(call_id)


def _end_trace(trace: Trace, flight: Flight, outcome: Outcome, took_s: float) -> None:
    decision = flight.decision
    trace.end(
        Ending(
            outcome=outcome,
            took_s=took_s,
            attempts=flight.attempts,
            plan=flight.plan,
            ledger=flight.policy.ledger,
            decision=decision.effect if decision is not None else "",
            rule=(decision.rule or "") if decision is not None else "",
            policy_digest=flight.policy.digest,
            breaker=flight.domain.breaker.state.value if flight.domain is not None else "",
            kill_id=flight.verdict.kill_id if flight.verdict is not None else "",
            degraded_by=flight.degraded_by,
            observed=",".join(dict.fromkeys(str(seen[0]) for seen in flight.observed)),
        )
    )


def _nest(flight: Flight, parent: Flight) -> None:
    """A call inside another belongs to that one's run, whatever run it names: leaving a run is not its own choice."""
    call = flight.call
    if not is_own_child(call, parent.call):
        flight.foreign_parent = True  # ingest refuses it
        return
    parent.adopt_child()
    flight.is_child = True
    flight.run = parent.run
    if parent.call.run and call.run != parent.call.run:
        flight.call = replace(call, run=parent.call.run)


def is_own_child(call: Call, parent: Call) -> bool:
    """Whether who made ``call`` made ``parent`` too: a child frees its parent of its time limit and its slot. Of the
    same process where they came over a channel, which may hold agents of many names; over HTTP, of the same name."""
    return call.origin == parent.origin and (bool(call.origin) or call.agent.name == parent.agent.name)


def _answers_without_the_ledger(flight: Flight) -> bool:
    """Nothing was sent, or a person stopped it. Should the end never be written, a restart records an honest one."""
    killed = flight.verdict is not None and flight.verdict.cause is Cause.KILL
    return killed or flight.attempts == 0


def _may_have_run(flight: Flight) -> bool:
    """Whether anything of a call that a fault ended may have run: what is not proven counts as that it has."""
    sent = flight.attempt is not None and flight.attempt.sent
    return sent or flight.may_have_run or flight.attempts > 1


def _receipt_word(flight: Flight) -> str:
    answer = flight.answer
    if answer is None or not answer.done():
        return "unknown"
    kind = answer.result().kind
    if kind is OutcomeKind.NOT_EXECUTED:
        return "not_executed"
    return "unknown" if kind is OutcomeKind.UNKNOWN else "completed"


def _unrecorded(flight: Flight, outcome: Outcome, error: Exception) -> Outcome:
    """The end could not be written. A read's answer stands; of an effect nothing is acknowledged that is not recorded,
    and a restart will call it unknown."""
    effects = flight.plan is not None and flight.plan.effect.has_effects and flight.attempts > 0
    if not effects:
        return outcome
    detail = f"The call was sent, and its end could not be written to the ledger: {error}"
    return replace(
        outcome, kind=OutcomeKind.UNKNOWN, value=None, code=Code.LEDGER_UNAVAILABLE, detail=detail, retryable=False
    )


def problem_of(flight: Flight, outcome: Outcome) -> dict[str, Any]:
    """The problem object: what the caller may do next is said honestly in ``retryable`` and ``outcome``."""
    code = outcome.code or Code.INTERNAL
    retry_after_ms = None if outcome.retry_after_s is None else int(outcome.retry_after_s * 1000)
    effect = flight.plan.effect if flight.plan is not None else Effect.WRITE
    unsure = outcome.kind is OutcomeKind.UNKNOWN and effect.has_effects
    extensions: dict[str, Any] = {
        "retry_after_ms": retry_after_ms,
        "outcome": outcome.kind.value,
        "attempts": flight.attempts,
        "call_id": flight.call.id,
        "stage": outcome.stage or None,
        "rule": outcome.rule,
    }
    if outcome.retryable is not None:
        extensions["retryable"] = outcome.retryable
    if unsure:
        extensions["retryable"] = False
    if outcome.failure is not None and outcome.failure.status is not None:
        extensions["upstream_status"] = outcome.failure.status
    return problem(code, outcome.detail, status=_status(code, outcome), **extensions)


def _status(code: Code, outcome: Outcome) -> int | None:
    """An unknown outcome after a broken connection is the upstream's fault (502), after a timeout it is 504."""
    broken = outcome.failure is not None and outcome.failure.reason is not Reason.TIMEOUT
    return 502 if code is Code.OUTCOME_UNKNOWN and broken else None

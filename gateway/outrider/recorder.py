"""What the ledger is told of a call, event by event."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from outrider.agents.telling import DURABLE, Change
from outrider.calls import Agent, Attempt, Call, Outcome, OutcomeKind
from outrider.flight import Flight
from outrider.ledger.record import Event, EventType
from outrider.ledger.writer import Ledger
from outrider.policy.load import Policy
from outrider.policy.plans import LedgerSettings
from outrider.policy.rules import Decision
from outrider.runs import Run
from outrider.settings import Enforcement
from outrider.unresolved import GUARDED, Unresolved

Mutation = tuple[str, tuple[object, ...]]

TYPE_OF_CHANGE: Mapping[Change, EventType] = {
    "connected": EventType.AGENT_CONNECTED,
    "lost": EventType.AGENT_LOST,
    "left": EventType.AGENT_LOST,
    "seen": EventType.AGENT_SEEN,
    "declared": EventType.AGENT_DECLARED,
    "drifted": EventType.AGENT_DRIFTED,
}


def agent_ref(agent: Agent) -> dict[str, Any]:
    """The agent as a ledger line shows it; empty fields are left out."""
    ref: dict[str, Any] = {"name": agent.name, "asserted": agent.asserted}
    for key in ("framework", "owner", "instance"):
        if value := getattr(agent, key):
            ref[key] = value
    if agent.labels:
        ref["labels"] = dict(agent.labels)
    return ref


class Recorder:
    """Writes the events of calls. Nothing here waits but the futures it returns."""

    def __init__(self, ledger: Ledger, unresolved: Unresolved, enforcement: Enforcement) -> None:
        self._ledger = ledger
        self._unresolved = unresolved
        self._enforcement = enforcement

    # ── what nobody waits for is written while the upstream works, and before anything else is said of the call ───────

    def _soon(self, flight: Flight, write: Callable[[], object]) -> None:
        if not flight.unwritten:
            asyncio.get_running_loop().call_soon(_in_passing, flight)
        flight.unwritten.append(write)

    def received(self, flight: Flight) -> None:
        self._soon(flight, partial(self._received, flight, flight.call, _paths(flight)))

    def decided(self, flight: Flight, tool: str, decision: Decision) -> None:
        self._soon(flight, partial(self._decided, flight, tool, decision))

    def observed(self, flight: Flight, tool: str, refusal: Outcome, policy: Policy) -> None:
        """A refusal that ``policy`` only observes: the call went on."""
        self._soon(flight, partial(self._observed, flight, tool, refusal, policy.digest))

    def attempt_started(self, flight: Flight, attempt: Attempt) -> None:
        """Of a read."""
        self._soon(flight, partial(self._attempt_started, flight, attempt, _upstream(flight)))

    def intended(self, flight: Flight, attempt: Attempt) -> asyncio.Future[int]:
        """The start of an attempt with effects: on disk when the future resolves."""
        _write(flight)
        return self._attempt_started(flight, attempt, _upstream(flight))

    def committed(self, flight: Flight, attempt: Attempt) -> asyncio.Future[int]:
        """Something of an attempt's answer is about to reach the caller. Durable when the future resolves."""
        _write(flight)
        event = Event(
            type=EventType.ATTEMPT_COMMITTED,
            call_id=flight.call.id,
            attempt=attempt.n,
            agent={"name": flight.call.agent.name},
            tool=attempt.tool,
        )
        return self._ledger.append(event, durable=attempt.effect.has_effects, ahead=True)

    # ── the records ──────────────────────────────────────────────────────────────────────────────────────────────

    def _received(self, flight: Flight, call: Call, redact: tuple[str, ...]) -> None:
        event = Event(
            type=EventType.CALL_RECEIVED,
            call_id=call.id,
            parent_call_id=call.parent,
            run_id=call.run,
            session_id=call.session,
            caller_ref=call.caller_ref,
            agent=agent_ref(call.agent),
            principal=call.principal.name,
            on_behalf_of=call.principal.on_behalf_of,
            tool=call.tool,
            policy_digest=flight.policy.digest,
            trace_id=flight.traceparent[3:35],
            span_id=flight.trace.span_id if flight.trace is not None else "",
            enforcement="cooperative" if call.origin else self._enforcement,
            data={"declares": call.declares} if call.declares else {},
        )
        self._ledger.append(event, linger=True, args=call.args, redact=redact)

    def _decided(self, flight: Flight, tool: str, decision: Decision) -> None:
        data: dict[str, Any] = {}
        if decision.shadows:
            data["shadows"] = [{"rule": rule, "effect": effect} for rule, effect in decision.shadows]
        if decision.error:
            data["error"] = decision.error
        data |= _run_mark(flight)
        self._ledger.append(
            Event(
                type=EventType.CALL_DECIDED,
                call_id=flight.call.id,
                agent={"name": flight.call.agent.name},
                tool=tool,
                decision=decision.effect,
                rule=decision.rule or "",
                policy_digest=flight.policy.digest,
                data=data,
            ),
            linger=True,
        )

    def _observed(self, flight: Flight, tool: str, refusal: Outcome, policy_digest: str) -> None:
        event = Event(
            type=EventType.CALL_OBSERVED,
            call_id=flight.call.id,
            run_id=flight.call.run,
            agent={"name": flight.call.agent.name},
            tool=tool,
            code=refusal.code.value if refusal.code else "",
            detail=refusal.detail[:500],
            rule=refusal.rule or "",
            stage=refusal.stage,
            policy_digest=policy_digest,
        )
        self._ledger.append(event, linger=True)

    def _attempt_started(self, flight: Flight, attempt: Attempt, upstream: str) -> asyncio.Future[int]:
        call = flight.call
        event = Event(
            type=EventType.ATTEMPT_STARTED,
            call_id=call.id,
            attempt=attempt.n,
            run_id=call.run,
            agent=_who(call.agent),
            tool=attempt.tool,
            upstream=upstream,
            effect=attempt.effect.value,
            idempotency_key=attempt.idempotency_key,
            enforcement="cooperative" if upstream == "local" else self._enforcement,
            trace_id=_trace_id(flight),
            span_id=attempt.span_id,
            # what bars the same call should a crash leave this one open
            data=({"like": self._unresolved.key_of(call)} if attempt.effect in GUARDED else {})
            | (_run_mark(flight) if attempt.n > 1 else {}),
        )
        effects = attempt.effect.has_effects
        return self._ledger.append(event, durable=effects, linger=not effects)

    def attempt_finished(self, flight: Flight, attempt: Attempt, outcome: Outcome, took_s: float) -> None:
        _write(flight)
        failure = outcome.failure
        text = failure.text if failure is not None else outcome.detail
        event = Event(
            type=EventType.ATTEMPT_FINISHED,
            call_id=flight.call.id,
            attempt=attempt.n,
            agent={"name": flight.call.agent.name},
            tool=attempt.tool,
            outcome=outcome.kind.value,
            code=outcome.code.value if outcome.code else "",
            failure=failure.reason.value if failure is not None else "",
            status=(failure.status or 0) if failure is not None else 0,
            detail=text[:500],
            timing={"took_ms": round(took_s * 1000, 3)},
            trace_id=_trace_id(flight),
            span_id=attempt.span_id,
            result_digest=outcome.result_digest or "",
            result_bytes=outcome.result_bytes or 0,
        )
        strict = attempt.effect.has_effects and flight.policy.ledger.durability == "strict"
        flight.strict = flight.strict or strict
        self._ledger.append(event, durable=strict, linger=not strict)

    def finished(
        self, flight: Flight, outcome: Outcome, took_s: float, mutations: Sequence[Mutation]
    ) -> asyncio.Future[int]:
        """The call's one end. It survives this process when the future resolves; only then is the caller answered."""
        _write(flight)
        call = flight.call
        refused = flight.attempts == 0 and not outcome.ok
        event = Event(
            type=EventType.CALL_REFUSED if refused else EventType.CALL_FINISHED,
            call_id=call.id,
            run_id=call.run,
            agent={"name": call.agent.name},
            tool=call.tool,
            outcome=outcome.kind.value,
            code=outcome.code.value if outcome.code else "",
            detail=outcome.detail[:500],
            rule=outcome.rule or "",
            stage=outcome.stage,
            policy_digest=flight.policy.digest,
            timing={"total_ms": round(took_s * 1000, 3)},
            trace_id=_trace_id(flight),
            span_id=flight.trace.span_id if flight.trace is not None else "",
            data=_end_data(flight, outcome),
        )
        result = outcome.value if outcome.ok else None
        durable = bool(mutations) or flight.strict
        return self._ledger.append(
            event, durable=durable, ahead=True, result=result, redact=_paths(flight), mutations=tuple(mutations)
        )

    def settled(
        self,
        call_id: str,
        attempt: int | None,
        outcome: OutcomeKind,
        data: dict[str, Any],
        mutations: Sequence[Mutation],
    ) -> asyncio.Future[int]:
        """Later knowledge about an end that said unknown. It never rewrites that end."""
        kind = EventType.CALL_SETTLED if attempt is None else EventType.ATTEMPT_SETTLED
        event = Event(type=kind, call_id=call_id, attempt=attempt or 0, outcome=outcome.value, data=data)
        return self._ledger.append(event, durable=True, mutations=tuple(mutations))

    def agent_changed(
        self, change: Change, agent: Agent, data: dict[str, Any], mutations: Sequence[Mutation]
    ) -> asyncio.Future[int]:
        """Something of an agent, or one of its processes, changed. On disk when the future resolves."""
        if change in ("connected", "lost", "left"):
            data = {"change": change, **data}
        event = Event(type=TYPE_OF_CHANGE[change], agent=agent_ref(agent), data=data)
        durable = change in DURABLE
        return self._ledger.append(event, durable=durable, linger=not durable, mutations=tuple(mutations))

    def run_changed(
        self, type_: EventType, run: Run, data: dict[str, Any], mutations: Sequence[Mutation]
    ) -> asyncio.Future[int]:
        """A run was limited, ran away, or was resumed."""
        event = Event(
            type=type_,
            run_id=run.id,
            agent={"name": run.root},
            actor=data.pop("by", ""),
            reason=data.pop("reason", ""),
            data={**data, "owner": run.key[0]},
        )
        return self._ledger.append(event, durable=bool(mutations), mutations=tuple(mutations))

    def refuses_effects(self, settings: LedgerSettings) -> bool:
        """Whether the ledger is full, and the policy says that effects are then refused."""
        return settings.when_full == "refuse" and self._ledger.full


def _write(flight: Flight) -> None:
    while flight.unwritten:
        flight.unwritten[0]()
        del flight.unwritten[0]


def _in_passing(flight: Flight) -> None:
    """What fails here is tried again by whoever says the next thing of this call, and there it is that call's error."""
    with contextlib.suppress(Exception):
        _write(flight)


def _upstream(flight: Flight) -> str:
    assert flight.plan is not None
    return flight.plan.upstream.name


def _trace_id(flight: Flight) -> str:
    """Of a call that is traced here; its first record names the trace in any case."""
    return flight.trace.trace_id if flight.trace is not None else ""


def _who(agent: Agent) -> dict[str, Any]:
    return {"name": agent.name, "instance": agent.instance} if agent.instance else {"name": agent.name}


def _run_mark(flight: Flight) -> dict[str, Any]:
    """What the run has used up, where it is limited: a restart goes on from there."""
    run = flight.run
    return {} if run is None or run.guards is None else {"run": run.mark()}


def _paths(flight: Flight) -> tuple[str, ...]:
    plan = flight.plan or flight.policy.plan(flight.call.tool)
    return plan.redact if plan is not None else ()


def _end_data(flight: Flight, outcome: Outcome) -> dict[str, Any]:
    data: dict[str, Any] = {"attempts": flight.attempts}
    if flight.degraded_by:
        data["degraded_by"] = flight.degraded_by
    if flight.verdict is not None and flight.verdict.kill_id:
        data["kill_id"] = flight.verdict.kill_id
    return data

"""One trace of a call: decided at its beginning, gathered while it runs, made into spans at its end.

    [the framework's span]
      └ execute_tool TOOL      INTERNAL    the call, all its attempts and pauses
          ├ (event) outrider.retry, outrider.fallback
          ├ POST               CLIENT      attempt 1 over HTTP          └ the upstream's own spans
          ├ tools/call NAME    CLIENT      attempt 1 to an MCP server   └ the server's own spans, by ``_meta``
          └ attempt TOOL       CLIENT      attempt 2 in a process       └ the function's own spans

Whether a call is traced is decided before anything else: one that is not costs its decision and nothing more, and hands
on a context that says so. A traced call keeps a few numbers; its spans are plain data (``Span``) that hold nothing of
arguments and results, and are turned into protobuf on the exporter's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import msgspec

from outrider.calls import Attempt, Call, Outcome, Reason
from outrider.errors import Code
from outrider.ledger.redact import MAX_STORED_BYTES, Redactor
from outrider.policy.plans import LedgerSettings, Plan
from outrider.telemetry import semconv
from outrider.telemetry.attributes import Value, mcp_method, of_mcp, of_server
from outrider.telemetry.context import SAMPLED, UNSAMPLED, header, new_span_id, new_trace_id
from outrider.telemetry.environment import Sampler

MAX_TEXT: Final = 256
"""Characters of an attribute, of a span's name and of a status."""
MAX_CONTENT: Final = 4096
"""Of arguments and results, where somebody opted in."""
MAX_PARTS: Final = 64
"""Attempts of one trace, and its events; ``outrider.attempts`` tells all."""

log = logging.getLogger("outrider.telemetry")


@dataclass(slots=True)
class Event:
    """Something that happened during a span."""

    name: str
    at_ns: int
    attributes: dict[str, Value]


@dataclass(slots=True)
class Span:
    """A span as plain data. ``error`` is the status' sentence, None for a span that is no error."""

    trace_id: str
    span_id: str
    parent_id: str
    parent_is_remote: bool
    tracestate: str
    name: str
    is_client: bool
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    events: list[Event] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of a call at its end. ``ledger`` says what may be kept of arguments and results."""

    outcome: Outcome
    took_s: float
    attempts: int
    plan: Plan | None
    ledger: LedgerSettings
    decision: str
    rule: str
    policy_digest: str
    breaker: str
    kill_id: str
    degraded_by: str
    observed: str


Emit = Callable[[list[Span]], None]


class Trace:
    """A traced call under way."""

    __slots__ = (
        "_call", "_content", "_emit", "_events", "_received", "_spans", "_started_ns", "parent_id", "span_id",
        "trace_id",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        trace_id: str,
        parent_id: str,
        *,
        received: float,
        started_wall: float,
        emit: Emit,
        content: bool,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = new_span_id()
        self.parent_id = parent_id
        self._call = call
        self._received = received
        self._started_ns = int(started_wall * 1e9)
        self._emit = emit
        self._content = content
        self._spans: list[Span] = []
        self._events: list[Event] = []

    @property
    def traceparent(self) -> str:
        """The call's own span."""
        return header(self.trace_id, self.span_id, SAMPLED)

    def announce(self, attempt: Attempt) -> None:
        """Give the attempt a span of its own, whose context goes with it."""
        attempt.span_id = new_span_id()
        attempt.traceparent = header(self.trace_id, attempt.span_id, SAMPLED)

    def attempted(self, attempt: Attempt, plan: Plan, breaker: str, began: float, took_s: float, end: Outcome) -> None:
        """The attempt ended. ``breaker`` is the state in which it began."""
        if len(self._spans) >= MAX_PARTS:
            return
        try:
            attributes = _attempt_attributes(attempt, plan, breaker, end, self._sent_before(attempt.tool))
        except Exception:  # a fault in what is only looked at must not become one of the attempt
            log.exception("the span of an attempt could not be made")
            return
        self._spans.append(
            Span(
                trace_id=self.trace_id,
                span_id=attempt.span_id,
                parent_id=self.span_id,
                parent_is_remote=False,
                tracestate=self._call.tracestate,
                name=_attempt_name(plan),
                is_client=True,
                start_ns=self._ns(began),
                end_ns=self._ns(began + took_s),
                attributes=attributes,
                error=None if end.ok else _error_type(end, attempt),
            )
        )

    def _sent_before(self, tool: str) -> int:
        return sum(span.attributes.get(semconv.TOOL_NAME) == tool[:MAX_TEXT] for span in self._spans)

    def note(self, name: str, now: float, attributes: dict[str, Value]) -> None:
        """Something happened that is worth a mark in the call's span."""
        if len(self._events) < MAX_PARTS:
            cut = {key: value[:MAX_TEXT] if isinstance(value, str) else value for key, value in attributes.items()}
            self._events.append(Event(name, self._ns(now), cut))

    def end(self, ending: Ending) -> None:
        """The call ended: its span and those of its attempts are handed to the exporter."""
        call, outcome = self._call, ending.outcome
        attributes = _call_attributes(call, ending)
        if self._content:
            self._add_content(attributes, ending)
        self._spans.append(
            Span(
                trace_id=self.trace_id,
                span_id=self.span_id,
                parent_id=self.parent_id,
                parent_is_remote=True,
                tracestate=call.tracestate,
                name=f"{semconv.EXECUTE_TOOL} {call.tool}"[:MAX_TEXT],
                is_client=False,
                start_ns=self._started_ns,
                end_ns=self._ns(self._received + ending.took_s),
                attributes=attributes,
                events=self._events,
                error=None if outcome.ok else _code(outcome),
            )
        )
        self._emit(self._spans)

    def _ns(self, moment: float) -> int:
        """A moment of the monotonic clock as Unix time: the wall clock is asked once, so that no step of it bends
        a span."""
        return self._started_ns + round((moment - self._received) * 1e9)

    def _add_content(self, attributes: dict[str, Value], ending: Ending) -> None:
        """No more than the ledger keeps, and redacted as there."""
        paths = ending.plan.redact if ending.plan is not None else ()
        redactor, outcome = _redactor(ending.ledger.redact_keys), ending.outcome
        if ending.ledger.record_args:
            attributes[semconv.TOOL_ARGUMENTS] = _shown(redactor.redact("args", dict(self._call.args), paths))
        if not (ending.ledger.record_results and outcome.ok):
            return
        if (outcome.result_bytes or 0) > MAX_STORED_BYTES:
            attributes[semconv.TOOL_RESULT] = f"«{outcome.result_bytes} bytes»"
        else:
            attributes[semconv.TOOL_RESULT] = _shown(redactor.redact("result", outcome.value, paths))


class Traces:
    """Decides which calls are traced."""

    def __init__(self, sampler: Sampler, emit: Emit, *, content: bool = False) -> None:
        """``emit`` takes the spans of one call and returns at once. ``content``: redacted arguments and results too."""
        self._asks_parent = sampler.asks_parent
        self._bound = round(sampler.ratio * (1 << 64))
        self._emit = emit
        self._content = content

    def begin(self, call: Call, *, received: float, started_wall: float) -> tuple[Trace | None, str]:
        """The call's trace, None for one that is not traced; and the context that goes with the call."""
        parent = call.traceparent
        trace_id = parent[3:35] if parent else new_trace_id()
        if not self._samples(parent, trace_id):
            return None, f"{parent[:53]}{UNSAMPLED}" if parent else header(trace_id, new_span_id(), UNSAMPLED)
        trace = Trace(
            call,
            trace_id,
            parent[36:52],
            received=received,
            started_wall=started_wall,
            emit=self._emit,
            content=self._content,
        )
        return trace, trace.traceparent

    def _samples(self, parent: str, trace_id: str) -> bool:
        if parent and self._asks_parent:
            return bool(int(parent[53:], 16) & 1)
        return int(trace_id[16:], 16) < self._bound


# ── attributes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _call_attributes(call: Call, ending: Ending) -> dict[str, Value]:
    plan, agent, outcome = ending.plan, call.agent, ending.outcome
    local = call.upstream == "local" if plan is None else plan.upstream.kind == "local"
    found: dict[str, Any] = {
        semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
        semconv.TOOL_NAME: call.tool,
        semconv.TOOL_TYPE: semconv.FUNCTION if local else semconv.EXTENSION,
        semconv.TOOL_CALL_ID: call.caller_ref or call.id,
        semconv.AGENT_NAME: agent.name,
        semconv.AGENT_OWNER: agent.owner,
        semconv.AGENT_INSTANCE: agent.instance,
        semconv.CONVERSATION_ID: call.session,
        semconv.CALL_ID: call.id,
        semconv.PARENT_CALL_ID: call.parent,
        semconv.RUN_ID: call.run,
        semconv.DECISION: ending.decision,
        semconv.RULE: outcome.rule or ending.rule,
        semconv.POLICY_DIGEST: ending.policy_digest,
        semconv.OUTCOME: outcome.kind.value,
        semconv.BREAKER_STATE: ending.breaker,
        semconv.KILL_ID: ending.kill_id,
        semconv.DEGRADED_BY: ending.degraded_by,
        semconv.OBSERVED: ending.observed,
        semconv.STAGE: "" if outcome.ok else outcome.stage,
        semconv.ERROR_TYPE: "" if outcome.ok else _code(outcome),
    }
    if plan is not None:
        found[semconv.UPSTREAM] = plan.upstream.name
        found[semconv.EFFECT] = plan.effect.value
    return {**_kept(found), semconv.ATTEMPTS: ending.attempts}


def _attempt_name(plan: Plan) -> str:
    if plan.upstream.http is not None:
        return plan.http.method.upper()[:MAX_TEXT]
    if plan.upstream.mcp is not None:
        method, target = mcp_method(plan.tool)
        return f"{method} {target}".rstrip()[:MAX_TEXT]
    return f"{semconv.ATTEMPT} {plan.tool}"[:MAX_TEXT]


def _attempt_attributes(attempt: Attempt, plan: Plan, breaker: str, end: Outcome, resends: int) -> dict[str, Value]:
    found: dict[str, Any] = {
        semconv.TOOL_NAME: attempt.tool,
        semconv.UPSTREAM: plan.upstream.name,
        semconv.EFFECT: attempt.effect.value,
        semconv.ATTEMPT_NUMBER: attempt.n,
        semconv.OUTCOME: end.kind.value,
        semconv.BREAKER_STATE: breaker,
        semconv.ERROR_TYPE: "" if end.ok else _error_type(end, attempt),
    }
    if plan.upstream.mcp is not None:
        found.update(of_mcp(attempt, plan.upstream.mcp))
    if plan.upstream.http is not None:
        found.update(of_server(plan.upstream.http.url))
        found[semconv.HTTP_METHOD] = plan.http.method.upper()
        found[semconv.URL_TEMPLATE] = plan.http.path or f"/{attempt.tool.partition('.')[2]}"
        found[semconv.HTTP_STATUS] = attempt.status
        found[semconv.HTTP_RESENDS] = resends
    return _kept(found)


def _code(outcome: Outcome) -> str:
    """The status of a span too: the sentence beside it may quote what the upstream said, which is content."""
    return (outcome.code or Code.INTERNAL).value


def _error_type(end: Outcome, attempt: Attempt) -> str:
    failure = end.failure
    if attempt.rpc is not None and failure is not None and failure.status is None:
        if attempt.rpc.code:
            return attempt.rpc.code
        if failure.reason is Reason.RAISED:
            return semconv.TOOL_ERROR
    if failure is None:
        return _code(end)
    return str(failure.status) if failure.reason is Reason.STATUS and failure.status else failure.reason.value


def _kept(found: Mapping[str, Any]) -> dict[str, Value]:
    """Without what is empty, and bounded: names are the caller's."""
    return {name: value[:MAX_TEXT] if type(value) is str else value for name, value in found.items() if value}


@lru_cache(maxsize=8)
def _redactor(keys: tuple[str, ...]) -> Redactor:
    return Redactor(keys)


def _shown(value: Any) -> str:
    try:
        text = msgspec.json.encode(value, enc_hook=str).decode()
    except Exception:  # a foreign object's __str__ may raise anything
        return f"«{type(value).__name__}, not JSON»"
    return text if len(text) <= MAX_CONTENT else f"{text[:MAX_CONTENT]}…"

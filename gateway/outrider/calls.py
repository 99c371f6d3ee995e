"""The frozen types that everyone speaks: a call, its attempts, and what became of them.

Light on purpose: an agent's process imports this file, so it imports nothing outside the standard library.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from outrider.errors import Code

if TYPE_CHECKING:
    from asyncio import Future


class Effect(StrEnum):
    """What repeating a tool would do."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    KEYED = "keyed"  # the upstream deduplicates on a key that we send
    WRITE = "write"  # the default when unknown

    @property
    def has_effects(self) -> bool:
        """Whether an intent must be durable before it is sent: everything but a read."""
        return self is not Effect.READ

    @property
    def repeatable(self) -> bool:
        """Whether sending twice is harmless: everything but a write."""
        return self is not Effect.WRITE


class OutcomeKind(StrEnum):
    """What became of an attempt, and of a call."""

    OK = "ok"
    DEFINITE = "definite"  # it ran or was judged, and failed
    NOT_EXECUTED = "not_executed"  # provably never ran
    UNKNOWN = "unknown"  # may have run
    SUSPENDED = "suspended"  # the tool asked for input or for a person


class Reason(StrEnum):
    """How an attempt failed; ``retryOn`` in a policy speaks these words."""

    CONNECT = "connect"  # refused, unresolved, TLS, no answer to the connect: never sent
    RESET = "reset"  # the connection broke after sending
    TIMEOUT = "timeout"  # the per-try timeout passed after sending
    STATUS = "status"  # an HTTP status that says failure
    RAISED = "raised"  # a function raised
    PROTOCOL = "protocol"  # an answer that is not HTTP, not whole or too large
    AGENT_GONE = "agent_gone"  # the process that holds the function is not connected
    NOT_STARTED = "not_started"  # the adapter proved that the function never began
    STOPPED = "stopped"  # a kill, the deadline or the caller's leaving ended it


@dataclass(frozen=True, slots=True)
class Failure:
    """How one attempt failed. ``types`` are qualified exception names along the MRO, most specific first."""

    reason: Reason
    text: str = ""
    status: int | None = None
    retry_after_s: float | None = None
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt or a call. Outcomes are values; exceptions are for bugs.

    ``value`` is the result when ``kind`` is ok: JSON, or for an in-process tool the view of it.
    ``code`` is set on everything that is not ok and is the problem the caller reads.
    """

    kind: OutcomeKind
    value: Any = None
    code: Code | None = None
    detail: str = ""
    failure: Failure | None = None
    retry_after_s: float | None = None
    retryable: bool | None = None  # None: as the table of codes says
    stage: str = ""
    rule: str | None = None
    degraded: bool = False
    use: int | None = None  # in-process: hand back the object of this attempt
    result_digest: str | None = None  # in-process: sha256 of the whole result, of which value is a view
    result_bytes: int | None = None

    @property
    def ok(self) -> bool:
        return self.kind is OutcomeKind.OK


@dataclass(frozen=True, slots=True)
class Agent:
    """Who calls: a named piece of software. ``asserted``: the name is the caller's own word, not proven."""

    name: str = "anonymous"
    framework: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    instance: str = ""
    asserted: bool = True


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose credential: ``token:agent`` for the shared agents' token (``channel:<instance>`` behind a channel),
    ``token:<id>`` for a token of an agent's own, ``jwt:<subject>``. ``on_behalf_of``: for whom the agent acts, where a
    JWT says so. ``tools``: the only ones that may be called with it, () for no such limit. ``credential`` is what was
    shown; ``identity`` knows what became of it since. ``holder`` is who has it, where that outlasts the name: a token
    is replaced by another, its agent stays."""

    name: str = "token:agent"
    on_behalf_of: str = ""
    tools: tuple[str, ...] = ()
    credential: object | None = field(default=None, repr=False, compare=False)
    holder: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One logical tool call: one id, one answer.

    ``id`` is a UUIDv7 minted by the gateway; ``caller_ref`` is what the framework calls it. ``deadline_ms`` is
    what the caller is willing to wait, relative, None for "the policy's word". ``origin`` names the channel session
    that holds the function of an in-process tool and is empty for a call over HTTP.
    """

    id: str
    tool: str
    args: Mapping[str, Any]
    agent: Agent
    principal: Principal = Principal()
    run: str = ""
    session: str = ""
    parent: str = ""
    caller_ref: str = ""
    deadline_ms: int | None = None
    traceparent: str = ""
    tracestate: str = ""
    origin: str = ""
    framework_tool: str = ""
    assumed: Effect | None = None  # by the HTTP method of a raw request; what the policy says of the tool comes first
    declares: str = ""  # the effect that the tool's own annotations claim; a hint for people, it decides nothing

    @property
    def upstream(self) -> str:
        """The tool's group: the part before the first dot."""
        return self.tool.partition(".")[0]

    @property
    def operation(self) -> str:
        """The tool's name inside its group."""
        return self.tool.partition(".")[2]


@dataclass(frozen=True, slots=True)
class Rpc:
    """What is told of one JSON-RPC request: the version of MCP, its id, and the code of its error, empty for none."""

    version: str
    id: int
    code: str = ""


@dataclass(slots=True)
class Attempt:
    """One sending of a call. The upstream sets ``sent`` as soon as a byte may have left; it is what tells
    not_executed from unknown when the attempt is interrupted. It sets ``still_running`` before it tells an outcome
    after which the function may run on; the attempt's slot is held until that is done, whatever it is done with."""

    call: Call
    n: int
    tool: str
    effect: Effect
    idempotency_key: str = ""
    sent: bool = False
    deadline_ms: int | None = None  # what remains of the call's total deadline, told to the upstream
    still_running: Future[None] | None = None
    caller: object | None = None  # the caller's side, for an exchange that is more than one question and one answer
    commit: Callable[[], Awaitable[bool]] | None = None  # see ``stages.journal``
    committed: bool = False  # something of it has reached the caller, or the caller was asked: never repeated
    lift: Callable[[bool], None] | None = None  # see ``stages.send``
    spent: bool = False  # what it sent was read from a stream and cannot be sent again
    status: int | None = None  # of an HTTP answer, set by the upstream
    rpc: Rpc | None = None  # of an MCP request, set by the upstream
    traceparent: str = ""  # the context that goes with it
    span_id: str = ""  # of its own span, empty where the call is not traced

"""The channel's frames and the HTTP bodies, versioned; shared by the gateway and the adapters.

The channel is one WebSocket for each process, JSON text in frames, ``type`` says which. Unknown fields are ignored, so
that either side may be newer. Times are relative milliseconds: two processes share no clock.

    adapter → gateway   hello  open  finished  aborted  ended  cancel  heartbeat  bye
    gateway → adapter   welcome  execute  closed  abort  ack  lifecycle  problem

A call's way: ``open`` → (``execute`` → ``finished`` → ``ack``)* → ``closed``. With ``on_ok: report`` the adapter hands
a good result to the framework at once, and ``closed`` merely confirms it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

PROTOCOL = 1
"""The newest version of the channel this build speaks; ``OLDEST_PROTOCOL`` the oldest it still does."""
OLDEST_PROTOCOL = 1
VIEW_BYTES = 64 * 1024
"""The most of a result that travels as a view."""
FRAME_BYTES = 1024 * 1024
"""The largest frame either side sends; larger ones would make aiohttp close the whole WebSocket."""


class Frame(msgspec.Struct, tag_field="type", omit_defaults=True, frozen=True):
    """Root of all frames."""


class Raised(msgspec.Struct, omit_defaults=True, frozen=True):
    """An exception as the adapter saw it: ``mro`` are qualified names (``module.Class``), most specific first."""

    type: str
    text: str = ""
    mro: tuple[str, ...] = ()
    status: int | None = None
    retry_after_s: float | None = None


class Running(msgspec.Struct, frozen=True):
    """An attempt that this process was told to execute and that has not ended."""

    call: str
    n: int


class Tool(msgspec.Struct, omit_defaults=True, frozen=True):
    """A tool that the process declares: its name and the digest of its schema and description."""

    name: str
    digest: str = ""


# ── adapter → gateway ────────────────────────────────────────────────────────────────────────────────────────────


class Finished(Frame, tag="finished", frozen=True):
    """What became of an attempt. Spooled by the adapter until acked; the first one wins.

    ``raised`` is None when it returned. ``state`` is ``not_started`` when ``start_by_ms`` passed before it could begin,
    ``timed_out`` when the adapter gave up waiting (the thread may still run until ``ended``), ``suspended`` when the
    framework interrupted itself to ask a person.
    """

    call: str
    n: int
    state: Literal["returned", "raised", "not_started", "timed_out", "suspended", "cancelled"] = "returned"
    raised: Raised | None = None
    view: Any = None
    digest: str = ""
    size: int = 0
    took_ms: float = 0.0


class Hello(Frame, tag="hello", frozen=True):
    """The first frame. ``session_key`` is minted once per process and proves a reconnect is the same process."""

    protocol: int
    agent: str
    framework: str
    instance: str
    session_key: str
    features: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    host: str = ""
    pid: int = 0
    epoch: int | None = None
    oldest_protocol: int = 0  # the oldest version this adapter still speaks; 0: any
    tools: tuple[Tool, ...] = ()
    running: tuple[Running, ...] = ()
    unacked: tuple[Finished, ...] = ()
    opens: tuple[str, ...] = ()  # refs of calls that still wait for their answer, after a reconnection


class Open(Frame, tag="open", frozen=True):
    """A tool call begins. ``ref`` is the adapter's own id, unique in its session. ``tool`` is ``local.search`` for an
    in-process function; ``agent`` overrides hello's for processes that hold several."""

    ref: str
    tool: str
    args: dict[str, Any] = {}
    agent: str = ""
    run: str = ""
    session: str = ""
    parent: str = ""
    caller_ref: str = ""
    deadline_ms: int | None = None
    traceparent: str = ""
    framework_tool: str = ""
    tracestate: str = ""
    declares: str = ""  # the effect that the tool's own annotations claim: read, idempotent or write
    digest: str = ""  # of the tool's schema and description: with its first call on a connection, and when it changed


class Aborted(Frame, tag="aborted", frozen=True):
    """The answer to ``abort``. ``not_started`` is a proof: the function never began and never will."""

    call: str
    n: int
    state: Literal["not_started", "running", "done"]


class Ended(Frame, tag="ended", frozen=True):
    """An abandoned thread really ended: its slot is free. Sent beside ``finished`` where that came too late."""

    call: str
    n: int


class Cancel(Frame, tag="cancel", frozen=True):
    """The caller gave up waiting for ``ref``."""

    ref: str


class Heartbeat(Frame, tag="heartbeat", frozen=True):
    """Still here."""


class Bye(Frame, tag="bye", frozen=True):
    """An orderly end; the agent is gone, not lost."""

    reason: str = ""


# ── gateway → adapter ────────────────────────────────────────────────────────────────────────────────────────────


class Limits(msgspec.Struct, omit_defaults=True, frozen=True):
    """What the gateway accepts on this channel."""

    frame_bytes: int = FRAME_BYTES
    view_bytes: int = VIEW_BYTES
    heartbeat_ms: int = 5000
    max_open: int = 1000


class Welcome(Frame, tag="welcome", frozen=True):
    """The answer to ``hello``. ``kills`` are the scopes engaged now, so that a reconnected adapter gates at once.

    ``opens``: those of hello's that are under way here and go on. An answer that was given meanwhile follows at once;
    of a ref that is in neither, nobody knows anything."""

    protocol: int
    incarnation: str
    agent: str
    limits: Limits = Limits()
    kills: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()


class Execute(Frame, tag="execute", frozen=True):
    """Run attempt ``n`` now. Not begun within ``start_by_ms``: answer ``finished`` with state ``not_started``.

    ``timeout_ms`` 0 means none. ``args`` is None: use the ones of ``open``. ``ref`` of ``open`` is repeated.
    ``traceparent`` is the attempt's own span, empty where the call is not traced.
    """

    ref: str
    call: str
    n: int
    timeout_ms: int = 0
    start_by_ms: int = 0
    args: dict[str, Any] | None = None
    on_ok: Literal["report", "await"] = "await"
    placement: Literal["", "thread", "caller"] = ""
    composite: bool = False
    traceparent: str = ""


class Closed(Frame, tag="closed", frozen=True):
    """The call's one answer. Exactly one of: ``use`` (hand back the object of that attempt), ``problem``, or
    ``result`` (a value the gateway made: a fallback, an upstream's answer)."""

    ref: str
    call: str
    outcome: str
    use: int | None = None
    result: Any = None
    problem: dict[str, Any] | None = None
    attempts: int = 0
    degraded: bool = False


class Abort(Frame, tag="abort", frozen=True):
    """Stop attempt ``n``: do not begin it; if it runs, cancel what can be cancelled. Answer ``aborted`` at once."""

    call: str
    n: int
    reason: str = ""


class Ack(Frame, tag="ack", frozen=True):
    """This ``finished`` is durable; forget it. ``state`` is the one it said: another one spooled meanwhile (the truth
    after ``timed_out``) is not acked by this."""

    call: str
    n: int
    state: str = ""


class Lifecycle(Frame, tag="lifecycle", frozen=True):
    """Something changed: ``killed`` / ``revived`` (scope in ``reason``), ``draining`` (the sidecar). With ``agent``:
    what a person commanded of it, ``cordoned``, ``paused``, ``draining``, ``retired`` or ``open``."""

    state: str
    reason: str = ""
    agent: str = ""


class ProblemFrame(Frame, tag="problem", frozen=True):
    """The session or one ``open`` is refused. ``fatal``: do not reconnect until something changed."""

    problem: dict[str, Any]
    ref: str = ""
    fatal: bool = False


FromAdapter = Hello | Open | Finished | Aborted | Ended | Cancel | Heartbeat | Bye
FromGateway = Welcome | Execute | Closed | Abort | Ack | Lifecycle | ProblemFrame

encode_frame = msgspec.json.Encoder(enc_hook=str).encode
decode_from_adapter: msgspec.json.Decoder[FromAdapter] = msgspec.json.Decoder(FromAdapter)
decode_from_gateway: msgspec.json.Decoder[FromGateway] = msgspec.json.Decoder(FromGateway)


# ── HTTP bodies ──────────────────────────────────────────────────────────────────────────────────────────────────


class CallBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """``POST /v1/call``."""

    tool: str
    args: dict[str, Any] = {}
    agent: str | None = None
    run: str | None = None
    session: str | None = None
    parent: str | None = None
    caller_ref: str | None = None


class CallAnswer(msgspec.Struct, frozen=True):
    """``200`` of ``POST /v1/call``."""

    call_id: str
    outcome: str
    result: Any
    attempts: int
    degraded: bool

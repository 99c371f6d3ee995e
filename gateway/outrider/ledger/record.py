"""One record of the ledger: its fields, its one line of JSON, its hash.

A line is what is hashed, byte for byte, so that nobody needs a canonical form to verify it:

    hash(line) = SHA-256(0x00 ‖ line)          (the leaf hash of RFC 9162, section 2.1.1)
    line       = {"v", "log_id", "seq", "prev", "id", "ts", "mono_ns", "incarnation", …fields of Event…, …digests…}

``prev`` is the hash of the line before, ``GENESIS`` for the first. ``seq`` counts from 1 without gaps.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Final

import msgspec

from outrider import clock

VERSION: Final = 1
GENESIS: Final = "0" * 64
MAX_LINE_BYTES: Final = 64 * 1024
"""A longer line is cut to what identifies it. Arguments and results are never in the line."""
MAX_TEXT_CHARS: Final = 2000
"""Of each text in a line that had to be cut."""


class EventType(StrEnum):
    """What a record says happened."""

    CALL_RECEIVED = "call.received"
    CALL_REFUSED = "call.refused"
    CALL_DECIDED = "call.decided"
    CALL_OBSERVED = "call.observed"
    ATTEMPT_STARTED = "attempt.started"
    ATTEMPT_COMMITTED = "attempt.committed"
    ATTEMPT_FINISHED = "attempt.finished"
    ATTEMPT_SETTLED = "attempt.settled"
    CALL_FINISHED = "call.finished"
    CALL_SETTLED = "call.settled"
    KILL_ENGAGED = "kill.engaged"
    KILL_LIFTED = "kill.lifted"
    KILL_REACHED = "kill.reached"
    KILLS_REMEMBERED = "kills.remembered"
    TOKEN_ISSUED = "token.issued"  # noqa: S105  # a kind of record, no password
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    CREDENTIALS_REVOKED = "credentials.revoked"
    POLICY_LOADED = "policy.loaded"
    POLICY_REJECTED = "policy.rejected"
    AGENT_CONNECTED = "agent.connected"
    AGENT_LOST = "agent.lost"
    AGENT_SEEN = "agent.seen"
    AGENT_DECLARED = "agent.declared"
    AGENT_DRIFTED = "agent.drifted"
    AGENT_ACCEPTED = "agent.accepted"
    AGENT_COMMANDED = "agent.commanded"
    AGENT_DRAINED = "agent.drained"
    TOOLS_PINNED = "tools.pinned"
    TOOLS_DRIFTED = "tools.drifted"
    TOOLS_ACCEPTED = "tools.accepted"
    RUN_LIMITED = "run.limited"
    RUN_RUNAWAY = "run.runaway"
    RUN_RESUMED = "run.resumed"
    RECOVERED = "recovered"
    PAYLOAD_ERASED = "payload.erased"
    SIDECAR_STARTED = "sidecar.started"
    SIDECAR_STOPPED = "sidecar.stopped"


STARTS: Final = frozenset({EventType.CALL_RECEIVED, EventType.CALL_DECIDED, EventType.ATTEMPT_STARTED})
"""Records without which something new must not begin. Every other one says what has already happened: while the ledger
cannot be written those wait for it, and these are refused at once."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a caller records. Every field but ``type`` may be left out, and is then not in the line.

    ``agent`` is {name, instance, framework, version, labels, owner, asserted}; ``timing`` maps names to milliseconds;
    ``data`` is free. ``result_digest`` and ``result_bytes`` need setting only for a result that stayed in the agent's
    process (of which the ledger sees a view); the writer fills them in for the rest.
    """

    type: EventType
    call_id: str = ""
    attempt: int = 0
    parent_call_id: str = ""
    run_id: str = ""
    session_id: str = ""
    caller_ref: str = ""
    agent: dict[str, Any] = {}
    principal: str = ""
    on_behalf_of: str = ""
    tool: str = ""
    upstream: str = ""
    effect: str = ""
    outcome: str = ""
    code: str = ""
    failure: str = ""
    status: int = 0
    detail: str = ""
    stage: str = ""
    decision: str = ""
    rule: str = ""
    policy_digest: str = ""
    idempotency_key: str = ""
    actor: str = ""
    reason: str = ""
    enforcement: str = ""
    timing: dict[str, float] = {}
    trace_id: str = ""
    span_id: str = ""
    args_digest: str = ""
    result_digest: str = ""
    result_bytes: int = 0
    data: dict[str, Any] = {}


_encoder = msgspec.json.Encoder(enc_hook=str)


def leaf_hash(line: bytes) -> bytes:
    """SHA-256(0x00 ‖ line)."""
    return hashlib.sha256(b"\0" + line).digest()


def encode_event(event: Event) -> tuple[Event, bytes]:
    """The event and its JSON object. An event that cannot be written as it is (not JSON, text that is not Unicode, too
    long) comes back cut to what can: a record of what happened is never lost over its trimmings."""
    try:
        body = _encoder.encode(event)
    except Exception:  # a foreign object's __str__ may raise anything
        body = b""
    if 0 < len(body) <= MAX_LINE_BYTES:
        return event, body
    cut = _cut(event, len(body))
    return cut, _encoder.encode(cut)


def _cut(event: Event, size: int) -> Event:
    """Only short clean text and numbers; ``data`` says what became of it."""
    fields: dict[str, Any] = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, str):
            fields[name] = _clean(value)
        elif isinstance(value, dict):
            fields[name] = {_clean(str(key), 64): _plain(item) for key, item in list(value.items())[:16]}
        else:
            fields[name] = value
    fields["type"] = event.type
    fields["data"] = {"cut": True, "bytes": size}
    return Event(**fields)


def _clean(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    return text[:limit].encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    """Numbers and truth values as they are, anything else as short text."""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    try:
        return _clean(str(value), 200)
    except Exception:  # a foreign object's __str__ may raise anything
        return type(value).__name__


class Stamps:
    """RFC 3339 text of a moment; the part above the seconds is made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def text(self, ts_us: int) -> str:
        """``2026-11-22T15:04:05.000001Z`` for microseconds since the epoch."""
        second, micros = divmod(ts_us, 1_000_000)
        if second != self._second:
            self._second = second
            self._prefix = clock.stamp(second)[:20]
        return f"{self._prefix}{micros:06d}Z"


class Line(msgspec.Struct, frozen=True):
    """What readers of a line need of it; unknown fields are ignored, so that a newer line can be read."""

    v: int
    log_id: str
    seq: int
    prev: str
    ts: str
    type: str
    call_id: str = ""
    attempt: int = 0
    agent: dict[str, Any] = {}
    tool: str = ""
    args_digest: str = ""
    args_stored: str = ""
    result_digest: str = ""
    result_stored: str = ""


decode_line: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
decode_record: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])

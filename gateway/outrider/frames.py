"""What an adapter may say on the channel, and how a call's answer is written for it. Pure functions, no sockets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code, problem
from outrider.flight import Flight
from outrider.wire import (
    FRAME_BYTES,
    OLDEST_PROTOCOL,
    PROTOCOL,
    VIEW_BYTES,
    Closed,
    Finished,
    FromAdapter,
    Hello,
    Open,
    ProblemFrame,
    decode_from_adapter,
    encode_frame,
)

log = logging.getLogger("outrider.channel")

MAX_CHARS = 200
"""The longest name in a frame, as on the data plane's other routes."""
MIN_KEY_CHARS = 16
MAX_DEADLINE_MS = 86_400_000
VIEW_FRAME_BYTES = 2 * VIEW_BYTES
"""A ``finished`` larger than this has a view that nobody should send; its digest and size are kept."""


class Malformed(ValueError):
    """A frame that may not be; the sentence says why. ``ref`` names the call that waits for it, where one does."""

    def __init__(self, detail: str, *, ref: str = "", code: Code = Code.INVALID_REQUEST) -> None:
        super().__init__(detail)
        self.ref = ref
        self.code = code

    def frame(self) -> bytes:
        """What the adapter is told."""
        return encode_frame(ProblemFrame(problem(self.code, str(self)), ref=self.ref))


class _Ref(msgspec.Struct):
    """All that is looked for in a frame that does not fit: whose call is waiting."""

    ref: str = ""


_decode = decode_from_adapter.decode
_decode_ref = msgspec.json.Decoder(_Ref).decode


def decoded(data: bytes) -> FromAdapter:
    """A frame of an adapter. Raises Malformed."""
    try:
        frame = _decode(data)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise Malformed(f"The frame is not one of the channel's: {error}.", ref=_ref_in(data)) from None
    if type(frame) is Finished and len(data) > VIEW_FRAME_BYTES:
        return msgspec.structs.replace(frame, view=None)
    return frame


def _ref_in(data: bytes) -> str:
    try:
        return _decode_ref(data).ref
    except (ValueError, RecursionError):
        return ""


# ── hello and open ───────────────────────────────────────────────────────────────────────────────────────────────


def check_hello(frame: FromAdapter) -> Hello:
    """The hello that a connection begins with. Raises Malformed with how to mend it."""
    if not isinstance(frame, Hello):
        raise Malformed("The first frame is not hello.")
    if frame.protocol < OLDEST_PROTOCOL:
        raise Malformed(
            f"This adapter speaks version {frame.protocol} of the channel, and this sidecar {OLDEST_PROTOCOL} to "
            f"{PROTOCOL}. Install a newer outrider where the agent runs."
        )
    if frame.oldest_protocol > PROTOCOL:
        raise Malformed(
            f"This adapter speaks version {frame.oldest_protocol} of the channel and newer, and this sidecar only up "
            f"to {PROTOCOL}. Install a newer outrider where the sidecar runs."
        )
    names = {"agent": frame.agent, "instance": frame.instance, "session_key": frame.session_key}
    for field, name in names.items():
        if not name:
            raise Malformed(f"hello has no {field}.")
        _check_name(field, name)
    _check_name("framework", frame.framework)
    _check_blanks("agent", frame.agent)
    if len(frame.session_key) < MIN_KEY_CHARS:
        raise Malformed(f"hello's session_key is shorter than {MIN_KEY_CHARS} characters; it must not be guessable.")
    return frame


def check_open(frame: Open) -> None:
    """Raises Malformed for a call that cannot be."""
    ref = frame.ref
    if not ref or len(ref) > MAX_CHARS:
        raise Malformed(f"open's ref must have 1 to {MAX_CHARS} characters.")
    if not frame.tool:
        raise Malformed("open names no tool.", ref=ref)
    together = (
        frame.tool, frame.agent, frame.run, frame.session, frame.parent, frame.caller_ref, frame.framework_tool,
        frame.digest, frame.declares,
    )  # fmt: skip
    if not (max(map(len, together)) <= MAX_CHARS and "".join(together).isprintable()):
        for field in (
            "tool",
            "agent",
            "run",
            "session",
            "parent",
            "caller_ref",
            "framework_tool",
            "digest",
            "declares",
        ):
            _check_name(field, getattr(frame, field), ref)
    _check_blanks("agent", frame.agent, ref)
    _check_blanks("run", frame.run, ref)
    if frame.deadline_ms is not None and not 0 < frame.deadline_ms <= MAX_DEADLINE_MS:
        raise Malformed(f"deadline_ms is from 1 to {MAX_DEADLINE_MS}, not {frame.deadline_ms}.", ref=ref)


def _check_name(field: str, name: str, ref: str = "") -> None:
    if len(name) > MAX_CHARS:
        raise Malformed(f"'{field}' is longer than {MAX_CHARS} characters.", ref=ref)
    if not name.isprintable():
        raise Malformed(f"'{field}' holds characters that cannot be printed.", ref=ref)


def _check_blanks(field: str, name: str, ref: str = "") -> None:
    """What people name to stop it must be what they see."""
    if name != name.strip():
        raise Malformed(f"'{field}' has blanks around it; leave them out.", ref=ref)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

ProblemOf = Callable[[Flight, Outcome], dict[str, Any]]


def encode_answer(ref: str, flight: Flight, outcome: Outcome, problem_of: ProblemOf) -> bytes:
    """The ``closed`` frame. A result that no frame holds becomes a problem that says so: the tool ran all the same."""
    try:
        data = encode_frame(_closed(ref, flight, outcome, problem_of))
    except Exception as error:
        log.warning("the answer of call %s cannot be written as JSON: %s", flight.call.id, error)
        return encode_undeliverable(ref, flight, f"its result cannot be written as JSON ({error})")
    if len(data) <= FRAME_BYTES:
        return data
    return encode_undeliverable(ref, flight, f"its result takes {len(data)} bytes and a frame holds {FRAME_BYTES}")


def encode_undeliverable(ref: str, flight: Flight, why: str) -> bytes:
    """The ``closed`` frame of a call that ended, and whose answer cannot be handed over."""
    told = problem(
        Code.TOO_LARGE,
        f"The call to {flight.call.tool} ended, but {why}. Do not repeat it; ask for less at once.",
        outcome=OutcomeKind.DEFINITE.value,
        attempts=flight.attempts,
        call_id=flight.call.id,
    )
    frame = Closed(ref, flight.call.id, OutcomeKind.DEFINITE.value, problem=told, attempts=flight.attempts)
    return encode_frame(frame)


def _closed(ref: str, flight: Flight, outcome: Outcome, problem_of: ProblemOf) -> Closed:
    use, result, told = None, None, None
    if outcome.use is not None and outcome.kind in (OutcomeKind.OK, OutcomeKind.SUSPENDED):
        use = outcome.use
    elif outcome.ok:
        result = outcome.value
    else:
        told = problem_of(flight, outcome)
    return Closed(
        ref=ref,
        call=flight.call.id,
        outcome=outcome.kind.value,
        use=use,
        result=result,
        problem=told,
        attempts=flight.attempts,
        degraded=outcome.degraded,
    )

"""Raw HTTP to an upstream: one request on the wire for each attempt, both bodies as they come, in constant memory.

An answer that is short, or that says failure, is kept until it is whole: the call's end is then recorded before any of
it is passed on, and a failure may be followed by another attempt. Everything else is passed on as it comes, and the
first byte of that commits the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from outrider import clock
from outrider.calls import Attempt, Effect, Failure, Outcome, OutcomeKind, Reason
from outrider.domains.backoff import parse_retry_after
from outrider.errors import Code
from outrider.policy.plans import HttpUpstream, Plan
from outrider.upstreams.raw_caller import CallerGone, RawCaller, Said, Upload
from outrider.upstreams.statuses import kind_of
from outrider.upstreams.streaming import Head, Headers, Incoming, StreamConnection, StreamOrigin

KEPT_BYTES: Final = 64 * 1024
"""An answer of at most so many bytes, or a failure's first so many, are kept."""
OF_THE_CALLER: Final = frozenset({b"gateway-attempt", b"gateway-timeout-ms", b"traceparent", b"tracestate"})
"""Headers that say something of an attempt: ours take the place of the caller's."""


@dataclass(slots=True)
class _Passage:
    """How far one attempt came."""

    attempt: Attempt
    plan: Plan
    caller: RawCaller
    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    streaming: bool = False

    def took(self, part: bytes) -> None:
        self.size += len(part)
        self.digest.update(part)


class _Stalled(Exception):
    """Nothing moved for ``timeouts.idle``. ``caller``: it was the caller's turn."""

    def __init__(self, caller: bool) -> None:
        super().__init__()
        self.caller = caller


class RawDriver:
    """Sends raw requests to one HTTP upstream."""

    def __init__(self, settings: HttpUpstream, context: ssl.SSLContext | None, headers: Mapping[str, str]) -> None:
        self._settings = settings
        self._origin = StreamOrigin(settings.url, context, use_env_proxy=settings.use_env_proxy)
        self._own = tuple((name.encode(), value.encode()) for name, value in headers.items())
        self._own_names = {name.lower() for name, _ in self._own} | OF_THE_CALLER

    async def send(self, attempt: Attempt, plan: Plan, caller: RawCaller) -> Outcome:
        """One sending. Failures are outcomes, as with every driver."""
        caller.whole = None
        passage = _Passage(attempt, plan, caller)
        try:
            head = self._origin.head(caller.method, caller.target, self._headers(attempt, plan, caller))
            connection = cast(StreamConnection, await self._origin.take(plan.timeouts.connect_s))
        except (OSError, ValueError) as error:
            return _broken(passage, error)
        whole = False
        try:
            incoming = self._begin(connection, head, passage)
            outcome, whole = await self._exchange(connection, incoming, passage)
            return outcome
        except (OSError, ValueError) as error:
            return _broken(passage, error)
        except CallerGone:
            return _left(passage)
        except _Stalled as stalled:
            return _stalled(passage, stalled)
        finally:
            connection.end(whole=whole)
            self._origin.give_back(connection)
            if passage.streaming and not whole:
                caller.reset()

    def close(self) -> None:
        self._origin.close()

    # ── the request ──────────────────────────────────────────────────────────────────────────────────────────────

    def _headers(self, attempt: Attempt, plan: Plan, caller: RawCaller) -> Headers:
        found = [(name, value) for name, value in caller.headers if name.lower() not in self._own_names]
        found += self._own
        found.append((b"Outrider-Call", attempt.call.id.encode()))
        found.append((b"Gateway-Attempt", str(attempt.n).encode()))
        if attempt.deadline_ms is not None:
            found.append((b"Gateway-Timeout-Ms", str(attempt.deadline_ms).encode()))
        if attempt.traceparent:
            found.append((b"traceparent", attempt.traceparent.encode()))
            if attempt.call.tracestate:
                found.append((b"tracestate", attempt.call.tracestate.encode()))
        key = plan.idempotency_header.encode()
        if attempt.idempotency_key and key and key.lower() not in {name.lower() for name, _ in found}:
            found.append((key, attempt.idempotency_key.encode()))
        found.extend(_framing(caller))
        return tuple(found)

    def _begin(self, connection: StreamConnection, head: bytes, passage: _Passage) -> Incoming:
        caller = passage.caller
        passage.attempt.sent = True
        short = caller.body if isinstance(caller.body, bytes) else b""
        return connection.begin(head + short, head_only=caller.method == "HEAD")

    async def _exchange(
        self, connection: StreamConnection, incoming: Incoming, passage: _Passage
    ) -> tuple[Outcome, bool]:
        """What became of it, and whether request and answer were both whole."""
        body = passage.caller.body
        if not isinstance(body, Upload):
            return await self._answer(await incoming.head, incoming, passage)
        attempt = passage.attempt
        attempt.spent = True
        if attempt.lift is not None:
            attempt.lift(False)
        upload = asyncio.get_running_loop().create_task(_upload(connection, body, passage.plan.timeouts.idle_s))
        try:
            head = await _head_after(upload, incoming, passage.plan.timeouts.per_try_s)
            outcome, whole = await self._answer(head, incoming, passage)
            return outcome, whole and upload.done() and not upload.cancelled() and upload.exception() is None
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)

    # ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _answer(self, head: Head, incoming: Incoming, passage: _Passage) -> tuple[Outcome, bool]:
        passage.attempt.status = head.status
        length = _length(head)
        first = await self._kept(head, incoming, length, passage)
        said = Said(passage.attempt.n, _kind(head, self._settings).value)
        if incoming.ended and passage.size <= KEPT_BYTES:
            passage.caller.whole = (head, first, said)
            return self._judge(head, passage), True
        return await self._stream(head, said, first, incoming, length, passage)

    async def _kept(self, head: Head, incoming: Incoming, length: int | None, passage: _Passage) -> bytes:
        """As much of the body as is kept before anything is passed on."""
        waits = _failed(head) or (length is not None and length <= KEPT_BYTES)
        parts: list[bytes] = []
        while incoming.has_something or (waits and not incoming.ended and passage.size <= KEPT_BYTES):
            part = await incoming.read()
            passage.took(part)
            parts.append(part)
            if passage.size > KEPT_BYTES:
                break
        return b"".join(parts)

    async def _stream(
        self, head: Head, said: Said, first: bytes, incoming: Incoming, length: int | None, passage: _Passage
    ) -> tuple[Outcome, bool]:
        attempt = passage.attempt
        if attempt.commit is None or not await attempt.commit():
            detail = "That its answer is passed on cannot be written to the ledger, so nothing of it is."
            return Outcome(OutcomeKind.UNKNOWN, code=Code.LEDGER_UNAVAILABLE, detail=detail, stage="upstream"), False
        if attempt.lift is not None:
            attempt.lift(True)
        passage.streaming = True
        flow = _Flow(passage, incoming, length)
        try:
            await flow.run(head, said, first)
        except CallerGone:
            await self._finish_alone(incoming, passage)
        passage.streaming = False
        return self._judge(head, passage), True

    async def _finish_alone(self, incoming: Incoming, passage: _Passage) -> None:
        """The caller left. What a read brings is of no use to anybody; how an effect ended is worth knowing, for as
        long as an attempt may take."""
        passage.caller.reset()
        passage.streaming = False
        if passage.attempt.effect is Effect.READ:
            raise CallerGone
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(passage.plan.timeouts.per_try_s):
                while part := await incoming.read():
                    passage.took(part)
        if not incoming.ended:
            raise CallerGone

    def _judge(self, head: Head, passage: _Passage) -> Outcome:
        kind = _kind(head, self._settings)
        digest = passage.digest.hexdigest()
        if kind is OutcomeKind.OK:
            value = {"status": head.status, "bytes": passage.size, "sha256": digest}
            return Outcome(kind, value=value, result_digest=digest, result_bytes=passage.size)
        retry_after_s = parse_retry_after(head.first(b"retry-after") or None, clock.wall())
        text = f"HTTP {head.status} {head.reason}".strip()
        failure = Failure(Reason.STATUS, text, head.status, retry_after_s)
        return Outcome(kind, failure=failure, result_digest=digest, result_bytes=passage.size)


class _Flow:
    """An answer on its way from the upstream to the caller, under the idle timeout."""

    def __init__(self, passage: _Passage, incoming: Incoming, length: int | None) -> None:
        self._passage = passage
        self._incoming = incoming
        self._length = length
        self._callers_turn = False

    async def run(self, head: Head, said: Said, first: bytes) -> None:
        """Raises CallerGone, _Stalled, and what ``Incoming.read`` raises."""
        idle_s = self._passage.plan.timeouts.idle_s
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(idle_s) as limit:
                self._callers_turn = True
                await self._passage.caller.begin(head, said)
                part = first
                while True:
                    if part:
                        await self._pass_on(part)
                    self._callers_turn = False
                    limit.reschedule(loop.time() + idle_s)
                    part = await self._incoming.read()
                    if not part:
                        return
                    self._passage.took(part)
                    self._callers_turn = True
                    limit.reschedule(loop.time() + idle_s)
        except TimeoutError:
            if not limit.expired():
                raise
            raise _Stalled(self._callers_turn) from None

    async def _pass_on(self, part: bytes) -> None:
        """The part that a declared length ends with would complete the answer: it waits for the call's end."""
        caller = self._passage.caller
        if self._length is not None and self._passage.size >= self._length:
            caller.keep_last(part)
        else:
            await caller.pass_on(part)


async def _upload(connection: StreamConnection, body: Upload, idle_s: float) -> None:
    """Raises CallerGone, OSError, _Stalled."""
    loop = asyncio.get_running_loop()
    callers_turn = True
    try:
        async with asyncio.timeout(idle_s) as limit:
            while part := await body.read():
                callers_turn = False
                limit.reschedule(loop.time() + idle_s)
                await connection.send(part if body.length is not None else b"%x\r\n%b\r\n" % (len(part), part))
                callers_turn = True
                limit.reschedule(loop.time() + idle_s)
            if body.length is None:
                await connection.send(b"0\r\n\r\n")
    except TimeoutError:
        if not limit.expired():
            raise
        raise _Stalled(callers_turn) from None


async def _head_after(upload: asyncio.Task[None], incoming: Incoming, per_try_s: float) -> Head:
    """The head of the answer, which may come before all of the request is sent. Raises what either side raises."""
    either: list[asyncio.Future[Any]] = [upload, incoming.head]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not incoming.head.done():
        error = upload.exception()
        if isinstance(error, OSError):  # the server may have answered before it closed
            await asyncio.wait({incoming.head}, timeout=min(1.0, per_try_s))
        if error is not None and not incoming.head.done():
            raise error
    async with asyncio.timeout(per_try_s):
        return await incoming.head


def _framing(caller: RawCaller) -> Headers:
    """Where the body ends: never anybody else's word."""
    body = caller.body
    if isinstance(body, Upload):
        if body.length is None:
            return ((b"Transfer-Encoding", b"chunked"),)
        return ((b"Content-Length", str(body.length).encode()),)
    if body is None:
        return ()
    return ((b"Content-Length", str(len(body)).encode()),)


def _length(head: Head) -> int | None:
    text = head.first(b"content-length")
    return int(text) if text.isascii() and text.isdigit() else None


def _failed(head: Head) -> bool:
    return head.status >= 400


def _kind(head: Head, settings: HttpUpstream) -> OutcomeKind:
    """A redirect is an answer here: the caller asked in HTTP, and follows it or does not."""
    return kind_of(head.status, settings) if _failed(head) else OutcomeKind.OK


def _broken(passage: _Passage, error: Exception) -> Outcome:
    """No whole answer. Before the first byte left nothing can have run; after, it may have."""
    text = f"{type(error).__name__}: {error}"[:500].encode("utf-8", "replace").decode()
    if not passage.attempt.sent:
        if isinstance(error, ValueError):
            return Outcome(OutcomeKind.NOT_EXECUTED, code=Code.INVALID_REQUEST, detail=str(error), stage="upstream")
        return Outcome(OutcomeKind.NOT_EXECUTED, failure=Failure(Reason.CONNECT, text))
    reason = Reason.PROTOCOL if isinstance(error, ValueError) else Reason.RESET
    if isinstance(error, TimeoutError):
        reason, text = Reason.TIMEOUT, f"no answer within {passage.plan.timeouts.per_try_s:g} s"
    return Outcome(OutcomeKind.UNKNOWN, failure=Failure(reason, text))


def _left(passage: _Passage) -> Outcome:
    """That its caller left says nothing of the upstream, and nothing of what the upstream did with what it had."""
    return Outcome(OutcomeKind.UNKNOWN, failure=Failure(Reason.STOPPED, "the caller left in the middle of it"))


def _stalled(passage: _Passage, stalled: _Stalled) -> Outcome:
    who, idle_s = "caller" if stalled.caller else "upstream", passage.plan.timeouts.idle_s
    text = f"nothing moved for {idle_s:g} s (timeouts.idle); the {who} was to go on"
    return Outcome(OutcomeKind.UNKNOWN, failure=Failure(Reason.STOPPED if stalled.caller else Reason.TIMEOUT, text))

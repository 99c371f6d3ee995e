"""The ledger's writer: group commit, a chain of hashes, and what happens while the disk says no.

``append`` never blocks: it encodes the record and puts it in a queue. As soon as the hand is free, everything queued is
sealed (numbered, chained, hashed) and committed as one batch; while that is under way, the next one collects. A record
that must only survive this process is acknowledged before its commit, once it is in the file ``ahead``.

    healthy ──commit fails──▶ in trouble: what begins something is refused at once, what ends something waits and is
       ▲                      tried again, on the reserve where the disk is full, for at most END_RETRY_S
       └──── a probe writes, syncs and has the reserve back ────┘
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from outrider import clock
from outrider.errors import OutriderError
from outrider.ledger.ahead import Ahead
from outrider.ledger.catch_up import catch_up
from outrider.ledger.commit import BadMutation, Batch, CommitFailed, Committer, Head
from outrider.ledger.entry import Entry, Mutation, Scribe
from outrider.ledger.hand import Hand, InlineHand, ThreadHand
from outrider.ledger.record import STARTS, Event, EventType
from outrider.ledger.recovery import OpenAttempt, OpenCall, OpenWork
from outrider.policy.plans import LedgerSettings
from outrider.store import Store

MAX_QUEUED: Final = 10_000
MAX_QUEUED_BYTES: Final = 32 * 1024 * 1024
"""Above either, a start is refused; an end only above twice as much."""
MAX_BATCH: Final = 512
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
LINGER_S: Final = 0.01
"""How long a record that nobody waits for may wait for company."""
DOUBT_S: Final = 0.1
"""While a batch takes longer than this, nothing is acknowledged ahead of its commit: the disk may be hanging."""
RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 2.0
END_RETRY_S: Final = 30.0
"""How long an end is kept for a ledger that cannot be written. Given up, its attempt is recovered as unknown."""
STALL_S: Final = 5.0
"""A batch that takes longer than this means a disk that does not answer: starts are refused until it does."""
CLOSE_S: Final = 5.0
MARK_EVERY: Final = 5_000
"""Records between two watermarks of what is under way: what a start reads at most, beside what was open."""


T = TypeVar("T")


class LedgerUnavailable(OutriderError):
    """The record is not in the ledger. The text says why and what to do."""


class Ledger:
    """Appends records in order. Belongs to one event loop; make it with ``await Ledger.open``.

    ``open_attempts`` and ``open_calls`` are what the sidecar before this one left under way, oldest first.
    """

    def __init__(self, store: Store, settings: LedgerSettings, committer: Committer, *, inline: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._committer = committer
        self._hand: Hand = (InlineHand if inline else ThreadHand)(self._loop, committer)
        self._head = Head()
        self._work = OpenWork()
        self._since_mark = 0
        self.open_attempts: list[OpenAttempt] = []
        self.open_calls: list[OpenCall] = []
        self._scribe = Scribe(store.log_id, store.incarnation)
        self._pending: deque[Entry] = deque()
        self._pending_bytes = 0
        self._ahead: Ahead | None = None
        self._loose: list[Entry] = []  # of calls, and not in the file ``ahead``: some may be committed by now
        self._wiping = 0  # while it is being wiped, nothing new goes there
        self._sent: list[Entry] = []
        self._sent_head = self._head
        self._sent_at = 0.0
        self._busy = False  # the hand holds work of ours
        self._scheduled = False
        self._urgent = False  # somebody waits for a record in the queue
        self._linger: asyncio.TimerHandle | None = None
        self._numbers = 0
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        self._trouble: CommitFailed | None = None
        self._blocked = False  # the last try failed; wait for the timer
        self._use_reserve = False
        self._retry: asyncio.TimerHandle | None = None
        self._delay_s = RETRY_FIRST_S
        self._closing = False
        self._abandoned = False  # what is not committed now never will be
        self._counts = {"batches": 0, "records": 0, "fsyncs": 0, "failures": 0}
        self.configure(settings)

    @classmethod
    async def open(cls, store: Store, settings: LedgerSettings, *, inline: bool = False) -> Ledger:
        """Find the chain's end and what was under way. ``inline`` commits on the loop itself: for tests under a
        virtual clock, which a thread cannot hold still. Raises Misconfigured when the chain's end is damaged."""
        committer = Committer(store)
        ledger = cls(store, settings, committer, inline=inline)
        try:
            loaded = await ledger._ask(ledger._load)
        except BaseException:
            ledger._hand.close(wait=True)
            committer.close()
            raise
        ledger._head, ledger._work, ledger.open_attempts, ledger.open_calls = loaded
        if not store.reserve.held:
            ledger._enter_trouble(CommitFailed("full", OSError("no room for the reserve")))
        return ledger

    def _load(self) -> tuple[Head, OpenWork, list[OpenAttempt], list[OpenCall]]:
        """First what the process before this one acknowledged ahead of a commit that it did not live to see."""
        self._ahead = catch_up(self._store, self._committer, self._scribe)
        return self._committer.load()

    def configure(self, settings: LedgerSettings) -> None:
        """Take the settings of a newer policy; records appended from now on follow them."""
        self._settings = settings
        self._scribe.configure(settings)

    # ── what others ask ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def healthy(self) -> bool:
        """Whether a start would be accepted now."""
        return not self.trouble and not self._closing

    @property
    def trouble(self) -> str:
        """Why it cannot be written, as a sentence; empty when it can."""
        if self._trouble is not None:
            return str(self._trouble)
        if self._sent and clock.monotonic() - self._sent_at > STALL_S:
            return "the disk of the data folder does not answer; see the system's log"
        return ""

    @property
    def full(self) -> bool:
        """Whether the database passed ``max_bytes``. What follows from it is the policy's ``when_full``."""
        return self._committer.size_bytes >= self._settings.max_bytes

    @property
    def head(self) -> Head:
        """The last committed record: its number and its hash. An anchor to note down."""
        return self._head

    def lag(self) -> dict[str, Any]:
        """How far behind, and what was done so far. ``oldest_ms`` is the age of the oldest record not yet committed."""
        oldest = self._sent[0] if self._sent else self._pending[0] if self._pending else None
        return {
            "queued": len(self._pending) + len(self._sent),
            "queued_bytes": self._pending_bytes,
            "oldest_ms": 0.0 if oldest is None else (clock.monotonic() - oldest.appended) * 1000,
            **self._counts,
            "checkpoints": self._committer.checkpoints,
            "bytes": self._committer.size_bytes,
            "seq": self._head.seq,
            "healthy": self.healthy,
            "full": self.full,
            "trouble": self.trouble,
        }

    # ── appending ────────────────────────────────────────────────────────────────────────────────────────────────

    def append(
        self,
        event: Event,
        *,
        durable: bool = False,
        linger: bool = False,
        ahead: bool = False,
        args: Any = None,
        result: Any = None,
        redact: tuple[str, ...] = (),
        mutations: Sequence[Mutation] = (),
    ) -> asyncio.Future[int]:
        """Queue one record. The future resolves with its number once its batch is committed, and fsynced when
        ``durable``; it fails with LedgerUnavailable. Nobody has to await it.

        ``args`` and ``result`` (None: there is none) are redacted by the default keys and the paths in ``redact`` and
        stored in the same transaction, where ``mutations`` run too; when those cannot be applied, the future fails with
        their error and the record is not written. ``linger``: nobody waits for this one; it may wait 10 ms for company.
        ``ahead``: the future need not wait for the commit, only until this and what was appended before it survives the
        death of this process; it then resolves with 0.
        """
        refusal = self._refusal(event.type)
        if refusal:
            return self._failed_future(refusal)
        self._numbers += 1
        entry = self._scribe.entry(event, args, result, redact)
        entry.number = self._numbers
        entry.future = self._loop.create_future()
        entry.durable = durable
        entry.mutations = mutations
        self._pending.append(entry)
        self._pending_bytes += entry.size
        if event.call_id and not durable and not mutations:
            self._loose.append(entry)
            linger |= ahead and self._save_ahead()
        self._wake(linger and not durable)
        return entry.future

    def _save_ahead(self) -> bool:
        """Copy what is loose to where this process's death does not reach it, which acknowledges it."""
        in_doubt = self._busy and clock.monotonic() - self._sent_at > DOUBT_S
        if self._ahead is None or self._wiping or self._trouble is not None or in_doubt:
            return False
        self._forget_committed()
        if not self._ahead.put(self._loose):
            return False
        for entry in self._loose:
            entry.ahead = True
            if not entry.future.done():
                entry.future.set_result(0)
        self._loose.clear()
        return True

    def _forget_committed(self) -> None:
        oldest = self._outstanding()
        if self._loose and self._loose[0].number < oldest:
            self._loose = [entry for entry in self._loose if entry.number >= oldest]

    def _refusal(self, type_: EventType) -> str:
        """Why this record is not even queued; empty when it is."""
        if self._closing:
            return "The ledger is closed: the sidecar is shutting down."
        is_start = type_ in STARTS
        if is_start and (self._trouble is not None or self._sent) and (trouble := self.trouble):
            return f"The ledger cannot be written: {trouble}. It recovers by itself."
        if len(self._pending) < MAX_QUEUED and self._pending_bytes < MAX_QUEUED_BYTES:
            return ""
        room = 1 if is_start else 2
        if len(self._pending) >= room * MAX_QUEUED or self._pending_bytes >= room * MAX_QUEUED_BYTES:
            return f"The ledger is behind by {len(self._pending)} records: its disk is too slow for this load."
        return ""

    def _failed_future(self, text: str) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        _fail(future, LedgerUnavailable(text))
        return future

    def _wake(self, linger: bool) -> None:
        """Have the queue looked at: in this turn of the loop, or a little later."""
        self._urgent = self._urgent or not linger
        if self._busy or self._blocked or self._scheduled:
            return  # it is looked at when the hand is free, when the timer rings, or presently
        if linger:
            self._linger = self._linger or self._loop.call_later(LINGER_S, self._pump)
            return
        self._scheduled = True
        self._loop.call_soon(self._pump)

    # ── committing ───────────────────────────────────────────────────────────────────────────────────────────────

    def _pump(self) -> None:
        """Give the hand the next batch, if it is free and there is one."""
        self._scheduled = False
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._busy or self._blocked or not self._pending:
            return
        self._sent = self._take()
        self._urgent = bool(self._pending)  # of what one batch does not hold, somebody may wait for any
        self._sent_at = clock.monotonic()
        batch = self._seal(self._sent)
        self._busy = True
        use_reserve, self._use_reserve = self._use_reserve, False
        self._hand.submit(partial(self._committer.commit, batch, use_reserve=use_reserve), self._on_committed)

    def _take(self) -> list[Entry]:
        """As much of the queue as one batch holds."""
        taken: list[Entry] = []
        size = 0
        while self._pending and len(taken) < MAX_BATCH and (size < MAX_BATCH_BYTES or not taken):
            entry = self._pending.popleft()
            size += entry.size
            taken.append(entry)
        self._pending_bytes -= size
        return taken

    def _seal(self, entries: list[Entry]) -> Batch:
        """Number, chain and hash; now and then with a watermark of what is under way before this batch."""
        batch, self._sent_head = self._scribe.seal(entries, self._head)
        if self._since_mark >= MARK_EVERY:
            mark = self._work.watermark(self._head.seq)
            batch.mutations.append((-1, "UPDATE meta SET value = ? WHERE key = 'recovery'", (mark,)))
        return batch

    def _on_committed(self, error: BaseException | None) -> None:
        """The hand's report on the batch ``_sent``."""
        entries, self._sent, self._busy = self._sent, [], False
        if error is None:
            self._accept(entries)
        elif isinstance(error, BadMutation) and error.index >= 0:
            self._drop(entries, error)
        else:
            failed = error if isinstance(error, CommitFailed) else CommitFailed("other", error)
            self._reject(entries, failed)
        self._settle_flushes()
        if self._ahead is not None:
            self._ahead.settle(self._outstanding())
        self._forget_committed()
        self._look_again()

    def _look_again(self) -> None:
        """The hand is free: what came meanwhile is next, unless all of it may wait for company."""
        if self._urgent or self._blocked or len(self._pending) >= MAX_BATCH or self._flushes:
            self._pump()
        elif self._pending:
            self._wake(linger=True)

    def _accept(self, entries: list[Entry]) -> None:
        seq = self._head.seq
        self._head = self._sent_head
        durable = False
        for entry in entries:
            seq += 1
            _, type_, call_id, attempt, _, _ = entry.columns
            self._work.seen(seq, type_, call_id, attempt)
            durable = durable or entry.durable
            if not entry.future.done():
                entry.future.set_result(seq)
        self._since_mark = len(entries) if self._since_mark >= MARK_EVERY else self._since_mark + len(entries)
        self._counts["batches"] += 1
        self._counts["records"] += len(entries)
        self._counts["fsyncs"] += durable

    def _drop(self, entries: list[Entry], error: BadMutation) -> None:
        """One entry's mutations cannot be applied: it fails, the others are tried again without it."""
        bad = entries.pop(error.index)
        _fail(bad.future, error.__cause__ if isinstance(error.__cause__, Exception) else error)
        self._requeue(entries)

    def _requeue(self, entries: list[Entry]) -> None:
        self._pending.extendleft(reversed(entries))
        self._pending_bytes += sum(entry.size for entry in entries)

    # ── trouble ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _reject(self, entries: list[Entry], error: CommitFailed) -> None:
        """Nothing of the batch is in the ledger. Starts fail now, ends stay and are tried again."""
        self._counts["failures"] += 1
        self._enter_trouble(error)
        self._requeue(entries)
        self._give_up(clock.monotonic() - (0.0 if self._abandoned else END_RETRY_S))
        self._use_reserve = error.kind in ("full", "io") and self._store.reserve.held and not self._abandoned
        self._blocked = not self._use_reserve  # with it, ends go on at once: this is what it is for

    def _enter_trouble(self, error: CommitFailed) -> None:
        self._trouble = error
        if self._retry is None:
            self._retry = self._loop.call_later(self._delay_s, self._probe)
            self._delay_s = min(RETRY_MAX_S, self._delay_s * 2)

    def _give_up(self, before: float) -> None:
        """Fail every queued start, and the ends that have waited since ``before``. What was acknowledged stays, until
        this ledger is closed: the next one finds it in the file ``ahead``."""
        kept: deque[Entry] = deque()
        given_up: set[int] = set()
        self._pending_bytes = 0
        for entry in self._pending:
            acknowledged = entry.ahead and not self._abandoned
            if not acknowledged and (entry.is_start or entry.appended <= before):
                _fail(entry.future, LedgerUnavailable(f"The record was not written: {self.trouble}."))
                given_up.add(entry.number)
            else:
                kept.append(entry)
                self._pending_bytes += entry.size
        self._pending = kept
        self._loose = [entry for entry in self._loose if entry.number not in given_up]

    def _probe(self) -> None:
        """The timer rang: see whether writing works again. A batch under way tells as much."""
        self._retry = None
        self._blocked = False
        if self._busy:
            self._retry = self._loop.call_later(self._delay_s, self._probe)
            return
        self._busy = True
        self._hand.submit(self._committer.probe, self._on_probed)

    def _on_probed(self, error: BaseException | None) -> None:
        self._busy = False
        if error is None:
            self._trouble = None
            self._use_reserve = False
            self._delay_s = RETRY_FIRST_S
        else:
            self._enter_trouble(error if isinstance(error, CommitFailed) else CommitFailed("other", error))
        self._pump()

    # ── flushing and closing ─────────────────────────────────────────────────────────────────────────────────────

    async def flush(self) -> None:
        """Wait until everything appended so far is committed or has failed."""
        if self._outstanding() > self._numbers:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._flushes.append((self._numbers, waiter))
        if not self._busy and not self._scheduled:
            self._pump()  # not even the lingering ones wait
        await waiter

    def _outstanding(self) -> int:
        """The number of the oldest record neither committed nor failed."""
        if self._sent:
            return self._sent[0].number
        return self._pending[0].number if self._pending else self._numbers + 1

    def _settle_flushes(self) -> None:
        if not self._flushes:
            return
        oldest = self._outstanding()
        for number, waiter in self._flushes:
            if number < oldest and not waiter.done():
                waiter.set_result(None)
        self._flushes = [(number, waiter) for number, waiter in self._flushes if not waiter.done()]

    async def checkpoint(self) -> None:
        """Fold the write-ahead log into the database now, as far as readers allow, and cut it to nothing."""
        self._wiping += 1
        try:
            await self.flush()
            if self._ahead is not None:
                self._ahead.wipe()  # all of it: with nothing new put there, a flush has it emptied
        finally:
            self._wiping -= 1
        await self._ask(self._committer.fold_all)

    async def erase(self, call_id: str, *, reason: str, by: str) -> int:
        """Erase the arguments and results of a call, with their salts, and record that it was done. The chain and the
        digests stay; without the salt they tell nothing. Returns the record's number. Raises LedgerUnavailable."""
        event = Event(type=EventType.PAYLOAD_ERASED, call_id=call_id, actor=by, reason=reason)
        of_call = "SELECT 2 * seq + {} FROM ledger WHERE call_id = ?"
        erase = f"DELETE FROM payloads WHERE id IN ({of_call.format(0)} UNION ALL {of_call.format(1)})"  # noqa: S608
        seq = await self.append(event, durable=True, mutations=[(erase, (call_id, call_id))])
        await self.checkpoint()  # the write-ahead log still held the old pages
        return seq

    async def close(self) -> None:
        """Commit what is queued (at most 5 s), note that nothing is left to recover beyond it, and end the thread.
        Close it before the store. May be called twice."""
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), CLOSE_S)
        self._abandoned = self._blocked = True
        self._close_ahead()
        if self._retry is not None:
            self._retry.cancel()
        self._give_up(clock.monotonic())
        finish = partial(self._committer.finish, self._work.watermark(self._head.seq))
        ended = True
        try:
            await asyncio.wait_for(self._ask(finish), CLOSE_S)
        except TimeoutError:
            ended = False  # the disk hangs; the thread ends when that does
        self._hand.close(wait=ended)

    def _close_ahead(self) -> None:
        if self._ahead is None:
            return
        if not self._sent and not self._pending:
            self._ahead.clear()
        self._ahead.close()
        self._ahead = None

    async def _ask(self, work: Callable[[], T]) -> T:
        """Have the hand do something and wait for what it returns."""
        answer: asyncio.Future[T] = self._loop.create_future()
        found: list[T] = []

        def done(error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(found[0])
            else:
                answer.set_exception(error)

        self._hand.submit(lambda: found.append(work()), done)
        return await answer


def _fail(future: asyncio.Future[int], error: BaseException) -> None:
    """Fail it, and count it as noticed: a record may be appended by one who does not wait."""
    if not future.done():
        future.set_exception(error)
        future.exception()

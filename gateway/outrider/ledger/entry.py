"""From an event to a sealed row: encoded when it is appended, numbered and chained when its batch is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from outrider import clock
from outrider.ledger.commit import Batch, Head
from outrider.ledger.record import STARTS, VERSION, Event, EventType, Stamps, encode_event, leaf_hash
from outrider.ledger.redact import Captured, Redactor
from outrider.policy.plans import LedgerSettings

Mutation = tuple[str, Sequence[Any]]
"""An SQL statement and its parameters."""

Columns = tuple[int, str, str, int, str, str]
"""What of a record can be searched for: time in µs since the epoch, type, call_id, attempt, agent, tool."""

_PLAIN = {type_: type_.value for type_ in EventType}
"""SQLite asks each value that is not plainly ``str`` whether it adapts itself: four times the cost of the binding."""

ROW_BYTES = 256
"""What a record costs besides its line: columns, hash, index."""


class Entry:
    """One record on its way into the ledger."""

    __slots__ = (
        "ahead", "appended", "body", "columns", "durable", "future", "is_start", "mutations", "number", "payloads",
        "size",
    )  # fmt: skip

    future: asyncio.Future[int]
    number: int  # counts what was appended; not the record's number in the ledger
    appended: float  # monotonic seconds
    is_start: bool
    durable: bool
    ahead: bool  # in the file ``ahead``, and acknowledged because of that
    columns: Columns
    body: bytes  # the line behind "prev"
    payloads: list[tuple[int, Captured]]  # 0 arguments, 1 result
    mutations: Sequence[Mutation]
    size: int

    @property
    def id(self) -> str:
        """The record's own id, as its line shows it."""
        return self.body[6:42].decode()


class Scribe:
    """Writes lines for one ledger and one incarnation."""

    def __init__(self, log_id: str, incarnation: str) -> None:
        self._prefix = f'{{"v":{VERSION},"log_id":"{log_id}","seq":'.encode()
        self._incarnation = f',"incarnation":"{incarnation}",'
        self._stamps = Stamps()
        self._ids = clock.Ids()
        self.configure(LedgerSettings())

    def configure(self, settings: LedgerSettings) -> None:
        """Which values are recorded, and which names never are."""
        self._record_args = settings.record_args
        self._record_results = settings.record_results
        self._redactor = Redactor(settings.redact_keys)

    def entry(self, event: Event, args: Any, result: Any, redact: tuple[str, ...]) -> Entry:
        """Encode a record. Later changes to what was passed do not reach it."""
        entry = Entry()
        entry.appended = clock.monotonic()
        entry.is_start = event.type in STARTS
        entry.ahead = False
        entry.payloads = []
        digests = b""
        if args is not None:
            event, digests = self._keep_args(entry, event, args, redact)
        if result is not None:
            event, more = self._keep_result(entry, event, result, redact)
            digests += more
        event, body = encode_event(event)
        ts_us = int(clock.wall() * 1e6)
        entry.columns = (ts_us, _PLAIN[event.type], event.call_id, event.attempt, agent_name(event.agent), event.tool)
        stamps = (
            f'"id":"{self._ids.next(ts_us // 1000)}","ts":"{self._stamps.text(ts_us)}",'
            f'"mono_ns":{int(entry.appended * 1e9)}{self._incarnation}'
        )
        entry.body = stamps.encode() + body[1:-1] + digests + b"}"
        entry.size = len(entry.body) + ROW_BYTES
        for _, kept in entry.payloads:
            entry.size += len(kept.text or "")
        return entry

    def _keep_args(self, entry: Entry, event: Event, args: Any, redact: tuple[str, ...]) -> tuple[Event, bytes]:
        kept = self._redactor.capture("args", args, redact, record=self._record_args)
        entry.payloads.append((0, kept))
        event = msgspec.structs.replace(event, args_digest="") if event.args_digest else event
        return event, _digests("args", kept, size=True)

    def _keep_result(self, entry: Entry, event: Event, result: Any, redact: tuple[str, ...]) -> tuple[Event, bytes]:
        whole = event.result_digest
        kept = self._redactor.capture("result", result, redact, record=self._record_results, whole=whole)
        entry.payloads.append((1, kept))
        event = msgspec.structs.replace(event, result_digest="") if whole else event
        return event, _digests("result", kept, size=not event.result_bytes)

    def seal(self, entries: Iterable[Entry], head: Head) -> tuple[Batch, Head]:
        """Number, chain and hash. Returns the batch and where the chain ends once that is committed."""
        batch = Batch()
        seq, prev = head.seq, head.hash
        for index, entry in enumerate(entries):
            seq += 1
            line = b'%b%d,"prev":"%b",%b' % (self._prefix, seq, prev.encode(), entry.body)
            digest = leaf_hash(line)
            prev = digest.hex()
            batch.ledger += (seq, *entry.columns, line.decode(), digest)
            for kind, kept in entry.payloads:
                batch.payloads += (2 * seq + kind, kept.salt, kept.text)
            for sql, parameters in entry.mutations:
                batch.mutations.append((index, sql, parameters))
            batch.durable = batch.durable or entry.durable
            batch.size += entry.size
        return batch, Head(seq, prev)


def _digests(name: str, kept: Captured, *, size: bool) -> bytes:
    """The fields of a line that commit to a value."""
    text = f',"{name}_digest":"{kept.digest}"'
    if size:
        text += f',"{name}_bytes":{kept.size}'
    if kept.stored:
        text += f',"{name}_stored":"{kept.stored}"'
    return text.encode()


def agent_name(agent: dict[str, Any]) -> str:
    """The column ``agent`` of a record."""
    name = agent.get("name", "")
    return name if isinstance(name, str) else ""

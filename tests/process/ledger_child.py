"""A process that writes a ledger until it is killed, for test_ledger_crash.py.

ledger_child.py FOLDER crowd     eight writers at once; prints "SEQ CALL TYPE ATTEMPT" for each record acknowledged
ledger_child.py FOLDER one       one durable record after the other; prints "ack SEQ" for each
ledger_child.py FOLDER ahead S   eight writers of whole calls, acknowledged ahead of commits that come S seconds later;
                                 prints the call's id for each
ledger_child.py FOLDER spy       the same, and "commit SYNCHRONOUS" as SQLite runs each statement that commits
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from outrider import clock
from outrider.ledger import writer
from outrider.ledger.record import Event, EventType
from outrider.ledger.writer import Ledger
from outrider.policy.plans import LedgerSettings
from outrider.store import Store

RECORDS_ONE_BY_ONE = 20


def say(text: str) -> None:
    """One line, in one system call: a kill leaves no half of it."""
    os.write(1, text.encode() + b"\n")


async def append(ledger: Ledger, type_: EventType, call_id: str, attempt: int, durable: bool) -> None:
    event = Event(type=type_, call_id=call_id, attempt=attempt, tool="bank.pay", agent={"name": "a"})
    values = {"text": "x" * 500}
    seq = await ledger.append(event, durable=durable, args=values if attempt == 0 else None)
    say(f"{seq} {call_id} {type_.value} {attempt}")


async def write_for_ever(ledger: Ledger, durable: bool) -> None:
    while True:
        call_id = clock.new_id()
        await append(ledger, EventType.CALL_RECEIVED, call_id, 0, False)
        await append(ledger, EventType.ATTEMPT_STARTED, call_id, 1, durable)
        await append(ledger, EventType.ATTEMPT_FINISHED, call_id, 1, False)
        await append(ledger, EventType.CALL_FINISHED, call_id, 0, False)


async def acknowledged_ahead(ledger: Ledger) -> None:
    """Whole calls, one after the other."""
    while True:
        call_id = clock.new_id()
        for type_, attempt in (
            (EventType.CALL_RECEIVED, 0),
            (EventType.ATTEMPT_STARTED, 1),
            (EventType.ATTEMPT_FINISHED, 1),
        ):
            event = Event(type=type_, call_id=call_id, attempt=attempt, tool="bank.pay", agent={"name": "a"})
            ledger.append(event, linger=True, args={"text": "x" * 200} if attempt == 0 else None)
        ending = Event(type=EventType.CALL_FINISHED, call_id=call_id, outcome="ok")
        if await ledger.append(ending, ahead=True, result={"n": 1}) == 0:
            say(call_id)
        await asyncio.sleep(0)


async def one_by_one(ledger: Ledger) -> None:
    for n in range(RECORDS_ONE_BY_ONE):
        event = Event(type=EventType.ATTEMPT_STARTED, call_id=f"c{n}", attempt=1)
        say(f"ack {await ledger.append(event, durable=True)}")


def spy_on(ledger: Ledger) -> None:
    connection = ledger._committer._connection
    mode = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}[connection.execute("PRAGMA synchronous").fetchone()[0]]

    def statement(text: str) -> None:
        nonlocal mode
        if text.startswith("PRAGMA synchronous"):
            mode = text.rsplit(maxsplit=1)[-1]
        elif text.startswith("INSERT INTO ledger"):  # alone, so it commits
            say(f"commit {mode}")

    connection.set_trace_callback(statement)


async def main(folder: Path, what: str, linger_s: float) -> None:
    ledger = await Ledger.open(Store.open(folder), LedgerSettings())
    for attempt in ledger.open_attempts:
        await append(ledger, EventType.ATTEMPT_FINISHED, attempt.call_id, attempt.n, True)
    for call in ledger.open_calls:
        await append(ledger, EventType.CALL_FINISHED, call.call_id, 0, True)
    say("ready")
    if what == "crowd":
        await asyncio.gather(*[write_for_ever(ledger, durable=n % 2 == 0) for n in range(8)])
    if what == "ahead":
        writer.LINGER_S = linger_s  # type: ignore[misc]
        await asyncio.gather(*[acknowledged_ahead(ledger) for _ in range(8)])
    if what == "spy":
        spy_on(ledger)
    await one_by_one(ledger)
    await ledger.close()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))

"""A large ledger made quickly: the records of calls, appended through the ledger's own writer in big batches."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from outrider import clock
from outrider.ledger.record import Event, EventType
from outrider.ledger.verify import verify
from outrider.ledger.writer import Ledger
from outrider.policy.plans import LedgerSettings
from outrider.store import Store

BATCH_CALLS = 400
"""Calls between two waits: below what the writer's queue holds."""
RECORDS_A_CALL = 5


@dataclass(frozen=True, slots=True)
class Made:
    """What was made, and that it verifies."""

    records: int
    bytes: int
    took_s: float
    verify_s: float


def fill(folder: Path, records: int) -> Made:
    """Make a ledger of at least so many records. Raises AssertionError when it does not verify."""
    began = time.monotonic()
    size = asyncio.run(_fill(folder, records))
    took_s = time.monotonic() - began
    began = time.monotonic()
    report = verify(folder)
    assert report.ok, report
    return Made(report.records, size, took_s, time.monotonic() - began)


async def _fill(folder: Path, records: int) -> int:
    store = Store.open(folder)
    ledger = await Ledger.open(store, LedgerSettings(), inline=True)
    try:
        for batch in range(0, records, BATCH_CALLS * RECORDS_A_CALL):
            for number in range(batch, batch + BATCH_CALLS * RECORDS_A_CALL, RECORDS_A_CALL):
                _one_call(ledger, number)
            await ledger.flush()
        await ledger.checkpoint()
    finally:
        await ledger.close()
        store.close()
    return store.size_bytes()


def _one_call(ledger: Ledger, number: int) -> None:
    """What one good read leaves."""
    call, agent, tool = clock.new_id(), {"name": f"agent-{number % 50}"}, f"bench.read_{number % 100}"
    args, result = {"id": str(number)}, {"id": str(number), "balance": number, "ok": True}
    received = Event(type=EventType.CALL_RECEIVED, call_id=call, agent=agent, tool=tool, run_id=f"run-{number // 500}")
    ledger.append(received, args=args)
    ledger.append(
        Event(type=EventType.CALL_DECIDED, call_id=call, agent=agent, tool=tool, decision="allow", rule="everything")
    )
    ledger.append(
        Event(
            type=EventType.ATTEMPT_STARTED,
            call_id=call,
            attempt=1,
            agent=agent,
            tool=tool,
            upstream="bench",
            effect="read",
        )
    )
    ledger.append(Event(type=EventType.ATTEMPT_FINISHED, call_id=call, attempt=1, agent=agent, tool=tool, outcome="ok"))
    ledger.append(
        Event(type=EventType.CALL_FINISHED, call_id=call, agent=agent, tool=tool, outcome="ok"), result=result
    )

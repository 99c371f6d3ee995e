"""The story of a disk that fills and is freed, told by a process of its own, for test_ledger_disk.py.

    ledger_disk_child.py tmpfs FOLDER     mounts a file system of 24 MB there first (in a mount namespace of its own)
    ledger_disk_child.py pages FOLDER     limits SQLite's number of pages instead

Prints one JSON object: what happened.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outrider import clock
from outrider.ledger.record import Event, EventType
from outrider.ledger.verify import verify
from outrider.ledger.writer import Ledger, LedgerUnavailable
from outrider.policy.plans import LedgerSettings
from outrider.store import Store
from tests.ledger_kit import FullDisk

MEGABYTE = 1 << 20
VALUE = {"text": "x" * 5000}


async def tell(ledger: Ledger, type_: EventType, call_id: str, durable: bool = False) -> int:
    event = Event(type=type_, call_id=call_id, attempt=1)
    return await ledger.append(event, durable=durable, args=VALUE if type_ == EventType.CALL_RECEIVED else None)


async def until_full(ledger: Ledger) -> tuple[list[str], str]:
    """Calls that began, and why the next one could not."""
    begun: list[str] = []
    while True:
        call_id = clock.new_id()
        try:
            await tell(ledger, EventType.CALL_RECEIVED, call_id)
            await tell(ledger, EventType.ATTEMPT_STARTED, call_id, durable=True)
        except LedgerUnavailable as refused:
            return begun, str(refused)
        begun.append(call_id)


async def is_refused(ledger: Ledger) -> bool:
    try:
        await tell(ledger, EventType.ATTEMPT_STARTED, clock.new_id(), durable=True)
    except LedgerUnavailable:
        return True
    return False


async def story(folder: Path, fill: Callable[[Ledger], Any], free: Callable[[Any], None]) -> dict[str, Any]:
    store = Store.open(folder, reserve_bytes=2 * MEGABYTE)
    ledger = await Ledger.open(store, LedgerSettings())
    assert ledger.healthy
    full = fill(ledger)
    begun, why = await until_full(ledger)
    ends = await asyncio.gather(*[tell(ledger, EventType.ATTEMPT_FINISHED, call_id) for call_id in begun[-100:]])
    killed = await tell(ledger, EventType.KILL_ENGAGED, "", durable=True)
    told = {
        "why": why, "begun": len(begun), "ended": len(ends), "kill_written": killed == max(ends, default=0) + 1,
        "refused_while_full": await is_refused(ledger), "reserve_used": not store.reserve.held,
    }  # fmt: skip
    free(full)
    began = time.perf_counter()
    while not ledger.healthy and time.perf_counter() - began < 20:
        await asyncio.sleep(0.02)
    told |= {"recovered": ledger.healthy, "refused_after": await is_refused(ledger), "reserve_back": store.reserve.held}
    await ledger.close()
    store.close()
    return told | {"verified": verify(folder).ok}


def on_tmpfs(mount: Path) -> dict[str, Any]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)], check=True)
    filler = mount / "filler"

    def fill(_: Ledger) -> None:
        filler.write_bytes(b"x" * 14 * MEGABYTE)

    return asyncio.run(story(mount / "data", fill, lambda _: filler.unlink()))


def on_pages(folder: Path) -> dict[str, Any]:
    return asyncio.run(story(folder / "data", lambda ledger: FullDisk(ledger, 2000, 500), FullDisk.free))


print(json.dumps(on_tmpfs(Path(sys.argv[2])) if sys.argv[1] == "tmpfs" else on_pages(Path(sys.argv[2]))))

"""A kill as peers tell it to each other.

Strictly read: a peer that tells what cannot be understood has not told anything, and is named for it.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from outrider import clock
from outrider.kills import Kill, Lift, Scope
from outrider.kills.merge import ends_ms
from outrider.kills.scopes import MAX_TEXT, invalid

ID = re.compile(r"[A-Za-z0-9-]{1,64}")
LATEST_MS = 253_402_300_799_000
"""The end of the year 9999: later times cannot be shown."""


class LiftRecord(msgspec.Struct, frozen=True):
    """How it ended."""

    at: float
    by: str
    reason: str


class KillRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One kill. ``ends_ms`` is by the wall clock of who engaged it; left out: until it is lifted."""

    id: str
    scope: str
    reason: str
    by: str
    at: float
    ends_ms: int | None = None
    lifted: LiftRecord | None = None


def told(kill: Kill) -> KillRecord:
    """The record of a kill."""
    lifted = None if kill.lifted is None else LiftRecord(kill.lifted.at, kill.lifted.by, kill.lifted.reason)
    return KillRecord(kill.id, kill.scope, kill.reason, kill.by, kill.at, ends_ms(kill), lifted)


def read(given: Any, via: str) -> Kill:
    """The kill of a record that the peer ``via`` told. Raises Refused: it cannot be understood."""
    try:
        record = msgspec.convert(given, KillRecord)
    except msgspec.ValidationError as fault:
        raise invalid(f"The kill told by {via} cannot be understood: {fault}.") from None
    if fault_of := _fault(record):
        raise invalid(f"The kill told by {via} cannot be understood: {fault_of}.")
    lifted = record.lifted
    return Kill(
        id=record.id,
        target=Scope.parse(record.scope),
        reason=record.reason,
        by=record.by,
        at=record.at,
        mono=clock.monotonic(),
        ttl_s=None if record.ends_ms is None else record.ends_ms / 1000 - record.at,
        lifted=None if lifted is None else Lift(lifted.at, lifted.by, lifted.reason, via),
        via=via,
    )


def _fault(record: KillRecord) -> str:
    if not ID.fullmatch(record.id):
        return "'id' is no id"
    if not _moment(record.at) or (record.ends_ms is not None and not record.at * 1000 < record.ends_ms <= LATEST_MS):
        return "'at' and 'ends_ms' are not two moments, one after the other"
    texts = {"reason": record.reason, "by": record.by}
    if record.lifted is not None:
        if not _moment(record.lifted.at):
            return "'lifted.at' is no moment"
        texts |= {"lifted.by": record.lifted.by, "lifted.reason": record.lifted.reason}
    wrong = [name for name, text in texts.items() if not 0 < len(text) <= MAX_TEXT]
    return f"'{wrong[0]}' is empty or longer than {MAX_TEXT} characters" if wrong else ""


def _moment(seconds: float) -> bool:
    return math.isfinite(seconds) and 0 <= seconds * 1000 <= LATEST_MS

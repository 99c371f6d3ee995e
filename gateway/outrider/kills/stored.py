"""A kill as rows of the store: the statements that ride in the ledger's transaction, and the way back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from outrider import clock
from outrider.kills.merge import KEPT_LIFTED
from outrider.kills.scopes import Kill, Lift, Scope

Mutation = tuple[str, tuple[Any, ...]]

SELECT = "SELECT rowid AS row, * FROM kills ORDER BY rowid"
_UPSERT = (
    'INSERT INTO kills (id, scope, reason, "by", engaged_at, expires_at, engaged_mono, boot) '
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at"
)
_LIFT = "UPDATE kills SET lifted_at = ?, lifted_by = ?, lift_reason = ? WHERE id = ?"
_LIFT_ROW = "UPDATE kills SET lifted_at = ?, lifted_by = ?, lift_reason = ? WHERE rowid = ?"
_PRUNE = (
    "DELETE FROM kills WHERE lifted_at IS NOT NULL AND rowid NOT IN "
    "(SELECT rowid FROM kills WHERE lifted_at IS NOT NULL ORDER BY lifted_at DESC, id DESC LIMIT ?)"
)


def engaged(kill: Kill, boot: str) -> list[Mutation]:
    """Writes the kill; once more is harmless and carries a longer time."""
    expires_at = None if kill.ttl_s is None else kill.at + kill.ttl_s
    return [(_UPSERT, (kill.id, kill.scope, kill.reason, kill.by, kill.at, expires_at, kill.mono, boot))]


def lifted(kill: Kill) -> list[Mutation]:
    """Marks the kill's row as lifted. A kill that stands for an unreadable row names it by its place."""
    assert kill.lifted is not None
    how = (kill.lifted.at, kill.lifted.by, kill.lifted.reason)
    prune: Mutation = (_PRUNE, (KEPT_LIFTED,))
    if kill.row is None:
        return [(_LIFT, (*how, kill.id)), prune]
    return [(_LIFT_ROW, (*how, kill.row)), prune]


def read(row: Mapping[str, Any], boot: str) -> Kill:
    """The kill of a row. Raises ValueError, TypeError, KeyError or Refused on a row that says anything unexpected.

    The monotonic clock of another boot says nothing: the whole time then counts again from now, longer, never shorter.
    """
    mono = _number(row["engaged_mono"])
    if not boot or row["boot"] != boot or mono > clock.monotonic():
        mono = clock.monotonic()
    at = _number(row["engaged_at"])
    return Kill(
        id=_text(row["id"]),
        target=Scope.parse(_text(row["scope"])),
        reason=_text(row["reason"]),
        by=_text(row["by"]),
        at=at,
        mono=mono,
        ttl_s=None if row["expires_at"] is None else _number(row["expires_at"]) - at,
        durable=True,
        lifted=_lift(row),
    )


def _lift(row: Mapping[str, Any]) -> Lift | None:
    if row["lifted_at"] is None:
        return None
    return Lift(_number(row["lifted_at"]), _text(row["lifted_by"]), _text(row["lift_reason"]))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"text expected, found {type(value).__name__}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"a number expected, found {value!r}"[:80])
    return float(value)

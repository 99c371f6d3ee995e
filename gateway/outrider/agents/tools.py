"""What is known of a tool that an agent declares, and when it has drifted. Pure.

The first digest seen is trusted. Another one is drift, until a person accepts it; what was accepted once stays trusted,
so that neither a rolling deployment nor a way back is drift again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from outrider import clock

MAX_TRUSTED = 4
"""Digests of one tool that are trusted; the one accepted longest ago goes first."""


@dataclass(frozen=True, slots=True)
class KnownTool:
    """``trusted`` digests, oldest first; none for a tool that was declared without one. ``drifted_at`` is seconds
    since the epoch, None while there is no drift."""

    name: str
    trusted: tuple[str, ...]
    latest: str
    first_seen: float
    drifted_at: float | None = None
    accepted_by: str = ""
    accepted_why: str = ""

    @property
    def drifted(self) -> bool:
        return self.drifted_at is not None

    def as_dict(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "name": self.name,
            "digest": self.latest,
            "trusted": list(self.trusted),
            "first_seen": clock.stamp(self.first_seen),
            "drifted": self.drifted,
        }
        if self.drifted_at is not None:
            shown["drifted_at"] = clock.stamp(self.drifted_at)
        if self.accepted_by:
            shown |= {"accepted_by": self.accepted_by, "accepted_why": self.accepted_why}
        return shown


def declared(known: KnownTool | None, name: str, digest: str, now: float) -> KnownTool:
    """What is known after a declaration; the very same object where nothing is new. A way back to a trusted digest
    does not end a drift: a person does."""
    if known is None:
        return KnownTool(name, (digest,) if digest else (), digest, now)
    if not digest or digest == known.latest:
        return known
    if not known.trusted:
        return replace(known, trusted=(digest,), latest=digest)
    if digest in known.trusted:
        return known if known.drifted else replace(known, latest=digest)
    return replace(known, latest=digest, drifted_at=known.drifted_at or now)


def accepted(known: KnownTool, by: str, why: str) -> KnownTool:
    """A person trusts what the tool is now."""
    trusted = (*(digest for digest in known.trusted if digest != known.latest), known.latest)[-MAX_TRUSTED:]
    return replace(known, trusted=trusted, drifted_at=None, accepted_by=by, accepted_why=why)

"""Who is signed in at the page. In memory only: a restart signs everybody out.

A session is opened with the admin token and found again by a secret that only the person's browser holds. Kept is its
SHA-256, so that what is read out of this process opens nothing; the secret is 256 random bits, which needs no slower
hash. ``now`` is monotonic seconds.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from outrider.domains.rate import TokenBucket
from outrider.policy.plans import RateLimit

IDLE_S = 30 * 60.0
"""A session that no page used for this long is over. A page that is open uses it all the time."""
LASTS_S = 12 * 3600.0
"""However much it is used."""
MAX_SESSIONS = 64
"""The one unused for longest makes room."""
FAILURES = RateLimit(rate_per_s=0.2, burst=10)
"""Wrong tokens that are looked at; past these, nothing is looked at until one more is due."""


@dataclass(slots=True, eq=False)
class Session:
    """``name`` is what the person said on signing in, for the ledger."""

    name: str
    opened: float
    used: float
    over: bool = False

    def lives(self, now: float) -> bool:
        return not self.over and now - self.used < IDLE_S and now - self.opened < LASTS_S


class Sessions:
    """The sessions of one sidecar."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, Session] = OrderedDict()  # unused for longest first
        self._failures = TokenBucket(FAILURES)

    def open(self, name: str, now: float) -> str:
        """The secret of a new session."""
        self._sweep(now)
        while len(self._open) >= MAX_SESSIONS:
            self._open.popitem(last=False)[1].over = True
        secret = secrets.token_urlsafe(32)
        self._open[_key(secret)] = Session(name, now, now)
        return secret

    def find(self, secret: str, now: float) -> Session | None:
        """The live session of this secret; being asked for is being used."""
        key = _key(secret)
        session = self._open.get(key)
        if session is None:
            return None
        if not session.lives(now):
            del self._open[key]
            return None
        session.used = now
        self._open.move_to_end(key)
        return session

    def close(self, secret: str) -> None:
        """Signed out: what the session holds open ends too."""
        session = self._open.pop(_key(secret), None)
        if session is not None:
            session.over = True

    def _sweep(self, now: float) -> None:
        for key in [key for key, session in self._open.items() if not session.lives(now)]:
            del self._open[key]

    # ── wrong tokens ─────────────────────────────────────────────────────────────────────────────────────────────

    def patience_s(self, now: float) -> float:
        """How long until a token is looked at again; 0: now."""
        return math.ceil(self._failures.wait_s(now) * 1000) / 1000

    def failed(self, now: float) -> None:
        """A wrong token was given."""
        self._failures.take(now)


def _key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

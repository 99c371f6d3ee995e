"""Sessions of the legacy era: from ``initialize`` to DELETE, or until nobody has used them for a time."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from outrider import clock
from outrider.flight import Flight
from outrider.mcp.answering import Answer
from outrider.mcp.calling import Questions

MAX_SESSIONS = 1_000
MAX_RESOURCES = 1_000
"""Of one session; changes of further ones are not told."""
IDLE_S = 3600.0
"""A session that nobody used for this long is forgotten; its client is told to begin anew (404)."""


@dataclass(slots=True, eq=False)
class Session:
    """``owner`` names the credential that opened it; no other may use it. ``flights``: its calls under way by the id
    of their request. ``stream``: its GET stream. ``resources``: those whose changes it wants to know."""

    id: str
    owner: str
    endpoint: str
    version: str
    capabilities: Mapping[str, Any]
    used: float
    questions: Questions = field(default_factory=Questions)
    flights: dict[Any, Flight] = field(default_factory=dict)
    stream: Answer | None = None
    resources: set[str] = field(default_factory=set)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Sessions:
    """Bounded: past ``MAX_SESSIONS`` the one that was used longest ago makes room."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, owner: str, endpoint: str, version: str, capabilities: Mapping[str, Any]) -> Session:
        """A new one, with an id that nobody can guess."""
        now = clock.monotonic()
        self._drop_idle(now)
        while len(self._sessions) >= MAX_SESSIONS:
            self._end(next(iter(self._sessions.values())))
        session = Session(secrets.token_urlsafe(24), owner, endpoint, version, capabilities, now)
        self._sessions[session.id] = session
        return session

    def find(self, id_: str, owner: str, endpoint: str) -> Session | None:
        """The session, where this credential opened it at this endpoint."""
        session = self._sessions.get(id_)
        if session is None or session.owner != owner or session.endpoint != endpoint:
            return None
        session.used = clock.monotonic()
        self._sessions.move_to_end(id_)
        return session

    def all(self) -> list[Session]:
        return list(self._sessions.values())

    def followed(self, session: Session, method: str, params: Mapping[str, Any]) -> None:
        """The server took a subscription to a resource, or its end."""
        uri = params.get("uri")
        if not isinstance(uri, str):
            return
        if method == "resources/unsubscribe":
            session.resources.discard(uri)
        elif method == "resources/subscribe" and len(session.resources) < MAX_RESOURCES:
            session.resources.add(uri)

    def close(self, session: Session) -> None:
        """Its client says that it is over."""
        self._end(session)

    def _drop_idle(self, now: float) -> None:
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if now - oldest.used < IDLE_S:
                return
            self._end(oldest)

    def _end(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        session.over.set()

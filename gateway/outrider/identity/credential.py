"""What a bearer turned out to be: a credential, or a denial with the sentence that the caller reads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from outrider import clock
from outrider.calls import Agent, Principal
from outrider.errors import Code

UNNAMED = frozenset({"", "anonymous"})
"""What an adapter says that was not told its agent's name."""


@dataclass(frozen=True, slots=True)
class Denial:
    """``lapsed``: nothing is wrong with who it is, only with what was shown: calls under way go on, and the process may
    come back with something fresh. ``until``: asking again after it may give another answer."""

    detail: str
    lapsed: bool = False
    code: Code = Code.UNAUTHENTICATED
    until: asyncio.Future[None] | None = field(default=None, compare=False)


NO_ISSUER = Denial("This sidecar takes no JWTs: its policy names no issuer (identity.jwt).")


class Credential:
    """What was shown, and what it proves. One object for as long as it is known, so that whoever holds it (a channel's
    session, a call under way) sees what became of it: ``denial`` is set once it is worth nothing any more.

    ``agents`` maps the names that may be used with it, None for any (the shared token). The two times are a
    permission's: it is over when either clock says so."""

    __slots__ = ("__weakref__", "agent", "agents", "denial", "expires_mono", "expires_wall", "principal", "what")

    def __init__(
        self,
        agents: Mapping[str, Agent] | None,
        principal: Principal,
        what: str,
        expires_wall: float | None = None,
        expires_mono: float = 0.0,
    ) -> None:
        self.agents = agents
        self.agent = next(iter(agents.values())) if agents else Agent()
        self.principal = replace(principal, credential=self)
        self.what = what
        self.expires_wall = expires_wall
        self.expires_mono = expires_mono
        self.denial: Denial | None = None

    @property
    def is_proven(self) -> bool:
        """Whether it proves a name: all but the shared token do."""
        return self.agents is not None

    def agent_named(self, name: str) -> Agent | None:
        """Who calls under this name; left out, it is the credential's own. None: the name is another's."""
        if self.agents is None:
            return Agent(name or "anonymous")
        return self.agents.get(name) if name else self.agent

    def foreign(self, name: str) -> str:
        """The refusal of a name that is not this credential's."""
        own = ", ".join(f"'{known}'" for known in list(self.agents or ())[:5])
        return (
            f"{self.what} is of agent {own}, and this calls as '{name[:80]}'. Leave the name out, or use a credential "
            f"of '{name[:80]}'."
        )

    def refusal(self) -> Denial | None:
        """Why it is worth nothing any more, None while it is good."""
        if self.denial is None and self.expires_wall is not None and self._is_over(self.expires_wall):
            self.denial = Denial(f"{self.what} has expired. Get a new one; see docs/identity.md.", lapsed=True)
        return self.denial

    def _is_over(self, expires_wall: float) -> bool:
        return clock.wall() >= expires_wall or clock.monotonic() >= self.expires_mono


def shared() -> Credential:
    """The one token in the data folder, with which any name may be used: the name is the caller's own word."""
    return Credential(None, Principal("token:agent"), "The shared agents' token")

"""A token of an agent's own: ``ort_<id>_<secret>``.

The prefix is there to be found by people and by scanners for secrets; the id is no secret and is what people, the
ledger and lists name it by. Of the secret (256 random bits) only a plain SHA-256 is kept: a slow, salted hash protects
words that can be guessed, and nobody guesses those bits; it would merely cost each call milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outrider import clock
from outrider.calls import Agent, Principal
from outrider.identity.credential import Credential, Denial

PREFIX: Final = "ort_"
_ID: Final = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Revocation:
    """Times are seconds since the epoch."""

    at: float
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token. ``tools`` only narrow what rules allow; () is no limit. ``epoch`` is the number of the
    newest epoch when it was issued. Times are seconds since 1970, ``issued_mono`` monotonic seconds of ``boot``."""

    id: str
    digest: bytes = field(repr=False)
    agent: str
    also: tuple[str, ...]
    owner: str
    labels: Mapping[str, str]
    tools: tuple[str, ...]
    epoch: int
    issued_at: float
    issued_by: str
    issued_mono: float
    boot: str
    expires_at: float | None = None
    revoked: Revocation | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.agent, *self.also)

    def facts(self) -> dict[str, Any]:
        """For programs and the ledger; never anything of the secret."""
        known: dict[str, Any] = {
            "id": self.id,
            "agent": self.agent,
            "also": list(self.also),
            "owner": self.owner,
            "labels": dict(self.labels),
            "tools": list(self.tools),
            "issued_at": clock.stamp(self.issued_at),
            "issued_by": self.issued_by,
            "expires_at": None if self.expires_at is None else clock.stamp(self.expires_at),
        }
        if self.revoked is not None:
            known["revoked_at"] = clock.stamp(self.revoked.at)
            known["revoked_by"] = self.revoked.by
            known["revoke_reason"] = self.revoked.reason
        return known


class Held:
    """A token in the index, with the credential it proves."""

    __slots__ = ("credential", "durable", "token", "used_at")

    def __init__(self, token: Token, boot: str) -> None:
        self.token = token
        self.durable = True
        self.used_at: float | None = None  # since this start; seconds since the epoch
        self.credential = _credential(token, boot)
        if token.revoked is not None:
            self.credential.denial = revoked(token)

    def matches(self, bearer: str) -> bool:
        """In a time that does not depend on where the two differ."""
        return hmac.compare_digest(digest_of(bearer), self.token.digest)

    @property
    def state(self) -> str:
        denial = self.credential.refusal()
        if denial is None:
            return "valid"
        return "expired" if denial.lapsed else "revoked"

    def as_dict(self) -> dict[str, Any]:
        denial = self.credential.refusal()
        return self.token.facts() | {
            "state": self.state,
            "why": "" if denial is None else denial.detail,
            "last_used_at": None if self.used_at is None else clock.stamp(self.used_at),
            "durable": self.durable,
        }


def mint() -> tuple[str, str]:
    """A new id and the whole token."""
    token_id = secrets.token_hex(6)
    return token_id, f"{PREFIX}{token_id}_{secrets.token_urlsafe(32)}"


def id_in(bearer: str) -> str:
    """The id that a text with our prefix names; empty for one that is none of ours."""
    found = bearer[4:16]
    return found if bearer[16:17] == "_" and _ID.fullmatch(found) else ""


def digest_of(bearer: str) -> bytes:
    return hashlib.sha256(bearer.encode("utf-8", "surrogateescape")).digest()


def revoked(token: Token) -> Denial:
    """What its holder is told after a person revoked it."""
    assert token.revoked is not None
    return Denial(f"The token {token.id} was revoked: {token.revoked.reason}. {how_to_mend(token.agent)}")


def how_to_mend(agent: str) -> str:
    return f"A person issues a new one with: outrider tokens issue {agent}"


def _credential(token: Token, boot: str) -> Credential:
    labels = dict(token.labels)
    agents = {name: Agent(name, labels=labels, owner=token.owner, asserted=False) for name in token.names}
    principal = Principal(f"token:{token.id}", tools=token.tools, holder=f"agent:{token.agent}")
    return Credential(agents, principal, f"The token {token.id}", token.expires_at, _expires_mono(token, boot))


def _expires_mono(token: Token, boot: str) -> float:
    """When it is over by the monotonic clock. Of another boot that clock says nothing: then what the wall clock says is
    left counts from now."""
    if token.expires_at is None:
        return 0.0
    left_s = token.expires_at - clock.wall()
    if boot and token.boot == boot:
        return min(token.issued_mono + token.expires_at - token.issued_at, clock.monotonic() + left_s)
    return clock.monotonic() + left_s

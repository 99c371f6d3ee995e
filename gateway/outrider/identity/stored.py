"""Tokens as rows of the store: the statements that ride in the ledger's transaction, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from outrider.identity.tokens import Revocation, Token

Mutation = tuple[str, tuple[Any, ...]]

SELECT: Final = "SELECT * FROM tokens ORDER BY issued_at"
_INSERT: Final = (
    "INSERT INTO tokens (id, digest, agent, also, owner, labels, tools, epoch, issued_at, issued_by, issued_mono, "
    "boot, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REVOKE: Final = "UPDATE tokens SET revoked_at = ?, revoked_by = ?, revoke_reason = ? WHERE id = ?"
_DELETE: Final = "DELETE FROM tokens WHERE id = ?"


def issued(token: Token, forgotten: Iterable[str]) -> list[Mutation]:
    """Writes the token; ``forgotten`` are the ids that make room for it."""
    row = (
        token.id,
        token.digest,
        token.agent,
        json.dumps(token.also),
        token.owner,
        json.dumps(dict(token.labels)),
        json.dumps(token.tools),
        token.epoch,
        token.issued_at,
        token.issued_by,
        token.issued_mono,
        token.boot,
        token.expires_at,
    )
    return [(_INSERT, row), *((_DELETE, (token_id,)) for token_id in forgotten)]


def revoked(token: Token) -> list[Mutation]:
    """Marks the token's row; once more is harmless."""
    assert token.revoked is not None
    how = token.revoked
    return [(_REVOKE, (how.at, how.by, how.reason, token.id))]


def read(row: Mapping[str, Any]) -> Token:
    """The token of a row. Raises ValueError, TypeError or KeyError on a row that says anything unexpected."""
    digest, expires_at, revoked_at = row["digest"], row["expires_at"], row["revoked_at"]
    if not isinstance(digest, bytes) or len(digest) != 32:
        raise TypeError("the digest is not one")
    revocation = None
    if revoked_at is not None:
        revocation = Revocation(float(revoked_at), str(row["revoked_by"]), str(row["revoke_reason"]))
    return Token(
        id=_text(row["id"]),
        digest=digest,
        agent=_text(row["agent"]),
        also=_texts(row["also"]),
        owner=str(row["owner"]),
        labels={_text(key): _text(value) for key, value in json.loads(row["labels"]).items()},
        tools=_texts(row["tools"]),
        epoch=int(row["epoch"]),
        issued_at=float(row["issued_at"]),
        issued_by=str(row["issued_by"]),
        issued_mono=float(row["issued_mono"]),
        boot=str(row["boot"]),
        expires_at=None if expires_at is None else float(expires_at),
        revoked=revocation,
    )


def _texts(value: str) -> tuple[str, ...]:
    found = json.loads(value)
    if not isinstance(found, list):
        raise TypeError("a list expected")
    return tuple(_text(entry) for entry in found)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, found {type(value).__name__}")
    return value

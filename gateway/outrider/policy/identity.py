"""Who agents are believed to be, as compiled: what ``identity`` in a policy comes to. All durations are seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

CAPTURE: Final = "{name}"
"""Stands for one or more characters but ``/`` and ``:``: a segment of a SPIFFE path, the name of a service account."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a text comes from: a claim of the JWT, by its path, or ``value`` where no path is given. ``pattern`` is the
    form that the claim must have, and which part of it counts; empty: all of it, whatever it is."""

    path: tuple[str, ...] = ()
    pattern: str = ""
    value: str = ""

    def of(self, claims: Mapping[str, Any]) -> str:
        """The text; empty where there is none, or none of this form."""
        if not self.path:
            return self.value
        found: Any = claims
        for key in self.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, str):
            return ""
        return captured(self.pattern, found) if self.pattern else found


def captured(pattern: str, text: str) -> str:
    """What ``{name}`` stands for in ``text``; empty where the text is not of this form."""
    before, _, after = pattern.partition(CAPTURE)
    found = re.fullmatch(f"{re.escape(before)}([^/:]+){re.escape(after)}", text)
    return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class KeysFrom:
    """Where an issuer publishes its keys: a file, or a URL with what is needed to ask it."""

    file: str = ""
    url: str = ""
    ca_file: str = ""
    token_file: str = ""
    refresh_s: float = 300.0


@dataclass(frozen=True, slots=True)
class JwtIssuer:
    """Whose JWTs are believed, and what their claims mean here: ``issuer`` is their ``iss``; or, for JWT-SVIDs, which
    need none, ``trust_domain`` is that of their ``sub``."""

    issuer: str
    trust_domain: str
    audience: tuple[str, ...]
    keys: KeysFrom
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    leeway_s: float = 30.0
    max_bytes: int = 8 * 1024
    agent: Claim = Claim(("sub",))
    owner: Claim = Claim()
    labels: tuple[tuple[str, Claim], ...] = ()
    on_behalf_of: Claim = Claim()

    @property
    def who(self) -> str:
        """For sentences."""
        return f"issuer {self.issuer}" if self.issuer else f"trust domain {self.trust_domain}"


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """``shared_token``: whether the one token in the data folder may be used."""

    shared_token: bool = True
    jwt: tuple[JwtIssuer, ...] = ()

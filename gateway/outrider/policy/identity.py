"""Who agents are believed to be, as compiled: what ``identity`` in a policy comes to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """``shared_token``: whether the one token in the data folder may be used."""

    shared_token: bool = True

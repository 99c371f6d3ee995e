"""Who may call what, under which condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from outrider.calls import Agent


@dataclass(frozen=True, slots=True)
class Facts:
    """What a condition may ask about. ``now`` is seconds since the epoch."""

    tool: str
    args: Mapping[str, Any]
    agent: Agent
    run: str = ""
    session: str = ""
    principal: str = ""
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the access rules. ``effect`` no_rule: nothing matched, which denies.

    ``rule`` is the deciding rule's name. ``error`` says why a condition could not be evaluated; in a deny or approval
    rule that denies. ``shadows`` are rules that are only watched and would have decided otherwise: (name, effect).
    """

    effect: Literal["allow", "deny", "require_approval", "no_rule"]
    rule: str | None = None
    reason: str = ""
    error: str = ""
    approvers: tuple[str, ...] = ()
    shadows: tuple[tuple[str, str], ...] = ()

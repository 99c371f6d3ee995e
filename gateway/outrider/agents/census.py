"""The agents in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Census:
    """How many there are of each kind. ``connected`` counts processes, ``waiting`` calls, ``drifted`` tools."""

    commanded: Counter[str] = field(default_factory=Counter)
    observed: Counter[str] = field(default_factory=Counter)
    undeclared: int = 0
    waiting: int = 0
    drifted: int = 0
    connected: int = 0

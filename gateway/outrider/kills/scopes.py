"""What a kill covers, one kill, and how many are searched at once. Pure: nothing here writes or waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from outrider import clock
from outrider.errors import Code, Refused

MAX_TEXT = 500
"""Characters of a name or a reason. Longer reasons are cut, longer names refused."""

HOW_TO_WRITE = "Write global, agent:NAME, agent:PREFIX*, run:ID, tool:NAME, tool:PREFIX* or upstream:NAME."


@dataclass(frozen=True, slots=True)
class Scope:
    """What a kill covers. ``name`` is empty for global; an agent's or tool's may end in ``*``: names that begin so."""

    kind: str
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """``global``, ``agent:<pattern>``, ``run:<id>``, ``tool:<pattern>``, ``upstream:<name>``. Raises Refused."""
        kind, colon, name = text.strip().partition(":")
        if kind == "global" and not colon:
            return cls("global")
        if fault := _fault(kind, name):
            raise invalid(f"The scope '{shown(text)}' {fault} {HOW_TO_WRITE}")
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    def covers(self, agent: str, run: str, tool: str, upstream: str) -> bool:
        """The meaning of a scope, one at a time; ``Index`` answers the same for many, faster."""
        if self.kind == "global":
            return True
        subject = {"agent": agent, "run": run, "tool": tool, "upstream": upstream}[self.kind]
        if self.kind in ("agent", "tool") and self.name.endswith("*"):
            return subject.startswith(self.name[:-1])
        return subject == self.name


def _fault(kind: str, name: str) -> str:
    """What is wrong with a scope that is not ``global``, as the rest of a sentence; empty when nothing is."""
    if kind not in ("agent", "run", "tool", "upstream"):
        return "is none that exists."
    if not name.strip():
        return f"names no {kind}."
    if name != name.strip():
        return "has blanks around its name."
    if len(name) > MAX_TEXT or not name.isprintable():
        return f"has a name that is longer than {MAX_TEXT} characters or holds control characters."
    if kind in ("run", "upstream"):
        return f"has a '*'; {kind}s are named exactly." if "*" in name else ""
    return "has a '*' before its end; only a last one makes a prefix." if "*" in name[:-1] else ""


def invalid(sentence: str) -> Refused:
    """The refusal of a request that cannot be understood."""
    return Refused(sentence, {"code": Code.INVALID_REQUEST.value})


def stays(sentence: str) -> Refused:
    """The refusal to release what cannot be released durably now."""
    return Refused(sentence, {"code": Code.LEDGER_UNAVAILABLE.value})


def shown(text: str) -> str:
    """Text from outside for a sentence or a log line: short, and without control characters."""
    short = text if len(text) <= 80 else text[:77] + "..."
    return short if short.isprintable() else short.encode("unicode_escape").decode("ascii")


@dataclass(frozen=True, slots=True)
class Lift:
    """How a kill ended. ``at`` is seconds since the epoch; ``by`` is ``expiry`` when its time was over. ``via`` names
    the peer that told us, empty where it was lifted here."""

    at: float
    by: str
    reason: str
    via: str = ""


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill switch. ``at`` is seconds since the epoch, ``mono`` monotonic seconds of this boot; ``ttl_s`` None means
    until a person lifts it. ``durable`` is False while it could not be written. ``row`` names the stored row where that
    could not be read, -1 where none could. ``via`` names the peer that told us, empty where it was engaged here."""

    id: str
    target: Scope
    reason: str
    by: str
    at: float
    mono: float
    ttl_s: float | None = None
    durable: bool = False
    lifted: Lift | None = None
    row: int | None = None
    via: str = ""

    @property
    def scope(self) -> str:
        """As a person writes it."""
        return str(self.target)

    @property
    def told_by(self) -> str:
        """The peer that told us the last of it; empty where that happened here."""
        return self.via if self.lifted is None else self.lifted.via

    def expired(self, wall: float, mono: float) -> bool:
        """A restriction ends only when both clocks say so: setting one of them forward frees nobody."""
        return self.ttl_s is not None and wall >= self.at + self.ttl_s and mono >= self.mono + self.ttl_s

    def outlasting(self, other: Kill) -> Kill:
        """This kill, lasting at least as long as ``other``, by either clock. Itself when it already does."""
        if self.ttl_s is None:
            return self
        if other.ttl_s is None:
            return replace(self, ttl_s=None)
        longest_s = max(other.at - self.at, other.mono - self.mono) + other.ttl_s
        return self if longest_s <= self.ttl_s else replace(self, ttl_s=longest_s)

    def facts(self) -> dict[str, Any]:
        """For programs and for the ledger: times in RFC 3339; ``expires_at`` is by the wall clock, None for never."""
        known: dict[str, Any] = {
            "id": self.id,
            "scope": self.scope,
            "reason": self.reason,
            "by": self.by,
            "engaged_at": clock.stamp(self.at),
            "expires_at": None if self.ttl_s is None else clock.stamp(self.at + self.ttl_s),
        }
        if self.told_by:
            known["via"] = self.told_by
        if self.lifted is not None:
            known["lifted_at"] = clock.stamp(self.lifted.at)
            known["lifted_by"] = self.lifted.by
            known["lift_reason"] = self.lifted.reason
        return known

    def as_dict(self) -> dict[str, Any]:
        """As ``facts``, and whether it is on disk yet."""
        return self.facts() | {"durable": self.durable}


def new(scope: Scope, reason: str, by: str, ttl_s: float | None = None) -> Kill:
    """One that somebody asks for now."""
    return Kill(
        id=clock.new_id(),
        target=scope,
        reason=cut(reason) or "no reason given",
        by=cut(by) or "unknown",
        at=clock.wall(),
        mono=clock.monotonic(),
        ttl_s=ttl_s,
    )


def cut(text: str) -> str:
    """A reason or a name, as long as it may be."""
    return text.strip()[:MAX_TEXT]


class Index:
    """Finds a kill in a time that does not grow with their number: one look-up for each length of prefix in use."""

    __slots__ = ("_everything", "_exact", "_prefixes")

    def __init__(self, kills: Iterable[Kill]) -> None:
        self._everything: Kill | None = None
        self._exact: dict[str, dict[str, Kill]] = {"agent": {}, "run": {}, "tool": {}, "upstream": {}}
        self._prefixes: dict[str, dict[int, dict[str, Kill]]] = {"agent": {}, "tool": {}}
        for kill in kills:
            self._add(kill)

    def _add(self, kill: Kill) -> None:
        kind, name = kill.target.kind, kill.target.name
        if kind == "global":
            self._everything = kill
        elif kind in self._prefixes and name.endswith("*"):
            self._prefixes[kind].setdefault(len(name) - 1, {})[name[:-1]] = kill
        else:
            self._exact[kind][name] = kill

    def find(self, agent: str, run: str, tool: str, upstream: str) -> Kill | None:
        exact = self._exact
        return (
            self._everything
            or exact["run"].get(run)
            or exact["agent"].get(agent)
            or exact["tool"].get(tool)
            or exact["upstream"].get(upstream)
            or self._by_prefix("agent", agent)
            or self._by_prefix("tool", tool)
        )

    def _by_prefix(self, kind: str, name: str) -> Kill | None:
        for length, kills in self._prefixes[kind].items():
            if (kill := kills.get(name[:length])) is not None:
                return kill
        return None

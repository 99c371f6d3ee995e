"""What people send to the control plane, read strictly: every fault of a body or a query is told at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import FieldInfo

from outrider import clock
from outrider.agents.lifecycle import MAX_DRAIN_S
from outrider.errors import Code, Refused
from outrider.ledger.query import MAX_LIMIT, Filter
from outrider.policy.units import parse_duration

T = TypeVar("T")
DEFAULT_LIMIT = 100
FOREVER_S = 100_000 * 3600.0
"""A ttl longer than this (eleven years) is a slip of the hand: without one a kill lasts until it is lifted."""


class KillBody(msgspec.Struct, frozen=True):
    """``POST /v1/kills``. ``ttl`` is a duration with a unit."""

    scope: str
    reason: str
    ttl: str | int | float | None = None

    def ttl_s(self) -> float | None:
        """Seconds, None for "until it is lifted"."""
        return parse_duration(self.ttl) if isinstance(self.ttl, str) else None


class ReasonBody(msgspec.Struct, frozen=True):
    """``DELETE /v1/kills/{id}`` and ``POST /v1/ledger/{id}/erase``."""

    reason: str


class DrainBody(msgspec.Struct, frozen=True):
    """``POST /v1/agents/{name}/drain``. ``deadline`` is a duration with a unit: so long calls in flight may take."""

    reason: str
    deadline: str | int | float | None = None

    def deadline_s(self) -> float | None:
        """Seconds, None where none was named."""
        return parse_duration(self.deadline) if isinstance(self.deadline, str) else None


class AcceptBody(msgspec.Struct, frozen=True):
    """``POST /v1/agents/{name}/accept``."""

    tool: str
    reason: str


class AcceptToolsBody(msgspec.Struct, frozen=True):
    """``POST /v1/upstreams/{name}/accept``. No tool: all that have drifted."""

    reason: str
    tool: str = ""


class SettleBody(msgspec.Struct, frozen=True, rename={"as_": "as"}):
    """``POST /v1/calls/{id}/settle``."""

    as_: Literal["executed", "not_executed"]
    reason: str


class NoBody(msgspec.Struct, frozen=True):
    """``POST /v1/policy/reload``: nothing, or an empty object."""


Fault = dict[str, str]
Checks = Mapping[str, Callable[[Any], str]]


def read_body(raw: bytes, shape: type[T], checks: Checks | None = None) -> T:
    """The body as ``shape``, its fields checked by ``checks``, or as their names say everywhere. Raises Refused with
    every fault: ``errors`` is a list of {field, message}."""
    if not raw.strip() and shape is NoBody:
        return shape()
    try:
        given = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _refusal([{"field": "", "message": f"the body is not JSON: {error}"}]) from None
    if not isinstance(given, dict):
        raise _refusal([{"field": "", "message": "the body is not a JSON object"}])
    if faults := _faults(given, msgspec.structs.fields(shape), CHECKS if checks is None else checks):  # type: ignore[arg-type]
        raise _refusal(faults)
    return msgspec.convert(given, shape)


def _faults(given: Mapping[str, Any], fields: Sequence[FieldInfo], checks: Checks) -> list[Fault]:
    known = [field.encode_name for field in fields]
    faults = [_unknown(name, known) for name in given if name not in known]
    for field in fields:
        name = field.encode_name
        message = _field_fault(field, given[name], checks) if name in given else "is missing" if field.required else ""
        if message:
            faults.append({"field": name, "message": message})
    return faults


def _field_fault(field: FieldInfo, value: Any, checks: Checks) -> str:
    try:
        msgspec.convert(value, field.type)
    except msgspec.ValidationError as error:
        return f"is wrong: {error}"
    check = checks.get(field.encode_name)
    return "" if check is None else check(value)


def _unknown(name: str, known: list[str]) -> Fault:
    near = get_close_matches(name, known, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known) or 'none'}"
    return {"field": name[:80], "message": f"is not known; {hint}"}


def _unsaid(value: str) -> str:
    return "" if value.strip() else "is empty; say why, for those who read it later"


def _not_a_ttl(value: str | float | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value} has no unit; write for example '{value}s', or leave it out"
    seconds = parse_duration(value)
    if seconds is not None and 0 < seconds <= FOREVER_S:
        return ""
    return f"'{value[:40]}' is not a time to last; write for example 30s, 15m or 2h, or leave it out"


def _not_a_deadline(value: str | float | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value} has no unit; write for example '{value}s', or leave it out"
    seconds = parse_duration(value)
    if seconds is not None and seconds <= MAX_DRAIN_S:
        return ""
    return f"'{value[:40]}' is not how long a drain may take; write for example 30s or 5m, at most 24h"


CHECKS: Checks = {"reason": _unsaid, "ttl": _not_a_ttl, "deadline": _not_a_deadline}


def _refusal(faults: list[Fault]) -> Refused:
    told = "; ".join(
        f"'{fault['field']}' {fault['message']}" if fault["field"] else fault["message"] for fault in faults
    )
    return Refused(f"The request cannot be understood: {told}.", {"code": Code.INVALID_REQUEST.value, "errors": faults})


# ── queries ──────────────────────────────────────────────────────────────────────────────────────────────────────


def refuse_unknown(query: Mapping[str, str], *known: str) -> None:
    """A misspelt filter must not look like one that matched everything. Raises Refused."""
    if faults := [_unknown(name, list(known)) for name in query if name not in known]:
        raise _refusal(faults)


class LedgerQuery(msgspec.Struct, frozen=True):
    """``GET /v1/ledger``. ``before`` and ``after`` are record numbers: where the page before ended."""

    wanted: Filter
    limit: int
    before: int | None
    after: int | None

    @classmethod
    def read(cls, query: Mapping[str, str]) -> LedgerQuery:
        """Raises Refused with every fault."""
        words = ("call_id", "agent", "tool", "type")
        refuse_unknown(query, *words, "since", "until", "limit", "before", "after")
        faults: list[Fault] = []
        times = {name: _moment(name, query, faults) for name in ("since", "until")}
        numbers = {name: _count(name, query, faults) for name in ("limit", "before", "after")}
        if "after" in query and not {"after", "limit"}.issuperset(query):
            faults.append({"field": "after", "message": "takes no filter: it follows the ledger record by record"})
        if faults:
            raise _refusal(faults)
        wanted = Filter(**{word: query.get(word, "") for word in words}, since=times["since"], until=times["until"])
        limit = DEFAULT_LIMIT if numbers["limit"] is None else min(numbers["limit"], MAX_LIMIT)
        return cls(wanted, limit, numbers["before"], numbers["after"])


def whole_number(name: str, query: Mapping[str, str], default: int) -> int:
    """A count in a query, at most ``MAX_LIMIT``. Raises Refused."""
    faults: list[Fault] = []
    found = _count(name, query, faults)
    if faults:
        raise _refusal(faults)
    return default if found is None else min(found, MAX_LIMIT)


def _count(name: str, query: Mapping[str, str], faults: list[Fault]) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    faults.append({"field": name, "message": f"'{text[:40]}' is not a whole number"})
    return None


def _moment(name: str, query: Mapping[str, str], faults: list[Fault]) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    moment = parse_moment(text)
    if moment is None:
        faults.append({"field": name, "message": f"'{text[:40]}' is no time; write 15m (ago) or 2026-11-22T15:04:05Z"})
    return moment


def parse_moment(text: str) -> float | None:
    """Seconds since the epoch of ``15m`` (so long ago) or of an RFC 3339 time (UTC where it names no zone)."""
    ago_s = parse_duration(text)
    if ago_s is not None:
        return clock.wall() - ago_s
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # a '+' in a query arrives as a blank
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()

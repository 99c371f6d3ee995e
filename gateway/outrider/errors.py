"""The whole error tree and the table of codes.

    OutriderError
    ├── Refused         Outrider's own "no", with a code: nothing was sent, or a kill ended what was
    ├── Failed          the tool was tried and did not succeed; says whether it may have run
    └── Misconfigured   a setting or a policy is wrong; says where and how to mend it

An agent's process imports this file too, so it imports nothing outside the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Every problem a caller can read. Stable: programs are written against these words."""

    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    DENIED = "denied"
    NO_RULE = "no_rule"
    KILLED = "killed"
    APPROVAL_UNAVAILABLE = "approval_unavailable"
    UNKNOWN_TOOL = "unknown_tool"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    PRIOR_OUTCOME_UNKNOWN = "prior_outcome_unknown"
    RUN_LIMIT = "run_limit"
    RUNAWAY = "runaway"
    RATE_LIMITED = "rate_limited"
    UPSTREAM_FAILED = "upstream_failed"
    OVERLOADED = "overloaded"
    BREAKER_OPEN = "breaker_open"
    UPSTREAM_UNREADY = "upstream_unready"
    AGENT_GONE = "agent_gone"
    AGENT_CORDONED = "agent_cordoned"
    AGENT_DRAINING = "agent_draining"
    AGENT_PAUSED = "agent_paused"
    AGENT_RETIRED = "agent_retired"
    AGENT_UNDECLARED = "agent_undeclared"
    TOOL_DRIFTED = "tool_drifted"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    DRAINING = "draining"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OUTCOME_UNKNOWN = "outcome_unknown"
    CANCELLED = "cancelled"
    SIDECAR_UNREACHABLE = "sidecar_unreachable"  # said by an adapter: no sidecar answered, nothing was begun
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class CodeRow:
    """How a code looks over HTTP. ``retryable`` is the default; an outcome may say otherwise, more strictly."""

    status: int
    title: str
    retryable: bool = False


CODES: Mapping[Code, CodeRow] = {
    Code.INVALID_REQUEST: CodeRow(400, "The request cannot be understood"),
    Code.TOO_LARGE: CodeRow(413, "The request is too large"),
    Code.UNAUTHENTICATED: CodeRow(401, "No valid credential"),
    Code.FORBIDDEN: CodeRow(403, "This credential may not be used here"),
    Code.DENIED: CodeRow(403, "A rule denies this call"),
    Code.NO_RULE: CodeRow(403, "No rule allows this call"),
    Code.KILLED: CodeRow(403, "A kill switch is engaged"),
    Code.APPROVAL_UNAVAILABLE: CodeRow(403, "This call needs an approval, and approvals are not available"),
    Code.UNKNOWN_TOOL: CodeRow(404, "No such tool"),
    Code.NOT_FOUND: CodeRow(404, "Not found"),
    Code.CONFLICT: CodeRow(409, "The present state does not allow this"),
    Code.PRIOR_OUTCOME_UNKNOWN: CodeRow(409, "The same call was made before and may have run"),
    Code.RUN_LIMIT: CodeRow(403, "This run has reached a limit"),
    Code.RUNAWAY: CodeRow(403, "This run repeats itself"),
    Code.RATE_LIMITED: CodeRow(429, "Too many calls", retryable=True),
    Code.UPSTREAM_FAILED: CodeRow(502, "The tool failed"),
    Code.OVERLOADED: CodeRow(503, "Too many calls at once", retryable=True),
    Code.BREAKER_OPEN: CodeRow(503, "The circuit breaker of this upstream is open", retryable=True),
    Code.UPSTREAM_UNREADY: CodeRow(503, "The upstream is not ready", retryable=True),
    Code.AGENT_GONE: CodeRow(503, "The agent's process that holds this tool is not connected", retryable=True),
    Code.AGENT_CORDONED: CodeRow(403, "The agent is cordoned: no new runs"),
    Code.AGENT_DRAINING: CodeRow(403, "The agent is being drained: nothing new"),
    Code.AGENT_PAUSED: CodeRow(503, "The agent is paused", retryable=True),
    Code.AGENT_RETIRED: CodeRow(403, "The agent is retired"),
    Code.AGENT_UNDECLARED: CodeRow(403, "The policy does not expect this agent as it is"),
    Code.TOOL_DRIFTED: CodeRow(403, "The tool is not what it was when first seen"),
    Code.LEDGER_UNAVAILABLE: CodeRow(503, "The ledger cannot be written", retryable=True),
    Code.DRAINING: CodeRow(503, "The sidecar is shutting down", retryable=True),
    Code.DEADLINE_EXCEEDED: CodeRow(504, "The deadline passed"),
    Code.OUTCOME_UNKNOWN: CodeRow(504, "The call may have run"),
    Code.CANCELLED: CodeRow(499, "The caller went away"),
    Code.SIDECAR_UNREACHABLE: CodeRow(503, "No sidecar answers", retryable=True),
    Code.INTERNAL: CodeRow(500, "A fault in Outrider; the call was refused"),
}


def problem(code: Code, detail: str, *, status: int | None = None, **extensions: Any) -> dict[str, Any]:
    """An RFC 9457 problem object. ``extensions`` that are None are left out; ``retryable`` defaults to the table's."""
    row = CODES[code]
    body: dict[str, Any] = {
        "type": f"urn:outrider:problem:{code.value}",
        "title": row.title,
        "status": status or row.status,
        "detail": detail,
        "code": code.value,
        "retryable": row.retryable,
    }
    body.update((key, value) for key, value in extensions.items() if value is not None)
    return body


class OutriderError(Exception):
    """Root of every exception that Outrider raises on purpose."""


class CallError(OutriderError):
    """A call that did not succeed. ``problem`` is the RFC 9457 object as the gateway wrote it."""

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.problem: Mapping[str, Any] = dict(problem or {})

    @property
    def code(self) -> str:
        return str(self.problem.get("code", ""))

    @property
    def outcome(self) -> str:
        return str(self.problem.get("outcome", ""))

    @property
    def retryable(self) -> bool:
        return bool(self.problem.get("retryable", False))

    @property
    def call_id(self) -> str:
        return str(self.problem.get("call_id", ""))


class Refused(CallError):
    """Outrider's own "no"."""


class Failed(CallError):
    """The tool was tried and did not succeed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a configuration: where, what, how to mend it."""

    file: str
    line: int
    path: str
    message: str
    fix: str = ""
    code: str = ""
    severity: str = "error"  # or "warning"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        path = f" {self.path}" if self.path else ""
        fix = f" Fix: {self.fix}" if self.fix else ""
        place = f"{where}{path}: " if where or path else ""
        return f"{place}{self.message}{fix}"


class Misconfigured(OutriderError):
    """A setting or a policy is wrong. ``faults`` holds every fault found, not only the first."""

    def __init__(self, faults: tuple[Fault, ...] | list[Fault] | str) -> None:
        self.faults = (Fault("", 0, "", faults),) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

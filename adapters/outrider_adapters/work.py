"""One call in the words of no framework: what is asked for, what it may end in, and what surrounds it."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from outrider.errors import Code

if TYPE_CHECKING:
    from outrider_adapters.exchange import Attempt

EndState = Literal["returned", "raised", "not_started", "timed_out", "suspended", "cancelled"]
"""How an attempt ended, in the wire's words."""
Body = Callable[[Mapping[str, Any]], Any]
AsyncBody = Callable[[Mapping[str, Any]], Awaitable[Any]]


# ── what a call may end in ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Value:
    """The function's own object, untouched."""

    value: Any


@dataclass(frozen=True, slots=True)
class Made:
    """A value that the gateway made: a fallback, or the answer of an upstream that is not this process."""

    value: Any
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Raise:
    """An exception that belongs to the framework or the interpreter: raise it untouched."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Problem:
    """The gateway's no, or a failure. ``error`` is the function's last exception; ``value`` what it returned where
    the framework told the failure in a value."""

    problem: Mapping[str, Any]
    error: BaseException | None = None
    value: Any = None

    @property
    def killed(self) -> bool:
        return self.problem.get("code") == Code.KILLED


@dataclass(frozen=True, slots=True)
class Unsent:
    """The connection broke before ``open`` was written: nobody has heard of this call."""


Answer = Value | Made | Raise | Problem | Unsent


# ── what a framework's adapter asks for ──────────────────────────────────────────────────────────────────────────


def _nothing(_: Any) -> None:
    return None


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Work:
    """One call to be governed, in the words of no framework.

    ``invoke`` runs the function on a thread, ``ainvoke`` on the caller's loop (either may be missing); both take the
    arguments that the gateway put in place of the caller's, mostly none. ``failure_in`` finds a failure that the
    framework told in a value. ``passes`` names the end state of an exception that is the framework's own and is raised
    untouched. ``plain`` makes of a framework's result what may be shown. ``declares`` is the effect that the tool's
    own annotations claim, ``digest`` that of its name, schema and description.
    """

    tool: str
    args: Mapping[str, Any]
    invoke: Body | None = None
    ainvoke: AsyncBody | None = None
    run: str = ""
    session: str = ""
    agent: str = ""
    caller_ref: str = ""
    framework_tool: str = ""
    declares: str = ""
    digest: str = ""
    failure_in: Callable[[Any], BaseException | None] = _nothing
    passes: Callable[[BaseException], EndState | None] = _nothing
    plain: Callable[[Any], Any] = _same


@dataclass(frozen=True, slots=True)
class Inside:
    """The call that surrounds the running code; calls made there are its children."""

    call: str
    run: str
    session: str
    agent: str
    attempt: Attempt | None = None


INSIDE: contextvars.ContextVar[Inside | None] = contextvars.ContextVar("outrider_inside", default=None)

"""One turn: what CrewAI's executor does between its two hooks around one tool call of a model.

The hook before tells who calls; the hook after ends the crew when the call was killed: an exception that leaves the
tool would be told to the model as a text, one that leaves this hook ends the crew on every path. Neither decides
anything: hooks fail open, so the gate is in the patched methods.

Inside a turn the executor may call the tool's method several times (ReAct: up to six), for one call of the model. The
turn keeps its answer, so that it is one call.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crewai.flow.flow_context import current_flow_id, current_flow_name
from crewai.hooks.dispatch import InterceptionPoint, get_global_hook_list
from crewai.utilities.crew.crew_context import get_crew_context
from crewai.utilities.string_utils import sanitize_tool_name

if TYPE_CHECKING:
    from outrider_adapters.crewai_calls import Killed

NO_FLOW = frozenset({None, "AgentExecutor"})
"""CrewAI runs each agent as a flow of its own; only a program's flow is a session."""
UNNAMED = "crew"
"""What CrewAI calls a crew that nobody named."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Turn:
    """One tool call of a model. ``outer`` is the turn inside whose tool this one happens (delegation, nested crews)."""

    name: str
    tool: Any
    agent: Any
    crew: Any
    outer: Turn | None
    answered: bool = False
    answer: Any = None
    invalid: bool = False  # the framework was told once that the arguments do not fit
    killed: Killed | None = None

    def is_of(self, tool: Any) -> bool:
        """Whether the executor calls this tool; a hook may call others meanwhile."""
        mine = (self.tool, getattr(self.tool, "_original_tool", None))
        return any(one is tool for one in mine if one is not None) or sanitize_tool_name(tool.name) == self.name


_turn: ContextVar[Turn | None] = ContextVar("outrider_crewai_turn", default=None)
_outer: ContextVar[Turn | None] = ContextVar("outrider_crewai_outer", default=None)
_live: weakref.WeakSet[Turn] = weakref.WeakSet()


def turn_of(tool: Any) -> Turn | None:
    """The turn in which an executor calls this tool; None for a program's own call."""
    turn = _turn.get()
    return turn if turn is not None and turn.is_of(tool) else None


def enter(turn: Turn | None) -> None:
    """Here a tool's function begins, in a context of its own: calls made inside are no longer the executor's."""
    _outer.set(turn or _outer.get())
    _turn.set(None)


def stop(turn: Turn | None, killed: Killed) -> None:
    """This turn was killed, and with it those around it: a delegation would tell its model a text, and go on."""
    one = turn or _outer.get()
    while one is not None:
        one.killed = killed
        one = one.outer


def role_of(turn: Turn | None) -> str:
    """The calling agent's role, on one line: roles in YAML end with a line break."""
    return " ".join(str(getattr(turn.agent, "role", "")).split()) if turn is not None else ""


def session_of(turn: Turn | None) -> str:
    """The program's flow, which may outlive runs; else the crew, by its name or its id."""
    if current_flow_name.get() not in NO_FLOW:
        return current_flow_id.get() or ""
    if turn is None:
        return ""
    crew = _crew_of(turn)
    name = str(getattr(crew, "name", None) or "")
    if name and name != UNNAMED:
        return name
    known = get_crew_context()
    return str(getattr(crew, "id", "")) or str((known and known.id) or "")


def _crew_of(turn: Turn) -> Any:
    """The crew of this kickoff. An agent that works for a second crew keeps its executor, which names the first one;
    the kickoff's own context has the right id."""
    known = get_crew_context()
    for crew in (getattr(turn.agent, "crew", None), turn.crew):
        if crew is not None and (known is None or str(getattr(crew, "id", "")) == known.id):
            return crew
    return None


# ── the hooks ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Watch:
    """Whether the hooks are wanted, and what reports a hit of CrewAI's cache."""

    def __init__(self) -> None:
        self.on = False
        self.cache_hit: Callable[[Turn, Any], str | None] | None = None


_watch = _Watch()


def _before(context: Any) -> None:
    turn = Turn(context.tool_name, context.tool, context.agent, context.crew, _outer.get())
    _live.add(turn)
    _turn.set(turn)


def _after(context: Any) -> str | None:
    turn = _turn.get()
    if turn is None or turn.name != context.tool_name:
        return None
    _turn.set(None)
    instead = None
    if not turn.answered and turn.killed is None and _watch.on and _is_cached(context) and _watch.cache_hit:
        instead = _watch.cache_hit(turn, context)
    _live.discard(turn)
    if not _watch.on and not _live:
        _remove(InterceptionPoint.POST_TOOL_CALL, _after)
    if turn.killed is not None:
        raise type(turn.killed)(str(turn.killed), turn.killed.problem)
    return instead


def _is_cached(context: Any) -> bool:
    """Whether the result is the very object that CrewAI's cache keeps for these arguments."""
    cache = getattr(getattr(context.agent, "tools_handler", None), "cache", None)
    if cache is None or context.raw_tool_result is None:
        return False
    arguments = json.dumps(context.tool_input) if context.tool_input else ""
    return cache.read(tool=context.tool_name, input=arguments) is context.raw_tool_result


def watch(cache_hit: Callable[[Turn, Any], str | None]) -> None:
    """Be called around every tool call; again where somebody cleared the hooks. First before, last after: what other
    hooks make of a result must not hide a kill."""
    _watch.on, _watch.cache_hit = True, cache_hit
    before = get_global_hook_list(InterceptionPoint.PRE_TOOL_CALL)
    after = get_global_hook_list(InterceptionPoint.POST_TOOL_CALL)
    if _before not in before:
        before.insert(0, _before)
    if _after not in after:
        after.append(_after)


def unwatch() -> None:
    """No new turns. The hook after stays until the last turn under way is over."""
    _watch.on = False
    _remove(InterceptionPoint.PRE_TOOL_CALL, _before)
    if not _live:
        _remove(InterceptionPoint.POST_TOOL_CALL, _after)


def _remove(point: InterceptionPoint, hook: Callable[..., Any]) -> None:
    hooks = get_global_hook_list(point)
    if hook in hooks:
        hooks.remove(hook)

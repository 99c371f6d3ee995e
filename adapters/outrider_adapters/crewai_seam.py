"""What is patched of CrewAI, and whether it governs all tools or those of ``govern()`` only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from crewai.tools.base_tool import BaseTool, Tool
from crewai.tools.structured_tool import CrewStructuredTool

from outrider_adapters import crewai_calls, crewai_turns, drive
from outrider_adapters import governed as plain
from outrider_adapters.crewai_calls import MARK, Identity, StructuredCall, ToolCall


class _Seam:
    def __init__(self) -> None:
        self.every_tool = False
        self.some_tools = False
        self.patches: list[tuple[type, str, Callable[..., Any], Callable[..., Any]]] = []


_seam = _Seam()


def begin(*, agent: str, roles: bool) -> None:
    """Govern every tool."""
    Identity.agent, Identity.roles = agent, roles
    _seam.every_tool = True
    _patch()


def end() -> None:
    """Govern those of ``govern()`` only."""
    _seam.every_tool = False
    if not _seam.some_tools:
        _unpatch()


def govern_one(tool: Any, name: str) -> None:
    """The mark lies beside the tool's fields: it is no part of what CrewAI serialises, and copies keep it."""
    if name or not crewai_calls.mark_of(tool):
        object.__setattr__(tool, MARK, plain.tool_name(name) if name else crewai_calls.name_of(tool))
    _seam.some_tools = True
    _patch()


def _governs(tool: Any) -> bool:
    return _seam.every_tool or (_seam.some_tools and bool(crewai_calls.mark_of(tool)))


def _patch() -> None:
    crewai_turns.watch(_cache_hit)
    if _seam.patches:
        return
    for kind in (BaseTool, Tool):
        _put(kind, "run", _governed(ToolCall, kind.run))
        _put(kind, "arun", _governed_async(kind.arun))
    _put(CrewStructuredTool, "ainvoke", _governed_ainvoke(CrewStructuredTool.invoke, CrewStructuredTool.ainvoke))
    _put(CrewStructuredTool, "invoke", _governed(StructuredCall, CrewStructuredTool.invoke))


def _put(kind: type, name: str, ours: Callable[..., Any]) -> None:
    _seam.patches.append((kind, name, getattr(kind, name), ours))
    setattr(kind, name, ours)


def _unpatch() -> None:
    """Where somebody patched over us since, ours stays below and passes everything on."""
    crewai_turns.unwatch()
    if all(getattr(kind, name) is ours for kind, name, _, ours in _seam.patches):
        for kind, name, original, _ in _seam.patches:
            setattr(kind, name, original)
        _seam.patches = []


def _cache_hit(turn: crewai_turns.Turn, context: Any) -> str | None:
    return crewai_calls.cache_hit(turn, context) if _governs(context.tool) else None


def _governed(kind: type[ToolCall], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _governs(self):
            return original(self, *args, **kwargs)
        crewai_turns.watch(_cache_hit)
        call = kind(self, args, kwargs)
        if call.known():
            return call.turn.answer  # type: ignore[union-attr]
        return call.result_of(drive.call(call.work(invoke=call.body(original))))

    return method


def _governed_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _governs(self):
            return await original(self, *args, **kwargs)
        call = ToolCall(self, args, kwargs)
        if call.known():
            return call.turn.answer  # type: ignore[union-attr]
        return call.result_of(await drive.acall(call.work(ainvoke=call.abody(original))))

    return method


def _governed_ainvoke(original_invoke: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _governs(self):
            return await original(self, *args, **kwargs)
        call = StructuredCall(self, args, kwargs)
        if call.known():
            return call.turn.answer  # type: ignore[union-attr]
        invoke = call.body(original_invoke) if call.is_sync else None
        return call.result_of(await drive.acall(call.work(invoke=invoke, ainvoke=call.abody(original))))

    return method

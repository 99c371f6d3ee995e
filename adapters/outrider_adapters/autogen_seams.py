"""Where AutoGen is patched: the lowest public methods that execute a tool, and those that tell who calls.

    BaseTool.run_json                  every tool of every agent, StaticWorkbench, ToolAgent, direct callers
    BaseStreamTool.run_json_stream     AgentTool, TeamTool
    Workbench.call_tool, …_stream      MCP and workbenches of the program's own
    AssistantAgent._execute_tool_call  who calls; a kill that a workbench made a text of; the end mark of the events
    ToolAgent.on_message_impl          the same for the agent of autogen-core
    run, run_stream                    of agents and teams: the run

Subclasses that have a method of their own are patched too, those that exist and, by ``__init_subclass__``, those that
are still to come. Nothing of AutoGen is imported here: ``outrider run`` calls ``cover`` while its modules are being
imported, one by one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

from outrider_adapters import autogen_mcp, autogen_runs
from outrider_adapters.autogen_calls import (
    NOTHING,
    OF_TOOL,
    OF_WORKBENCH,
    Call,
    Given,
    MadeText,
    StreamCall,
    WorkbenchCall,
    is_synchronous,
)
from outrider_adapters.autogen_runs import CALLER, Caller
from outrider_adapters.autogen_streams import stream

Make = Callable[[type, Callable[..., Any]], Callable[..., Any]]
"""Of a class and its method, the governed method."""


# ── what a patched method does ───────────────────────────────────────────────────────────────────────────────────


def _run_json(owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
    plain = f"{owner.__module__}.{owner.__qualname__}" == "autogen_core.tools._base.BaseTool"

    @functools.wraps(original)
    async def run_json(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call(self, owner, Given(OF_TOOL, args, kwargs))
        if not call.governed:
            return await original(self, *args, **kwargs)
        work = call.work_of_function() if plain and is_synchronous(self) else call.work(ainvoke=call.body(original))
        return call.result_of(await call.answer(work))

    return run_json


def _run_json_stream(owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def run_json_stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = StreamCall(self, owner, Given(OF_TOOL, args, kwargs))
        items: Any = stream(call, original) if call.governed else original(self, *args, **kwargs)
        async with aclosing(items):
            async for item in items:
                yield item

    return run_json_stream


def _call_tool(owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def call_tool(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = WorkbenchCall(self, owner, Given(OF_WORKBENCH, args, kwargs))
        if _hands_on(owner, self, call.name) or not call.governed:
            return await original(self, *args, **kwargs)
        return call.result_of(await call.answer(call.work(ainvoke=call.body(original))))

    return call_tool


def _call_tool_stream(owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def call_tool_stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = WorkbenchCall(self, owner, Given(OF_WORKBENCH, args, kwargs))
        passes_on = _hands_on(owner, self, call.name) or not call.governed
        items: Any = original(self, *args, **kwargs) if passes_on else stream(call, original)
        async with aclosing(items):
            async for item in items:
                yield item

    return call_tool_stream


def _hands_on(owner: type, workbench: Any, name: str) -> bool:
    """AutoGen's own StaticWorkbench executes nothing itself; the tools' ``run_json`` is the seam. Only a tool that is
    no BaseTool, but merely looks like one, has no other seam than this."""
    if owner.__module__ != "autogen_core.tools._static_workbench":
        return False
    from autogen_core.tools import BaseTool

    original_name = workbench._override_name_to_original.get(name, name)
    tool = next((one for one in workbench._tools if one.name == original_name), None)
    return tool is None or isinstance(tool, BaseTool)


def _return_value_as_string(owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
    """A tool reads its own kind of value; what the gateway made is a text already."""

    @functools.wraps(original)
    def return_value_as_string(self: Any, value: Any) -> str:
        return str(value) if isinstance(value, MadeText) else str(original(self, value))

    return return_value_as_string


def _execute_tool_call(owner: type, original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    async def execute_tool_call(
        tool_call: Any, workbench: Any, handoff_tools: Any, agent_name: str, cancellation_token: Any, stream: Any
    ) -> Any:
        caller = Caller(agent_name)
        mark = CALLER.set(caller)
        autogen_runs.run_of(cancellation_token).note_call()
        try:
            result = await original(
                tool_call=tool_call,
                workbench=workbench,
                handoff_tools=handoff_tools,
                agent_name=agent_name,
                cancellation_token=cancellation_token,
                stream=stream,
            )
            if caller.killed is not None:
                raise autogen_runs.again(caller.killed)
            return result
        except BaseException:
            # The agent waits for this mark, and AutoGen puts it only when every call returned. It would wait for ever,
            # after a cancellation too (autogen #7956). With it, the agent goes on to await the exception.
            stream.put_nowait(None)
            raise
        finally:
            CALLER.reset(mark)

    return staticmethod(execute_tool_call)


def _on_message_impl(owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
    """ToolAgent answers every exception of a tool with a ToolException, which callers make an error result of."""

    @functools.wraps(original)
    async def on_message_impl(self: Any, *args: Any, **kwargs: Any) -> Any:
        caller = Caller(self.id.type)
        mark = CALLER.set(caller)
        try:
            return await original(self, *args, **kwargs)
        except BaseException as error:
            if caller.killed is not None:
                raise autogen_runs.again(caller.killed) from error
            raise
        finally:
            CALLER.reset(mark)

    return on_message_impl


def _run(owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with autogen_runs.root(kwargs) as root:
            with autogen_runs.inside(root):
                result = await original(self, *args, **kwargs)
            if root.killed is not None:
                raise autogen_runs.again(root.killed)
            return result

    return run


def _run_stream(owner: type, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def run_stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        from autogen_agentchat.base import TaskResult

        with autogen_runs.root(kwargs) as root:
            items = autogen_runs.steps(root, original(self, *args, **kwargs))
            async with aclosing(items):
                async for item in items:
                    if root.killed is not None and isinstance(item, TaskResult):
                        raise autogen_runs.again(root.killed)
                    yield item

    return run_stream


# ── which methods of which classes ───────────────────────────────────────────────────────────────────────────────

CLASSES: dict[str, tuple[str, dict[str, Make]]] = {
    "autogen_core.tools._base": (
        "BaseTool",
        {
            "run_json": _run_json,
            "run_json_stream": _run_json_stream,
            "return_value_as_string": _return_value_as_string,
        },
    ),
    "autogen_core.tools._workbench": ("Workbench", {"call_tool": _call_tool, "call_tool_stream": _call_tool_stream}),
    "autogen_core.tool_agent._tool_agent": ("ToolAgent", {"on_message_impl": _on_message_impl}),
    "autogen_agentchat.agents._base_chat_agent": ("BaseChatAgent", {"run": _run, "run_stream": _run_stream}),
    "autogen_agentchat.agents._assistant_agent": ("AssistantAgent", {"_execute_tool_call": _execute_tool_call}),
    "autogen_agentchat.teams._group_chat._base_group_chat": ("BaseGroupChat", {"run_stream": _run_stream}),
}
"""The module that holds a class, the class, and what becomes of the methods of it and of its subclasses."""


class Seams:
    """What is patched, and how to undo it."""

    def __init__(self) -> None:
        self._done: dict[tuple[Any, str], tuple[Any, Any]] = {}

    def cover(self, module: str) -> None:
        """Patch the class that this module holds, if it has been executed."""
        name, makers = CLASSES[module]
        root: Any = getattr(sys.modules.get(module), name, None)
        if root is None or (root, "__init_subclass__") in self._done:
            return
        self._watch(root, makers)
        for kind in [root, *_subclasses(root)]:
            self._methods(kind, makers)
        if name == "ToolAgent":  # the method is its base class's, where it serves every agent
            self._put(root, "on_message_impl", _on_message_impl(root, root.on_message_impl))

    def _watch(self, root: Any, makers: dict[str, Make]) -> None:
        def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:
            super(root, cls).__init_subclass__(**kwargs)
            self._methods(cls, makers)

        self._put(root, "__init_subclass__", classmethod(__init_subclass__))

    def _methods(self, kind: Any, makers: dict[str, Make]) -> None:
        for name, make in makers.items():
            own = kind.__dict__.get(name)
            function = own.__func__ if isinstance(own, staticmethod) else own
            if callable(function) and not getattr(function, "__isabstractmethod__", False):
                self._put(kind, name, make(kind, function))
        if kind.__module__ == autogen_mcp.MODULE and "_format_errors" in kind.__dict__:
            self._put(kind, "_format_errors", autogen_mcp.noting(kind._format_errors))

    def _put(self, kind: Any, name: str, patched: Any) -> None:
        if (kind, name) not in self._done:
            self._done[kind, name] = kind.__dict__.get(name, NOTHING), patched
            setattr(kind, name, patched)

    def undo(self) -> None:
        """Where somebody patched over us since, ours stays below and passes everything on."""
        for place, (before, patched) in list(self._done.items()):
            kind: Any = place[0]
            name = place[1]
            if kind.__dict__.get(name) is not patched:
                continue
            del self._done[place]
            if before is NOTHING:
                delattr(kind, name)
            else:
                setattr(kind, name, before)


def _subclasses(root: type[Any]) -> Iterator[type[Any]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _subclasses(kind)

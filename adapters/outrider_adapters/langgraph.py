"""LangGraph and LangChain: one line governs every tool call of the process.

    from outrider_adapters import langgraph
    langgraph.install(agent="researcher")

The seam is ``BaseTool.run`` and ``BaseTool.arun`` of langchain-core, the lowest public methods that execute a tool:
every path ends there (ToolNode, create_agent, create_react_agent, custom nodes, the functional API, MCP tools, direct
calls), whenever the agent was built. The framework's own hooks fail open, so they only tell who calls.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tools import BaseTool, StructuredTool, Tool, ToolException
from langgraph.errors import GraphBubbleUp, ParentCommand
from langgraph.prebuilt.tool_node import ToolInvocationError
from langgraph.types import Command
from pydantic import ValidationError
from pydantic.v1 import ValidationError as ValidationErrorV1

from outrider.errors import CallError, Misconfigured, Refused
from outrider_adapters import declared, drive, environment, framework, langgraph_runs, process, versions
from outrider_adapters import governed as plain
from outrider_adapters.governed import governed, run
from outrider_adapters.work import Answer, EndState, Made, Problem, Raise, Value, Work

__all__ = [
    "SUPPORTED", "Killed", "ToolFailed", "arepair_thread", "govern", "governed", "install", "repair_thread", "run",
    "uninstall",
]  # fmt: skip

SUPPORTED = versions.LANGGRAPH
"""The versions this adapter was tested for: package → (from, below)."""
TOOL_KEY = "outrider_tool"
"""In a tool's ``metadata``: the name it is governed under, ``group.operation``."""
UNTOUCHED = (ValidationError, ValidationErrorV1, ToolInvocationError)
"""The model's arguments do not fit the tool: the framework tells the model, and no retry would help."""
WITH_SHORTCUT: tuple[type[BaseTool], ...] = (StructuredTool, Tool)
"""Their ``ainvoke`` passes by ``arun`` where the tool is synchronous."""
T = TypeVar("T")


class Killed(GraphBubbleUp, Refused):
    """A kill switch stopped this call, and with it the run. As a GraphBubbleUp it passes every error handler, retry
    policy and middleware of LangGraph; the caller of ``invoke`` gets it."""


class ToolFailed(ToolException, CallError, RuntimeError):
    """A governed tool's final failure or refusal, where no tool call is there to answer with a message (a direct
    ``invoke``). A RuntimeError too, because LangGraph's default retry policy repeats every other exception, and the
    gateway has already retried what may be retried."""


# ── install ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Seam:
    """What is patched, and whether it governs all tools or those of ``govern()`` only."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.original: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        self.patched: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        self.every_tool = False
        self.some_tools = False
        self.settings: tuple[Any, ...] = ()
        self.agent = ""
        self.subagents = False


_seam = _Seam()


def install(
    agent: str | None = None, *, url: str | None = None, token: str | None = None, subagents: bool = False
) -> None:
    """Govern every tool call of this process from now on, also of agents and tools that exist already.

    Args:
        agent: the name that policies and kills know this process by; else OUTRIDER_AGENT; else the names of the agents
            themselves (``create_agent(name=…)``), ``anonymous`` where there is none.
        url: the sidecar's data plane; else OUTRIDER_URL; else http://127.0.0.1:7070.
        token: the agent's own token or the shared one; else OUTRIDER_TOKEN or OUTRIDER_TOKEN_FILE.
        subagents: a named agent's calls carry its own name instead of ``agent``.

    Begins to connect and does not wait for it. Installing twice with the same settings does nothing.

    Raises:
        Misconfigured: no token, an address that is none, a version of LangGraph or langchain-core that this adapter
            was not made for, or another install with other settings before.
    """
    found = versions.check("outrider_adapters.langgraph", SUPPORTED)
    agent = framework.operators_choice(agent)
    surroundings = environment.read(url=url, token=token, agent=agent)
    settings = (surroundings, subagents)
    with _seam.lock:
        if _seam.every_tool:
            if settings != _seam.settings:
                raise Misconfigured("already installed with other settings; call uninstall() first")
            return
        process.configure(surroundings, __name__, "langgraph", found["langgraph"])
        _patch()
        _seam.settings, _seam.every_tool = settings, True
        _seam.agent, _seam.subagents = surroundings.agent, subagents or not surroundings.agent


def uninstall() -> None:
    """Tools run ungoverned again, but for those of ``govern()``. Calls under way end as they began: governed."""
    with _seam.lock:
        if not _seam.every_tool:
            return
        _seam.every_tool, _seam.settings = False, ()
        if not _seam.some_tools:
            _unpatch()
    process.release(__name__, "langgraph")


def govern(tool: T, *, name: str = "") -> T:
    """Govern one tool, without ``install``; with it, merely name it. Returns the same tool object; for a plain
    function its governed twin.

    ``name`` is ``group.operation``. With the group of an HTTP upstream the call goes there, and the tool's own
    function never runs. Raises Misconfigured like ``install``.
    """
    if not isinstance(tool, BaseTool):
        return cast(T, plain.govern(cast(Callable[..., Any], tool), name=name))
    versions.check("outrider_adapters.langgraph", SUPPORTED)
    if name or TOOL_KEY not in (tool.metadata or {}):
        tool.metadata = {**(tool.metadata or {}), TOOL_KEY: plain.tool_name(name or tool.name)}
    with _seam.lock:
        _seam.some_tools = True
        _patch()
    return tool


def _patch() -> None:
    if _seam.patched is not None and (BaseTool.run, BaseTool.arun) == _seam.patched:
        return
    if _seam.patched is None:
        _seam.original = _unstubbed(BaseTool.run), _unstubbed(BaseTool.arun)
        _seam.patched = _governed_run(_seam.original[0]), _governed_arun(*_seam.original)
        BaseTool.run, BaseTool.arun = _seam.patched  # type: ignore[method-assign]
        for kind in WITH_SHORTCUT:
            kind.ainvoke = _without_shortcut(kind.ainvoke)  # type: ignore[method-assign]
    langgraph_runs.watch()


def _unpatch() -> None:
    """Where somebody patched over us since, ours stays below and passes everything on."""
    if _seam.original is not None and (BaseTool.run, BaseTool.arun) == _seam.patched:
        BaseTool.run, BaseTool.arun = _seam.original  # type: ignore[method-assign]
        _seam.original = _seam.patched = None
        for kind in WITH_SHORTCUT:
            kind.ainvoke = _unstubbed(kind.ainvoke)  # type: ignore[method-assign]
    langgraph_runs.unwatch()


def _unstubbed(method: Callable[..., Any]) -> Callable[..., Any]:
    """``outrider run`` leaves a stand-in that installs on the first call; the method itself is behind it."""
    return getattr(method, "__outrider_behind__", method)


def _governs(tool: BaseTool) -> bool:
    return _seam.every_tool or (_seam.some_tools and TOOL_KEY in (tool.metadata or {}))


def _governed_run(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(self: BaseTool, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        if not _governs(self):
            return original(self, tool_input, *args, **kwargs)
        call = _ToolCall(self, tool_input, args, kwargs)
        return call.result_of(drive.call(call.work(invoke=call.body(original))))

    return run


def _governed_arun(original_run: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def arun(self: BaseTool, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        if not _governs(self):
            return await original(self, tool_input, *args, **kwargs)
        call = _ToolCall(self, tool_input, args, kwargs)
        if _is_sync(self):
            return call.result_of(await drive.acall(call.work(invoke=call.body(original_run))))
        return call.result_of(await drive.acall(call.work(ainvoke=call.body(original))))

    return arun


def _without_shortcut(original: Callable[..., Any]) -> Callable[..., Any]:
    """LangChain takes a synchronous tool to a thread of the loop's pool before it calls ``run`` there. Of that thread
    nobody knows: a cancelled agent would leave its call waiting and tried again, and few threads are all there are."""

    @functools.wraps(original)
    async def ainvoke(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        if not _governs(self) or not _is_sync(self):
            return await original(self, *args, **kwargs)
        return await BaseTool.ainvoke(self, *args, **kwargs)

    ainvoke.__outrider_behind__ = original  # type: ignore[attr-defined]
    return ainvoke


def _digest(tool: BaseTool) -> str:
    schema = tool.args_schema
    key = (BaseTool, type(tool), tool.name, tool.description, id(schema))
    # what is injected (state, runtime, the call's id) is not told to the model, and not all of it has a schema
    return declared.of(key, schema, lambda: (tool.name, tool.description, declared.schema_of(tool.tool_call_schema)))


def _is_sync(tool: BaseTool) -> bool:
    """LangChain would run it in an executor's thread, which keeps the process alive when the tool hangs."""
    if isinstance(tool, (StructuredTool, Tool)):
        return tool.coroutine is None
    return type(tool)._arun is BaseTool._arun


# ── one call ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _ToolCall:
    """One execution of a tool, in LangChain's terms on one side and as Work and Answer on the other."""

    def __init__(self, tool: BaseTool, tool_input: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tool = tool
        self.input = tool_input
        self.args = args
        self.kwargs = kwargs
        self.call_id: str | None = kwargs.get("tool_call_id")

    def work(self, invoke: Any = None, ainvoke: Any = None) -> Work:
        config: Mapping[str, Any] = self.kwargs.get("config") or var_child_runnable_config.get() or {}
        places: Mapping[str, Any] = config.get("configurable") or {}
        notes: Mapping[str, Any] = config.get("metadata") or {}
        callbacks = self.kwargs.get("callbacks") or config.get("callbacks")
        return Work(
            tool=(self.tool.metadata or {}).get(TOOL_KEY) or f"local.{self.tool.name}",
            args=self._shown(),
            invoke=invoke,
            ainvoke=ainvoke,
            run=str(places.get("run_id") or langgraph_runs.root_of(callbacks) or ""),
            session=str(places.get("thread_id") or notes.get("thread_id") or ""),
            agent=str(notes.get("lc_agent_name") or "") if _seam.subagents else _seam.agent,
            caller_ref=self.call_id or "",
            framework_tool=self.tool.name,
            declares=framework.claimed_effect(self.tool.metadata),
            digest=_digest(self.tool),
            failure_in=_failure_in,
            passes=_passes,
            plain=_plain,
        )

    def body(self, original: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
        """The framework's own execution. A tracer's run id names one execution, so only the first attempt gets it."""
        kwargs = dict(self.kwargs)

        def attempt(changed: Mapping[str, Any]) -> Any:
            given = dict(kwargs)
            kwargs.pop("run_id", None)
            return original(self.tool, self._input_with(changed), *self.args, **given)

        return attempt

    def _shown(self) -> dict[str, Any]:
        """The model's arguments only: state, store, runtime and the call id are injected, and stay in the process."""
        if isinstance(self.input, dict):
            return self.tool._filter_injected_args(self.input)
        return {self._single(): self.input}

    def _single(self) -> str:
        """The name of the one argument of a tool that was given a text."""
        fields = getattr(self.tool.args_schema, "model_fields", None)
        return next(iter(fields)) if fields else "tool_input"

    def _input_with(self, changed: Mapping[str, Any]) -> Any:
        if isinstance(self.input, dict):
            return {**self.input, **changed}
        return changed.get(self._single(), self.input)

    def result_of(self, answer: Answer) -> Any:
        """What the framework gets."""
        match answer:
            case Value(value):
                return value
            case Made(value):
                return value if self.call_id is None else self._message(framework.text_of(value), "success")
            case Raise(error):
                raise error
            case Problem():
                return self._failure(answer)
        raise AssertionError("an unsent call is sent again")

    def _failure(self, answer: Problem) -> Any:
        text = framework.told(answer.problem)
        if answer.killed:
            raise Killed(text, answer.problem) from answer.error
        if isinstance(answer.value, ToolMessage) and answer.problem.get("code") == "upstream_failed":
            return answer.value  # the tool's own handler has put it into words (handle_tool_error)
        if self.call_id is None:
            raise ToolFailed(text, answer.problem) from answer.error
        return self._message(text, "error")

    def _message(self, text: str, status: str) -> ToolMessage:
        return ToolMessage(text, tool_call_id=self.call_id, name=self.tool.name, status=status)


def _failure_in(value: Any) -> BaseException | None:
    """``handle_tool_error`` turns an exception into a message before anyone sees it."""
    if isinstance(value, ToolMessage) and value.status == "error":
        return ToolException(value.text)
    return None


def _passes(error: BaseException) -> EndState | None:
    if isinstance(error, ParentCommand):
        return "returned"  # a Command for the parent graph, raised on its way out of a nested one
    if isinstance(error, Killed):
        return "raised"
    if isinstance(error, GraphBubbleUp):
        return "suspended"  # an interrupt: the graph will run this tool again when it is resumed
    return "raised" if isinstance(error, UNTOUCHED) else None


def _plain(value: Any) -> Any:
    """What of a result may be shown. An artifact is for the program only."""
    if isinstance(value, ToolMessage):
        return value.content
    if isinstance(value, Command):
        return {"command": {"update": value.update, "goto": value.goto, "graph": value.graph}}
    if isinstance(value, list) and any(isinstance(one, (ToolMessage, Command)) for one in value):
        return [_plain(one) for one in value]
    return value


# ── after a kill ─────────────────────────────────────────────────────────────────────────────────────────────────


def repair_thread(graph: Any, config: Any, text: str = "This call was stopped before it was answered.") -> int:
    """Answer a thread's unanswered tool calls with error messages, so that the thread can be used again.

    After a kill (or a crash) the last message is the model's, with tool calls that nobody answered: going on with
    ``invoke(None)`` would try the tools again, and a new user message would be refused by the model's provider.
    Returns how many calls were answered. For a graph whose state has ``messages``, with a checkpointer.
    """
    state = graph.get_state(config)
    missing = _unanswered(state.values, text)
    if missing:
        graph.update_state(config, {"messages": missing}, as_node=_tools_node(state.next))
    return len(missing)


async def arepair_thread(graph: Any, config: Any, text: str = "This call was stopped before it was answered.") -> int:
    """``repair_thread`` for an asynchronous checkpointer."""
    state = await graph.aget_state(config)
    missing = _unanswered(state.values, text)
    if missing:
        await graph.aupdate_state(config, {"messages": missing}, as_node=_tools_node(state.next))
    return len(missing)


def _unanswered(values: Any, text: str) -> list[ToolMessage]:
    messages = values.get("messages", []) if isinstance(values, Mapping) else []
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    asked = [call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    return [
        ToolMessage(text, tool_call_id=call["id"], name=call["name"], status="error")
        for call in asked
        if call["id"] not in answered
    ]


def _tools_node(following: tuple[str, ...]) -> str | None:
    """The messages are written in the name of the node that should have."""
    return following[0] if following else None

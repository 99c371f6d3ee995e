"""One execution of a tool: in AutoGen's terms on one side, as Work and Answer on the other.

A tool's ``run_json`` and a workbench's ``call_tool`` give a result; ``run_json_stream`` and ``call_tool_stream`` give
items, the last of which is the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from outrider_adapters import autogen_mcp, autogen_runs, declared, drive, framework
from outrider_adapters.autogen_runs import Killed, ToolFailed
from outrider_adapters.work import Answer, AsyncBody, Body, EndState, Made, Problem, Raise, Value, Work

TOOL_KEY = "outrider_tool"
"""The attribute of a tool (or a workbench) that ``govern()`` sets: the name it is governed under."""
OF_TOOL = ("args", "cancellation_token", "call_id")
OF_WORKBENCH = ("name", "arguments", "cancellation_token", "call_id")
NOTHING = object()


@dataclass
class Settings:
    """Whether all tools are governed or those of ``govern()`` only, and who calls them."""

    every_tool: bool = False
    some_tools: bool = False
    agent: str = ""
    subagents: bool = False

    def govern(self, holder: Any) -> bool:
        return self.every_tool or (self.some_tools and hasattr(holder, TOOL_KEY))


settings = Settings()


class MadeText(str):
    """A value that the gateway made, as the model is to read it; ``return_value_as_string`` leaves it as it is."""


class ErrorResult(Exception):
    """A workbench tells a failure in a result."""


class Given:
    """The arguments of ``run_json`` or ``call_tool`` as they came, by position or by name."""

    def __init__(self, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.names = names
        self.args = args
        self.kwargs = kwargs

    def get(self, name: str) -> Any:
        at = self.names.index(name)
        return self.args[at] if at < len(self.args) else self.kwargs.get(name)

    def having(self, name: str, value: Any) -> Given:
        at = self.names.index(name)
        if at < len(self.args):
            return Given(self.names, (*self.args[:at], value, *self.args[at + 1 :]), self.kwargs)
        return Given(self.names, self.args, {**self.kwargs, name: value})


@dataclass(eq=False)
class Execution:
    """The attempt that surrounds us: a class's method of a tool or workbench, under a name."""

    holder: Any
    owner: type
    name: str
    call_id: str | None
    passed: set[Any] = field(default_factory=set)

    def goes_on_in(self, holder: Any, owner: type, name: str, call_id: str | None) -> bool:
        """Whether a method called now is a part of this execution, and not another call: ``super().call_tool(…)``, or
        the one tool that a workbench hands its call to. Once each: what repeats it makes a call of its own."""
        above = holder is self.holder and owner is not self.owner and issubclass(self.owner, owner)
        handed = hasattr(self.holder, "call_tool") and holder is not self.holder and call_id and call_id == self.call_id
        key = (id(holder), owner)
        if name != self.name or not (above or handed) or key in self.passed:
            return False
        self.passed.add(key)
        return True


EXECUTION: ContextVar[Execution | None] = ContextVar("outrider_autogen_execution", default=None)


def _digest(holder: Any) -> str:
    """Of a tool. A workbench tells its tools only to who asks it, which takes a call of its own."""
    if hasattr(holder, "call_tool"):
        return ""
    kind = getattr(holder, "_args_type", None)
    description = getattr(holder, "description", "")
    key = (Call, type(holder), holder.name, description, id(kind))
    return declared.of(key, kind, lambda: (holder.name, description, holder.schema))


class Call:
    """One call of a tool by ``run_json`` or ``run_json_stream``."""

    args_name = "args"

    def __init__(self, holder: Any, owner: type, given: Given) -> None:
        self.holder = holder
        self.owner = owner
        self.given = given
        self.call_id: str | None = given.get("call_id")
        self.token: Any = given.get("cancellation_token")
        self.name = self._name()
        self._executing = 0
        self._interruptible = False
        self._has_result = False

    def _name(self) -> str:
        return str(self.holder.name)

    @property
    def governed(self) -> bool:
        """False for what is not to be governed, and for a part of a call that is governed already."""
        if not settings.govern(self.holder):
            return False
        around = EXECUTION.get()
        return around is None or not around.goes_on_in(self.holder, self.owner, self.name, self.call_id)

    # ── what is asked for ────────────────────────────────────────────────────────────────────────────────────────

    def work(self, invoke: Body | None = None, ainvoke: AsyncBody | None = None) -> Work:
        return Work(
            tool=getattr(self.holder, TOOL_KEY, "") or f"local.{self.name}",
            args=self._shown(),
            invoke=invoke,
            ainvoke=ainvoke,
            run=autogen_runs.run_of(self.token).id,
            session=autogen_runs.session(),
            agent=autogen_runs.agent() if settings.subagents else settings.agent,
            caller_ref=self.call_id or "",
            framework_tool=self.name,
            digest=_digest(self.holder),
            failure_in=self.failure_in,
            passes=self.passes,
            plain=self.plain,
        )

    def _shown(self) -> Mapping[str, Any]:
        given = self.given.get(self.args_name) or {}
        return given if isinstance(given, Mapping) else {self.args_name: given}

    def having(self, changed: Mapping[str, Any]) -> Given:
        """What was given, with the arguments that the gateway put in place of the model's."""
        given = self.given.get(self.args_name) or {}
        if not changed or not isinstance(given, Mapping):
            return self.given
        return self.given.having(self.args_name, {**given, **changed})

    def body(self, original: Callable[..., Any]) -> AsyncBody:
        """The framework's own execution, on the agent's loop."""

        async def attempt(changed: Mapping[str, Any]) -> Any:
            given = self.having(changed)
            with self.execution():
                return self.ended(await original(self.holder, *given.args, **given.kwargs))

        return attempt

    @contextlib.contextmanager
    def execution(self) -> Iterator[None]:
        mark = EXECUTION.set(Execution(self.holder, self.owner, self.name, self.call_id))
        self._executing += 1
        self._has_result = False
        try:
            yield
        finally:
            self._executing -= 1
            EXECUTION.reset(mark)

    def ended(self, value: Any) -> Any:
        """What an attempt returned. A result is the call's, also for a caller whose token is cancelled from now on."""
        self._has_result = self.failure_in(value) is None
        return value

    def work_of_function(self) -> Work:
        """A synchronous function's execution, without the executor of AutoGen: a thread of that would keep the process
        alive for as long as the function hangs. On a daemon thread; or, with ``placement: caller``, where we are."""
        self._interruptible = not self.holder._has_cancellation_support

        def invoke(changed: Mapping[str, Any]) -> Any:
            args = self.having(changed).get("args")
            with self.execution():
                return self.ended(_run_function(self.holder, args, self.token, self.call_id))

        async def ainvoke(changed: Mapping[str, Any]) -> Any:
            return invoke(changed)

        return self.work(invoke, ainvoke)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(self, work: Work) -> Answer:
        """The call's answer. Where AutoGen's token frees a caller it frees him here too: while a synchronous function
        runs, and while nothing runs and there is no result (an async one looks after its token itself)."""
        asking = asyncio.ensure_future(drive.acall(work))
        if self.token is None:
            return await asking
        loop = asyncio.get_running_loop()
        waiting = [asking]

        def cancelled() -> None:
            """On the thread of whoever cancelled the token, perhaps a synchronous tool's."""
            if waiting and not self._has_result and (self._interruptible or not self._executing):
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(waiting[0].cancel)

        self.token.add_callback(cancelled)
        try:
            return await asking
        finally:
            waiting.clear()  # the token may live long, and keeps its callbacks

    # ── what it ended in ─────────────────────────────────────────────────────────────────────────────────────────

    def result_of(self, answer: Answer) -> Any:
        """What the framework gets."""
        match answer:
            case Value(value):
                return value
            case Made(value):
                return self.made(value)
            case Raise(error):
                if isinstance(error, Killed):
                    autogen_runs.note_kill(error, self.token)
                raise error
            case Problem():
                return self.failure(answer, framework.told(answer.problem))
        raise AssertionError("an unsent call is sent again")

    def made(self, value: Any) -> Any:
        """Without a model behind the call it is the value itself."""
        return value if self.call_id is None else MadeText(framework.text_of(value))

    def failure(self, answer: Problem, text: str) -> Any:
        if answer.killed:
            killed = Killed(text, answer.problem)
            autogen_runs.note_kill(killed, self.token)
            raise killed from answer.error
        raise ToolFailed(text, answer.problem) from answer.error

    def failure_in(self, value: Any) -> BaseException | None:
        return None

    def passes(self, error: BaseException) -> EndState | None:
        """Arguments that do not fit the tool are told to the model by AutoGen, and no retry would help."""
        from pydantic import ValidationError

        fitting = getattr(self.holder, "_args_type", None)
        misfit = isinstance(error, ValidationError) and error.title == getattr(fitting, "__name__", None)
        return "raised" if misfit or isinstance(error, Killed) else None

    def plain(self, value: Any) -> Any:
        """What of a result may be shown."""
        return value


class StreamCall(Call):
    """One call by ``run_json_stream``: a tool that holds an agent or a team, mostly."""

    def plain(self, value: Any) -> Any:
        return self.holder.return_value_as_string(value)

    def final(self, item: Any) -> bool:
        """Whether an item may be the result. It is then held back until the gateway has judged the attempt."""
        return isinstance(item, self.holder._return_type)


class WorkbenchCall(Call):
    """One call by a workbench's ``call_tool`` or ``call_tool_stream``."""

    args_name = "arguments"

    def _name(self) -> str:
        return str(self.given.get("name"))

    def work(self, invoke: Body | None = None, ainvoke: AsyncBody | None = None) -> Work:
        if autogen_mcp.is_mcp(self.holder):
            self._interruptible = True
            self.given = autogen_mcp.with_own_token(self.given)
        return super().work(invoke, ainvoke)

    def made(self, value: Any) -> Any:
        return self._result(framework.text_of(value), is_error=False)

    def failure(self, answer: Problem, text: str) -> Any:
        if answer.killed:
            return super().failure(answer, text)
        if answer.problem.get("code") == "upstream_failed" and getattr(answer.value, "is_error", False):
            own: str = self.plain(answer.value)
            if own.strip():
                return answer.value  # the workbench has put it into words itself
        return self._result(text, is_error=True)

    def _result(self, text: str, *, is_error: bool) -> Any:
        from autogen_core.tools import TextResultContent, ToolResult

        return ToolResult(name=self.name, result=[TextResultContent(content=text)], is_error=is_error)

    def failure_in(self, value: Any) -> BaseException | None:
        if not getattr(value, "is_error", False):
            return None
        return autogen_mcp.error_behind(value) or ErrorResult(self.plain(value))

    def passes(self, error: BaseException) -> EndState | None:
        return "raised" if isinstance(error, Killed) else None

    def plain(self, value: Any) -> Any:
        """The text that the model reads; pictures stay here."""
        return value.to_text(replace_image="[image]") if hasattr(value, "to_text") else None

    def final(self, item: Any) -> bool:
        from autogen_core.tools import ToolResult

        return isinstance(item, ToolResult)


def is_synchronous(tool: Any) -> bool:
    """A FunctionTool of a synchronous function, executed as AutoGen itself does it."""
    from autogen_core.tools import FunctionTool

    return (
        isinstance(tool, FunctionTool)
        and type(tool).run is FunctionTool.run
        and not asyncio.iscoroutinefunction(tool._func)
    )


def _run_function(tool: Any, args: Mapping[str, Any], token: Any, call_id: str | None) -> Any:
    """What ``BaseTool.run_json`` and ``FunctionTool.run`` do, on one thread."""
    from autogen_core import EVENT_LOGGER_NAME, trace_tool_span
    from autogen_core.logging import ToolCallEvent

    with trace_tool_span(tool_name=tool._name, tool_description=tool._description, tool_call_id=call_id):
        fitting = tool._args_type.model_validate(args)
        named = {name: getattr(fitting, name) for name in tool._signature.parameters if hasattr(fitting, name)}
        if tool._has_cancellation_support:
            named["cancellation_token"] = token
        value = tool._func(**named)
    event = ToolCallEvent(tool_name=tool.name, arguments=dict(args), result=tool.return_value_as_string(value))
    logging.getLogger(EVENT_LOGGER_NAME).info(event)
    return value

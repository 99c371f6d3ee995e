"""One execution of a tool, in CrewAI's terms on one side and as Work and Answer on the other.

For a model's call (there is a turn) everything that went wrong is a ``ToolFailure``, CrewAI's own word for it: the
model reads it, the task's output lists it, and it is neither cached nor executed again. A program's own call gets
exceptions.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from crewai.execution import get_execution_uuid
from crewai.hooks.dispatch import HookAborted
from crewai.tools.base_tool import BaseTool
from crewai.tools.structured_tool import CrewStructuredTool, ToolUsageLimitExceededError
from crewai.tools.tool_failure import ToolFailure, ToolFailureReason
from crewai.utilities.string_utils import sanitize_tool_name

from outrider.errors import Code, Refused, problem
from outrider_adapters import crewai_turns, declared, drive, framework, process
from outrider_adapters import governed as plain
from outrider_adapters.crewai_turns import Turn
from outrider_adapters.work import Answer, EndState, Made, Problem, Raise, Value, Work

MARK = "_outrider_tool"
"""On a tool: the name it is governed under, ``group.operation``."""
CACHE = "cache"
"""The caller_ref of a call that CrewAI's cache answered: nothing was executed."""
TRIED = frozenset({Code.UPSTREAM_FAILED, Code.OUTCOME_UNKNOWN, Code.DEADLINE_EXCEEDED})


class Killed(HookAborted, Refused):
    """A kill switch stopped this call, and with it the crew. As a HookAborted it passes CrewAI's error handlers and
    task retries; the caller of ``kickoff`` gets it."""

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        Refused.__init__(self, message, problem)
        self.reason, self.source = message, "outrider"


class ToolReported(Exception):
    """A tool returned its failure (``ToolFailure``) instead of raising it."""


class GovernedFailure(ToolFailure):
    """A governed call's final failure or refusal. ``details`` is the problem, ``code`` its code."""

    def as_agent_message(self) -> str:
        """The message says the code already."""
        return self.message


class _Spent(Exception):
    """The tool's ``max_usage_count`` is used up: CrewAI's own answer, and nothing ran."""

    def __init__(self, failure: ToolFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Identity:
    """Whose name calls carry: one for the process, or each agent's role."""

    agent = ""
    roles = False


def is_tool(thing: Any) -> bool:
    """Whether CrewAI would execute it."""
    return isinstance(thing, (BaseTool, CrewStructuredTool))


def mark_of(tool: Any) -> str:
    """The name that ``govern`` gave the tool, or the one behind it; empty where there is none."""
    own: str = getattr(tool, MARK, "")
    return own or getattr(getattr(tool, "_original_tool", None), MARK, "")


def name_of(tool: Any) -> str:
    """``local.`` and the name that the model sees."""
    return mark_of(tool) or f"local.{sanitize_tool_name(tool.name)}"


def _digest(tool: Any) -> str:
    schema = getattr(tool, "args_schema", None)
    key = (BaseTool, type(tool), tool.name, tool.description, id(schema))
    return declared.of(key, schema, lambda: (tool.name, tool.description, declared.schema_of(schema)))


# ── one call ─────────────────────────────────────────────────────────────────────────────────────────────────────


class ToolCall:
    """A tool called with ``run(*args, **kwargs)``."""

    def __init__(self, tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tool = tool
        self.args = args
        self.kwargs = kwargs
        self.turn = crewai_turns.turn_of(tool)
        self.transparent = process.current().surroundings.transparent
        self._began = False
        self._misfit: BaseException | None = None

    # ── what was asked for ───────────────────────────────────────────────────────────────────────────────────────

    def work(self, invoke: Any = None, ainvoke: Any = None) -> Work:
        return Work(
            tool=name_of(self.tool),
            args=self.shown(),
            invoke=invoke,
            ainvoke=ainvoke,
            run=get_execution_uuid() or "",
            session=crewai_turns.session_of(self.turn),
            agent=crewai_turns.role_of(self.turn) if Identity.roles else Identity.agent,
            framework_tool=self.tool.name,
            digest=_digest(self.tool),
            failure_in=_failure_in,
            passes=self._passes,
        )

    def shown(self) -> dict[str, Any]:
        """The arguments by name, as the rules see them."""
        return {**dict(zip(self._names(), self.args, strict=False)), **self.kwargs}

    def given(self, changed: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments to call with: the caller's own, but for those that the gateway changed."""
        names = self._names()[: len(self.args)]
        args = tuple(changed.get(name, value) for name, value in zip(names, self.args, strict=False))
        named = {name: value for name, value in changed.items() if name not in names}
        return args + self.args[len(names) :], {**self.kwargs, **named}

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises what CrewAI raises for arguments that do not fit."""
        if not args:
            self.tool._validate_kwargs(kwargs)

    def _names(self) -> list[str]:
        return list(getattr(self.tool.args_schema, "model_fields", None) or {})

    # ── the function ─────────────────────────────────────────────────────────────────────────────────────────────

    def body(self, original: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
        """CrewAI's own execution, for a thread."""

        def attempt(changed: Mapping[str, Any]) -> Any:
            args, kwargs = self._begin(changed)
            return _unless_spent(original(self.tool, *args, **kwargs))

        return attempt

    def abody(self, original: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
        """The same, for the caller's loop."""

        async def attempt(changed: Mapping[str, Any]) -> Any:
            args, kwargs = self._begin(changed)
            return _unless_spent(await original(self.tool, *args, **kwargs))

        return attempt

    def _begin(self, changed: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        crewai_turns.enter(self.turn)
        args, kwargs = self.given(changed)
        try:
            self.check(args, kwargs)
        except Exception as error:
            self._misfit = error
            raise
        if self._began:
            self._give_back()
        self._began = True
        return args, kwargs

    def _give_back(self) -> None:
        """Every execution takes one of ``max_usage_count``; a call takes one, however often it is tried."""
        original = getattr(self.tool, "_original_tool", None)
        if original is not None:  # CrewAI copies the count of the structured tool to the tool behind it
            self.tool.current_usage_count = max(0, self.tool.current_usage_count - 1)
            original.current_usage_count = self.tool.current_usage_count
        elif isinstance(self.tool, BaseTool):
            with self.tool._usage_lock:
                self.tool.current_usage_count = max(0, self.tool.current_usage_count - 1)
        else:
            self.tool.current_usage_count = max(0, self.tool.current_usage_count - 1)

    def _passes(self, error: BaseException) -> EndState | None:
        own = error is self._misfit or isinstance(error, (Killed, _Spent, ToolUsageLimitExceededError))
        return "raised" if own else None

    # ── what the framework gets ──────────────────────────────────────────────────────────────────────────────────

    def known(self) -> bool:
        """Whether this turn has its answer: the framework calls once more, for the same call of the model."""
        return self.turn is not None and self.turn.answered

    def result_of(self, answer: Answer) -> Any:
        value = self._result(answer)
        if self.turn is not None and not self.transparent:
            self.turn.answered, self.turn.answer = True, value
        return value

    def _result(self, answer: Answer) -> Any:
        match answer:
            case Value(value) | Made(value):
                return value
            case Raise(Killed() as killed):
                return self._killed(str(killed), killed.problem, killed)
            case Raise(_Spent() as spent):
                return spent.failure
            case Raise(error):
                return self._raised(error)
            case Problem():
                return self._failure(answer)
        raise AssertionError("an unsent call is sent again")

    def _raised(self, error: BaseException) -> Any:
        """What is the framework's own goes on untouched. ReAct tries other arguments after a misfit, once with us."""
        turn = self.turn
        if turn is None or self.transparent or not self._passes(error):
            raise error
        if error is self._misfit and not turn.invalid:
            turn.invalid = True
            raise error
        limit = isinstance(error, ToolUsageLimitExceededError)
        reason = ToolFailureReason.USAGE_LIMIT if limit else ToolFailureReason.INVALID_INPUT
        return ToolFailure(message=str(error), reason=reason)

    def _failure(self, answer: Problem) -> Any:
        if answer.killed:
            return self._killed(framework.told(answer.problem), answer.problem, answer.error)
        if self.turn is None:
            raise plain.error_of(answer) from answer.error
        if isinstance(answer.value, ToolFailure) and answer.problem.get("code") == Code.UPSTREAM_FAILED:
            return answer.value  # the tool has put it into words itself
        return failure(answer.problem)

    def _killed(self, text: str, told: Mapping[str, Any], cause: BaseException | None) -> Any:
        """An exception would not stop the crew from here: the hook after the call raises it."""
        killed = Killed(text, told)
        crewai_turns.stop(self.turn, killed)
        if self.turn is None:
            raise killed from cause
        return failure(told)


class StructuredCall(ToolCall):
    """A structured tool called with ``invoke(input, config, **kwargs)``."""

    def __init__(self, tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rest = dict(kwargs)
        self.input = args[0] if args else rest.pop("input", {})
        super().__init__(tool, args[1:], rest)

    def shown(self) -> dict[str, Any]:
        extra = {name: value for name, value in self.kwargs.items() if name != "config"}
        return {**self._parsed(), **extra}

    def given(self, changed: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not changed:
            return (self.input, *self.args), self.kwargs
        extra = {name: value for name, value in changed.items() if name in self.kwargs}
        rest = {name: value for name, value in changed.items() if name not in extra}
        return ({**self._parsed(), **rest}, *self.args), {**self.kwargs, **extra}

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tool._parse_args(args[0])

    @property
    def is_sync(self) -> bool:
        """CrewAI would run it in an executor's thread, which keeps the process alive when the tool hangs."""
        return not inspect.iscoroutinefunction(self.tool.func)

    def _parsed(self) -> dict[str, Any]:
        if not isinstance(self.input, str):
            return dict(self.input or {})
        try:
            read = json.loads(self.input)
        except ValueError:
            return {"input": self.input}
        return read if isinstance(read, dict) else {"input": read}


def failure(told: Mapping[str, Any]) -> ToolFailure:
    """What a model reads of a call that did not succeed."""
    code = str(told.get("code", ""))
    return GovernedFailure(
        message=framework.told(told),
        reason=ToolFailureReason.EXCEPTION if code in TRIED else ToolFailureReason.TOOL_REPORTED,
        code=code,
        retryable=bool(told.get("retryable")),
        details=dict(told),
    )


def cache_hit(turn: Turn, context: Any) -> str | None:
    """CrewAI answered from its cache. A call all the same: ruled, killable, in the ledger; only that its function
    hands out what is there. Returns what the model reads instead, where the gateway says no."""
    tool = getattr(context.tool, "_original_tool", None) or context.tool
    if tool is None or not name_of(tool).startswith("local."):
        return None  # a tool that lives elsewhere would be called there again
    call = ToolCall(tool, (), dict(context.tool_input or {}))
    call.turn = turn
    try:
        value = call.result_of(drive.call(_cached_work(call, context.raw_tool_result)))
    except Exception as error:  # a hook that raises is ignored, and the value would be handed out ungoverned
        value = failure(problem(Code.INTERNAL, f"The cached result was withheld: {error}", outcome="not_executed"))
    if isinstance(value, ToolFailure):
        return value.as_agent_message()
    return None if value is context.raw_tool_result else framework.text_of(value)


def _cached_work(call: ToolCall, value: Any) -> Work:
    asked = call.work()
    return Work(
        tool=asked.tool,
        args=asked.args,
        invoke=lambda changed: value,
        run=asked.run,
        session=asked.session,
        agent=asked.agent,
        caller_ref=CACHE,
        framework_tool=asked.framework_tool,
        digest=asked.digest,
    )


def _unless_spent(value: Any) -> Any:
    if isinstance(value, ToolFailure) and value.reason is ToolFailureReason.USAGE_LIMIT:
        raise _Spent(value)
    return value


def _failure_in(value: Any) -> BaseException | None:
    """A tool may return its failure."""
    return ToolReported(value.as_agent_message()) if isinstance(value, ToolFailure) else None

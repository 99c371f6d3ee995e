"""CrewAI: a crew of one agent with a scripted model that calls functions natively, through its real executor."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from outrider.testing.conformance.driver import Driver, Ran, Told, Tool, Turns

Seen = list[tuple[str, str | None]]
"""Names of tools as they were answered, and their results; None of a failure."""
_seen: ContextVar[Seen | None] = ContextVar("seen", default=None)


class CrewAIDriver(Driver):
    framework = "crewai"
    not_offered = {
        "async": "CrewAI's executor calls every tool synchronously on a thread, a coroutine function too; "
        "its agents on a loop (akickoff) are what 'mixed' runs",
        "cancellation[mixed]": "akickoff runs the agent on threads of the loop's pool; a task that is cancelled leaves "
        "them behind, and nobody tells them",
        "fork": "CrewAI itself hangs in the child of a process in which a crew has run: its event bus waits for a "
        "thread that no fork takes along",
    }

    def install(self) -> None:
        import tests.support.scripted_crewai as quiet  # turns CrewAI's telemetry off before it is imported

        assert quiet
        from crewai.hooks import register_after_tool_call_hook

        from outrider_adapters import crewai

        register_after_tool_call_hook(_note)
        crewai.install()

    def run(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        from outrider_adapters.crewai import Killed

        crew, model = _crew(tools, turns)
        seen = _watch()
        try:
            crew.kickoff()
        except Killed as killed:
            return Ran(killed=str(killed))
        return _ran(turns, model, seen)

    async def arun(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        from outrider_adapters.crewai import Killed

        crew, model = _crew(tools, turns)
        seen = _watch()
        try:
            await crew.akickoff()
        except Killed as killed:
            return Ran(killed=str(killed))
        return _ran(turns, model, seen)


def _watch() -> Seen:
    seen: Seen = []
    _seen.set(seen)
    return seen


def _note(context: Any) -> None:
    """CrewAI tells its model a failure as a text; that it is one shows in the object that the tool gave. A result is
    taken from here too: what the model reads of a large one is cut by CrewAI."""
    from crewai.tools.tool_failure import ToolFailure

    seen, given = _seen.get(), context.raw_tool_result
    if seen is not None:
        seen.append((context.tool_name, None if isinstance(given, ToolFailure) else str(given)))


def _crew(tools: Sequence[Tool], turns: Turns) -> tuple[Any, Any]:
    from tests.support.scripted_crewai import agent, asks, crew, llm

    model = llm(*(asks(*((ask.tool, dict(ask.args)) for ask in turn)) for turn in turns), "done")
    return crew(agent(model, *(_tool(tool) for tool in tools))), model


def _tool(tool: Tool) -> Any:
    from crewai.tools import tool as as_tool

    from outrider_adapters import crewai

    made = as_tool(tool.name)(tool.function)
    return crewai.govern(made, name=tool.governed_as) if tool.governed_as else made


def _ran(turns: Turns, model: Any, seen: Seen) -> Ran:
    """In the order of the model's asking. A failure's text is the one that the model reads."""
    texts = [message["content"] for message in model.heard[-1] if message.get("role") == "tool"]
    told = []
    for ask, text in zip([ask for turn in turns for ask in turn], texts, strict=True):
        at = next(at for at, (name, _) in enumerate(seen) if name == ask.tool)
        _, result = seen.pop(at)
        told.append(Told("failure", text) if result is None else Told("result", result))
    return Ran(told)

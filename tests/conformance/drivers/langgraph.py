"""LangGraph: ``create_agent`` with a scripted chat model, through its real loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outrider.testing.conformance.driver import Driver, Ran, Told, Tool, Turns


class LangGraphDriver(Driver):
    framework = "langgraph"

    def install(self) -> None:
        from outrider_adapters import langgraph

        langgraph.install()

    def run(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        from outrider_adapters.langgraph import Killed

        try:
            return _ran(_agent(tools, turns).invoke(_go()))
        except Killed as killed:
            return Ran(killed=str(killed))

    async def arun(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        from outrider_adapters.langgraph import Killed

        try:
            return _ran(await _agent(tools, turns).ainvoke(_go()))
        except Killed as killed:
            return Ran(killed=str(killed))


def _agent(tools: Sequence[Tool], turns: Turns) -> Any:
    from langchain.agents import create_agent

    from tests.support.scripted_model import asks, model

    replies, first = [], 1
    for turn in turns:
        replies.append(asks(*((ask.tool, dict(ask.args)) for ask in turn), first=first))
        first += len(turn)
    return create_agent(model(*replies, "done"), [_tool(tool) for tool in tools])


def _tool(tool: Tool) -> Any:
    from langchain_core.tools import StructuredTool

    from outrider_adapters import langgraph

    given = {"coroutine": tool.function} if tool.is_async else {"func": tool.function}
    made = StructuredTool.from_function(**given, name=tool.name)
    return langgraph.govern(made, name=tool.governed_as) if tool.governed_as else made


def _go() -> dict[str, Any]:
    from langchain_core.messages import HumanMessage

    return {"messages": [HumanMessage("go")]}


def _ran(state: dict[str, Any]) -> Ran:
    """What the model was told of each call, in the order of its asking."""
    from langchain_core.messages import AIMessage, ToolMessage

    told = {message.tool_call_id: message for message in state["messages"] if isinstance(message, ToolMessage)}
    asked = [
        call["id"] for message in state["messages"] if isinstance(message, AIMessage) for call in message.tool_calls
    ]
    return Ran([Told("failure" if told[one].status == "error" else "result", _text(told[one])) for one in asked])


def _text(message: Any) -> str:
    return message.content if isinstance(message.content, str) else str(message.content)

"""How each framework executes a tool that its model asked for: the lowest step of its agent's loop that an agent's
author can name, and nothing around it.

A way is given an id and makes ready what the model would have said; what it returns executes the tool and gives the
text that the model would read. The tools do nothing but note that they ran, so that only the way to them is measured.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Ask = Callable[[str], Callable[[], str]]
AsyncAsk = Callable[[str], Callable[[], Awaitable[str]]]


@dataclass
class Ways:
    """Those of one framework. ``ran``: the ids that its tools were executed with. ``settle``: waits for what the
    framework does on threads of its own after a call was answered; a later call must not pay for it."""

    sync: dict[str, Ask] = field(default_factory=dict)
    on_loop: dict[str, AsyncAsk] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    settle: Callable[[], object] = lambda: None


def langgraph() -> Ways:
    """LangGraph's ToolNode as a graph calls it: with a runtime."""
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import tool
    from langgraph.prebuilt import ToolNode
    from langgraph.runtime import Runtime

    ways = Ways()

    @tool
    def read_langgraph(id: str) -> str:
        """Reads a record."""
        ways.ran.append(id)
        return f"record {id}"

    @tool
    async def read_langgraph_async(id: str) -> str:
        """Reads a record."""
        ways.ran.append(id)
        return f"record {id}"

    node = ToolNode([read_langgraph, read_langgraph_async])
    config: RunnableConfig = {"configurable": {"__pregel_runtime": Runtime()}}

    def said(name: str, id: str) -> dict[str, list[AIMessage]]:
        return {"messages": [AIMessage("", tool_calls=[{"name": name, "args": {"id": id}, "id": f"call-{id}"}])]}

    def invoke(id: str) -> Callable[[], str]:
        asked = said("read_langgraph", id)
        return lambda: str(node.invoke(asked, config)["messages"][0].text)

    def ainvoke(id: str) -> Callable[[], Awaitable[str]]:
        asked = said("read_langgraph_async", id)

        async def ask() -> str:
            return str((await node.ainvoke(asked, config))["messages"][0].text)

        return ask

    ways.sync["ToolNode.invoke"] = invoke
    ways.on_loop["ToolNode.ainvoke"] = ainvoke
    return ways


def crewai() -> Ways:
    """What CrewAI's executor does with one call of a model: by function calling, and written as text (ReAct)."""
    from crewai.agents.parser import AgentAction
    from crewai.events.event_bus import crewai_event_bus
    from crewai.tools import tool
    from crewai.utilities.agent_utils import execute_single_native_tool_call, setup_native_tools
    from crewai.utilities.tool_utils import execute_tool_and_check_finality

    from tests.support.scripted_crewai import agent, crew, llm

    ways = Ways(settle=crewai_event_bus.flush)

    @tool("read_crewai")
    def read_crewai(id: str) -> str:
        """Reads a record."""
        ways.ran.append(id)
        return f"record {id}"

    one = agent(llm("done"), read_crewai)
    whole = crew(one)
    task = whole.tasks[0]
    functions = setup_native_tools([read_crewai])[1]
    structured = [read_crewai.to_structured_tool()]

    def native(id: str) -> Callable[[], str]:
        function = {"name": "read_crewai", "arguments": json.dumps({"id": id})}
        asked = {"id": f"call-{id}", "type": "function", "function": function}
        return lambda: str(
            execute_single_native_tool_call(
                asked,
                available_functions=functions,
                original_tools=[read_crewai],
                structured_tools=structured,
                tools_handler=None,
                agent=one,
                task=task,
                crew=whole,
                event_source=one,
            ).result
        )

    def react(id: str) -> Callable[[], str]:
        one.tools_results = []  # an agent keeps its results; here it would be those of thousands of calls
        given = json.dumps({"id": id})
        text = f"Thought: next\nAction: read_crewai\nAction Input: {given}"
        asked = AgentAction(thought="next", tool="read_crewai", tool_input=given, text=text)

        def ask() -> str:
            found = execute_tool_and_check_finality(
                asked, structured, agent_key=one.key, agent_role=one.role, agent=one, task=task, crew=whole
            )
            return str(found.result).partition("\n")[0]  # CrewAI reminds the model of the format below

        return ask

    ways.sync |= {"function calling": native, "ReAct": react}
    return ways


def autogen() -> Ways:
    """AutoGen's StaticWorkbench, which an AssistantAgent makes of its tools, with a run's token."""
    from autogen_core import CancellationToken
    from autogen_core.tools import FunctionTool, StaticWorkbench

    ways = Ways()

    def read_autogen(id: str) -> str:
        ways.ran.append(id)
        return f"record {id}"

    async def read_autogen_async(id: str) -> str:
        ways.ran.append(id)
        return f"record {id}"

    bench = StaticWorkbench(
        [FunctionTool(function, "Reads a record.") for function in (read_autogen, read_autogen_async)]
    )

    def of(name: str) -> AsyncAsk:
        def call_tool(id: str) -> Callable[[], Awaitable[str]]:
            token = CancellationToken()

            async def ask() -> str:
                return (await bench.call_tool(name, {"id": id}, token, f"call-{id}")).to_text()

            return ask

        return call_tool

    ways.on_loop |= {"call_tool, function": of("read_autogen"), "call_tool, coroutine": of("read_autogen_async")}
    return ways


FRAMEWORKS: dict[str, Callable[[], Ways]] = {"langgraph": langgraph, "crewai": crewai, "autogen": autogen}

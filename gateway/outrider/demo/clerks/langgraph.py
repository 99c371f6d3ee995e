"""The clerk of LangGraph: an agent of ``create_agent``."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool

from outrider.demo.clerks.duties import Duty, Script
from outrider.demo.clerks.functions import Functions

MAX_STEPS = 1000


class Model(BaseChatModel):
    """Follows the script."""

    script: Script
    tool: str

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Model:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        said = self.script.next(messages[-1].text)
        if isinstance(said, str):
            message = AIMessage(said)
        else:
            message = AIMessage("", tool_calls=[{"name": self.tool, "args": dict(said), "id": f"c{len(messages)}"}])
        return ChatResult(generations=[ChatGeneration(message=message)])


def work(clerk: str, duty: Duty, functions: Functions) -> str:
    """One invocation of an agent; its last word."""
    tool = StructuredTool.from_function(functions[duty.tool])
    agent: Any = create_agent(Model(script=Script(duty), tool=duty.tool), [tool], name=clerk)
    state = agent.invoke({"messages": [("user", duty.prompt)]}, {"recursion_limit": MAX_STEPS})
    return str(state["messages"][-1].text)


CLERKS = {"clerk_langgraph": work}

"""The clerks of CrewAI: a crew whose model calls functions, and one whose model writes what it wants (ReAct)."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from crewai import Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool

from outrider.demo.clerks.duties import Duty, Script
from outrider.demo.clerks.functions import Functions

MAX_STEPS = 1000
SEEN = "Observation:"
"""Behind it CrewAI writes what a tool answered."""


class Model(BaseLLM):
    """Follows the script."""

    script: Any
    tool: str
    native: bool

    def supports_function_calling(self) -> bool:
        return self.native

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        said = self.script.next(self._told(messages))
        if isinstance(said, str):
            return said if self.native else f"Thought: I know\nFinal Answer: {said}"
        arguments = json.dumps(said)
        if self.native:
            return [{"id": "c1", "type": "function", "function": {"name": self.tool, "arguments": arguments}}]
        return f"Thought: next\nAction: {self.tool}\nAction Input: {arguments}"

    async def acall(self, messages: Any, *_: Any, **__: Any) -> Any:
        return self.call(messages)

    def _told(self, messages: Any) -> str:
        """What the tool answered last."""
        if self.native:
            return next((str(one["content"]) for one in reversed(messages) if one["role"] == "tool"), "")
        written = [str(one["content"]) for one in messages if one["role"] == "assistant"]
        return next((text.rpartition(SEEN)[2].strip() for text in reversed(written) if SEEN in text), "")


def work(clerk: str, duty: Duty, functions: Functions, *, native: bool) -> str:
    """One kickoff of a crew; its last word."""
    model = Model(model="scripted", script=Script(duty), tool=duty.tool, native=native)
    tools = [tool(duty.tool)(functions[duty.tool])]
    agent = Agent(role=clerk, goal="to help", backstory="a clerk", llm=model, tools=tools, max_iter=MAX_STEPS)
    task = Task(description=duty.prompt, expected_output="an answer", agent=agent)
    return str(Crew(agents=[agent], tasks=[task]).kickoff())


CLERKS = {"clerk_crewai": partial(work, native=True), "clerk_react": partial(work, native=False)}

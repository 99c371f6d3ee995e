"""A model for CrewAI without a network. It says its script line by line; the last one for ever.

Importing this file imports CrewAI, and turns its telemetry and tracing off before.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import threading
from typing import Any

os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"
os.environ["CREWAI_DISABLE_TRACKING"] = "true"
os.environ["CREWAI_DISABLE_VERSION_CHECK"] = "true"
os.environ["CREWAI_TRACING_ENABLED"] = "false"
os.environ["OTEL_SDK_DISABLED"] = "true"
os.environ["CREWAI_STORAGE_DIR"] = tempfile.mkdtemp(prefix="outrider-crewai-")

from crewai import Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from pydantic import PrivateAttr

atexit.register(shutil.rmtree, os.environ["CREWAI_STORAGE_DIR"], ignore_errors=True)


class ScriptedLLM(BaseLLM):
    """``native``: calls tools by function calling; else it writes ``Action:`` (ReAct). ``heard``: what it was told."""

    native: bool = True
    script: list[Any] = []
    heard: list[Any] = []
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _said: int = PrivateAttr(default=0)

    def supports_function_calling(self) -> bool:
        return self.native

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        with self._lock:
            self.heard.append(json.loads(json.dumps(messages, default=str)))
            line = self.script[min(self._said, len(self.script) - 1)]
            self._said += 1
        return line if isinstance(line, str) else self._calls(line)

    async def acall(self, messages: Any, *_: Any, **__: Any) -> Any:
        return self.call(messages)

    def _calls(self, asked: list[tuple[str, dict[str, Any]]]) -> Any:
        if not self.native:
            ((name, args),) = asked
            return f"Thought: next\nAction: {name}\nAction Input: {json.dumps(args)}"
        return [
            {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
            for number, (name, args) in enumerate(asked, 1)
        ]

    @property
    def last_heard(self) -> str:
        """All that the model was told before its last word."""
        return json.dumps(self.heard[-1])


def asks(*calls: tuple[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """A line that calls tools."""
    return list(calls)


def llm(*script: Any, native: bool = True) -> ScriptedLLM:
    lines = [line if native or not isinstance(line, str) else f"Thought: done\nFinal Answer: {line}" for line in script]
    return ScriptedLLM(model="scripted", native=native, script=lines, heard=[])


def agent(model: ScriptedLLM, *tools: Any, role: str = "researcher", **more: Any) -> Agent:
    return Agent(role=role, goal="to know", backstory="curious", llm=model, tools=list(tools), verbose=False, **more)


def crew(*members: Agent, tasks: int = 1, task: dict[str, Any] | None = None, **more: Any) -> Crew:
    """Each member has ``tasks`` tasks."""
    todo = [
        Task(description=f"Task {number} of {member.role}.", expected_output="an answer", agent=member, **(task or {}))
        for member in members
        for number in range(tasks)
    ]
    return Crew(agents=list(members), tasks=todo, verbose=False, **more)

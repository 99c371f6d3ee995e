"""A model client of AutoGen without a network, and the shortest way to agents that use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.messages import ToolCallExecutionEvent
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, FunctionExecutionResult, ModelFamily, ModelInfo, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient

ABILITIES = ModelInfo(
    vision=False, function_calling=True, json_output=False, family=ModelFamily.UNKNOWN, structured_output=False
)


def asks(*calls: tuple[str, dict[str, Any]], first: int = 1) -> CreateResult:
    """A reply that calls tools; their ids are ``c1``, ``c2`` … from ``first``."""
    asked = [
        FunctionCall(id=f"c{number}", name=name, arguments=json.dumps(args))
        for number, (name, args) in enumerate(calls, first)
    ]
    usage = RequestUsage(prompt_tokens=0, completion_tokens=0)
    return CreateResult(finish_reason="function_calls", content=asked, usage=usage, cached=False)


def model(*replies: CreateResult | str) -> ReplayChatCompletionClient:
    """Says these, one after the other; asked once more it raises."""
    return ReplayChatCompletionClient(list(replies), model_info=ABILITIES)


def agent(name: str, *replies: CreateResult | str, tools: Sequence[Any] = (), **more: Any) -> AssistantAgent:
    """An agent that goes on until the model says something."""
    given = {"tools": list(tools)} if tools else {}
    return AssistantAgent(name, model_client=model(*replies), **{"max_tool_iterations": 9, **given, **more})


def told(result: TaskResult) -> list[FunctionExecutionResult]:
    """What the models of a run read of their tools, in order."""
    events = [message for message in result.messages if isinstance(message, ToolCallExecutionEvent)]
    return [one for event in events for one in event.content]


def said(result: TaskResult) -> str:
    """The last word."""
    return str(result.messages[-1].to_text())  # type: ignore[union-attr]

"""The clerk of AutoGen: a team of one agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import FunctionCall
from autogen_core.models import (
    CreateResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    ModelFamily,
    ModelInfo,
    RequestUsage,
)
from autogen_core.tools import FunctionTool
from autogen_ext.models.replay import ReplayChatCompletionClient

from outrider.demo.clerks.duties import Duty, Script
from outrider.demo.clerks.functions import Functions

MAX_STEPS = 1000
ABILITIES = ModelInfo(
    vision=False, function_calling=True, json_output=False, family=ModelFamily.UNKNOWN, structured_output=False
)


class Model(ReplayChatCompletionClient):
    """Follows the script."""

    def __init__(self, duty: Duty) -> None:
        super().__init__([], model_info=ABILITIES)
        self._script = Script(duty)
        self._tool = duty.tool

    async def create(self, messages: Sequence[LLMMessage], **_: Any) -> CreateResult:
        said = self._script.next(_told(messages[-1]))
        usage = RequestUsage(prompt_tokens=0, completion_tokens=0)
        if isinstance(said, str):
            return CreateResult(finish_reason="stop", content=said, usage=usage, cached=False)
        call = FunctionCall(id=f"c{len(messages)}", name=self._tool, arguments=json.dumps(said))
        return CreateResult(finish_reason="function_calls", content=[call], usage=usage, cached=False)


def _told(message: LLMMessage) -> str:
    """What the tool answered."""
    return message.content[-1].content if isinstance(message, FunctionExecutionResultMessage) else ""


def work(clerk: str, duty: Duty, functions: Functions) -> str:
    """One run of a team; its last word."""
    function = functions[duty.tool]
    tool = FunctionTool(function, function.__doc__ or "", name=duty.tool)
    agent = AssistantAgent(clerk, model_client=Model(duty), tools=[tool], max_tool_iterations=MAX_STEPS)
    result = asyncio.run(RoundRobinGroupChat([agent], max_turns=1).run(task=duty.prompt))
    return result.messages[-1].to_text()


CLERKS = {"clerk_autogen": work}

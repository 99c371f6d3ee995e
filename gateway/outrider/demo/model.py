"""A chat model that follows a script: no network, no key. Its reply depends on the messages alone, so it is stateless.

It behaves as models do: told that a tool failed, it often just calls it again, whatever the error says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from outrider.demo.tasks import BY_PROMPT, Step, Task

GAVE_UP = "I give up: "


class ScriptedModel(BaseChatModel):
    """Finds its task by the person's words, and its place in the script by its own former messages."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> ScriptedModel:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=next_message(messages))])


def next_message(messages: Sequence[BaseMessage]) -> AIMessage:
    """What the model says next: one tool call, or its last word."""
    said = next(message.text for message in messages if isinstance(message, HumanMessage))
    task = BY_PROMPT[said]
    results = [message for message in messages if isinstance(message, ToolMessage)]
    at, given_up = _place(task, results)
    if given_up:
        return AIMessage(GAVE_UP + results[-1].text)
    if at == len(task.steps):
        return AIMessage(task.answer.format(result=results[-1].text))
    step = task.steps[at]
    return AIMessage(
        "", tool_calls=[{"name": step.tool, "args": dict(step.args), "id": f"{task.id}-{len(results) + 1}"}]
    )


def _place(task: Task, results: Sequence[ToolMessage]) -> tuple[int, bool]:
    """The number of the step that is next, and whether the model gives up. Each step has at most two results."""
    at, tries = 0, 0
    for result in results:
        tries += 1
        if result.status != "error" or task.steps[at].on_error == "go_on":
            at, tries = at + 1, 0
        elif not _tries_again(task.steps[at], tries):
            return at, True
    return at, False


def _tries_again(step: Step, tries: int) -> bool:
    return step.on_error == "again" and tries == 1

"""A chat model without a network. Stateless: which reply comes is told by how many replies the history holds, so a
resumed or repeated run goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class ScriptedModel(BaseChatModel):
    """Replies with ``script[n]``, n being the number of AIMessages before it; the last one for ever."""

    script: list[AIMessage]
    seen: list[list[BaseMessage]]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> ScriptedModel:  # type: ignore[override]
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        self.seen.append(list(messages))
        said = sum(isinstance(message, AIMessage) for message in messages)
        reply = self.script[min(said, len(self.script) - 1)]
        return ChatResult(generations=[ChatGeneration(message=reply.model_copy(deep=True, update={"id": None}))])


def asks(*calls: tuple[str, dict[str, Any]], first: int = 1) -> AIMessage:
    """A reply that calls tools; their ids are ``c1``, ``c2`` … from ``first``."""
    asked = [
        {"name": name, "args": args, "id": f"c{number}", "type": "tool_call"}
        for number, (name, args) in enumerate(calls, first)
    ]
    return AIMessage("", tool_calls=asked)


def model(*replies: AIMessage | str) -> ScriptedModel:
    return ScriptedModel(script=[AIMessage(one) if isinstance(one, str) else one for one in replies], seen=[])

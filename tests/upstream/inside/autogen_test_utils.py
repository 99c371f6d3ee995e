"""AutoGen's tests import a package of this name that was never published. This has what the chosen tests use of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autogen_core import BaseAgent, MessageContext


@dataclass
class MessageType:
    """Something to send."""


class LoopbackAgent(BaseAgent):
    """Answers with what it was sent, and counts."""

    def __init__(self) -> None:
        super().__init__("answers with what it was sent")
        self.num_calls = 0

    async def on_message_impl(self, message: Any, ctx: MessageContext) -> Any:
        self.num_calls += 1
        return message

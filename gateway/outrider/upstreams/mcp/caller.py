"""The caller's side of a call that came as an MCP request: what it said, and how it is spoken to meanwhile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from outrider.mcp_wire import MODERN, Message


class McpCaller(ABC):
    """Given to ``Supervisor.submit``; a driver finds it as ``attempt.caller``.

    ``protocol`` is the version that the client speaks, ``capabilities`` what it declared. ``params`` is all that it
    sent with its request, unknown fields too, with the tool's name as the upstream knows it.
    """

    def __init__(self, protocol: str, capabilities: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        self.protocol = protocol
        self.capabilities = capabilities
        self.params = params

    @property
    def modern(self) -> bool:
        return self.protocol == MODERN

    @abstractmethod
    def notify(self, message: Message) -> None:
        """Pass on a notification of the upstream about this call: progress, a log message. Never waits."""

    @abstractmethod
    async def ask(self, method: str, params: Message) -> Message:
        """Pass on a request of the upstream to its client (sampling, elicitation, roots); its result. The attempt is
        committed before. Raises RpcError, also where the client cannot be asked."""

"""The caller's side of a call that came as an MCP request: what it said, and how it is spoken to meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from outrider.mcp_wire import Message


@runtime_checkable
class McpCaller(Protocol):
    """Given to ``Supervisor.submit``; a driver finds it as ``attempt.caller``.

    ``protocol`` is the version that the client speaks, ``capabilities`` what it declared. ``params`` is all that it
    sent with its request, unknown fields too, with the tool's name as the upstream knows it.
    """

    protocol: str
    capabilities: Mapping[str, Any]
    params: Mapping[str, Any]

    def notify(self, message: Message) -> None:
        """Pass on a notification of the upstream about this call: progress, a log message. Never waits."""
        ...

    async def ask(self, method: str, params: Message) -> Message:
        """Pass on a request of the upstream to its client (sampling, elicitation, roots); its result. The attempt is
        committed before. Raises RpcError, also where the client cannot be asked."""
        ...

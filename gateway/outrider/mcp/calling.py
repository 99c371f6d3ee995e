"""The caller's side of a call under way: what the upstream tells and asks meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from outrider.mcp.answering import Answer
from outrider.mcp_wire import INVALID_REQUEST, METHOD_NOT_FOUND, Message, RpcError, is_answer
from outrider.upstreams.mcp.caller import McpCaller

NEEDS = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
"""The capability that a client must have declared to be asked."""


class Questions:
    """Requests to a client that wait for its answer, which comes in a POST of its own. One for each legacy session."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Message]] = {}

    async def ask(self, tell: Callable[[Message], bool], method: str, params: Message) -> Message:
        """Raises RpcError."""
        id_ = f"outrider-{next(self._ids)}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = answer
        try:
            if not tell({"jsonrpc": "2.0", "id": id_, "method": method, "params": params}):
                raise RpcError(INVALID_REQUEST, "the client takes no events, so it cannot be asked")
            return _result(await answer)
        finally:
            del self._waiting[id_]

    def answered(self, message: Message) -> bool:
        """Whether somebody waited for this answer."""
        waiting = self._waiting.get(str(message.get("id"))) if is_answer(message) else None
        if waiting is None or waiting.done():
            return False
        waiting.set_result(message)
        return True


def _result(message: Message) -> Message:
    if "error" in message:
        raise RpcError.of(message["error"])
    if not isinstance(message["result"], dict):
        raise RpcError(INVALID_REQUEST, "the client answered with a result that is no object")
    return message["result"]


class Calling(McpCaller):
    """One request of a client. ``questions`` is None in the modern era, which has no requests to clients."""

    def __init__(
        self,
        protocol: str,
        capabilities: Mapping[str, Any],
        params: Mapping[str, Any],
        answer: Answer,
        questions: Questions | None,
    ) -> None:
        super().__init__(protocol, capabilities, params)
        self._answer = answer
        self._questions = questions
        self._progress: float | None = None

    def notify(self, message: Message) -> None:
        """Progress must grow: that of a second attempt begins anew, and is told from where it is further on."""
        if message.get("method") == "notifications/progress" and not self._advances(message):
            return
        self._answer.offer(message)

    def _advances(self, message: Message) -> bool:
        progress = (message.get("params") or {}).get("progress")
        if not isinstance(progress, int | float) or isinstance(progress, bool):
            return False
        if self._progress is not None and progress <= self._progress:
            return False
        self._progress = progress
        return True

    async def ask(self, method: str, params: Message) -> Message:
        if self._questions is None:
            raise RpcError(METHOD_NOT_FOUND, f"a client of version {self.protocol} cannot be asked for {method[:100]}")
        needed = NEEDS.get(method)
        if needed is None or needed not in self.capabilities:
            raise RpcError(METHOD_NOT_FOUND, f"this client did not declare that it can be asked for {method[:100]}")
        return await self._questions.ask(self._answer.tell, method, params)

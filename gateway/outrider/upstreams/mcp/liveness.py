"""Whether a child still answers: it is asked where it has been silent, never while it may be busy with a call.

A server that does one thing at a time cannot answer a ping beside a long call, and ending it would lose the call. So it
is asked only when nothing is under way, or when a call was given up and nothing at all came since for ``HUNG_S``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from outrider import clock
from outrider.mcp_wire import META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN, Message
from outrider.upstreams.mcp.session import OURSELVES
from outrider.upstreams.mcp.transport import McpFailure

PERIOD_S = 15.0
ANSWER_S = 10.0
"""How long one answer may take."""
FAILURES = 3
"""So many in a row without an answer: it hangs."""
HUNG_S = 60.0


class Liveness:
    """Of one child. ``ask`` sends a request and waits for its answer, ``busy`` tells whether requests are under way,
    ``hung`` is called once."""

    def __init__(
        self, ask: Callable[[Message], Awaitable[object]], busy: Callable[[], bool], hung: Callable[[], None]
    ) -> None:
        self._ask = ask
        self._busy = busy
        self._hung = hung
        self._heard_at = clock.monotonic()
        self._gave_up = False
        self._ids = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    def begin(self, version: str) -> None:
        """Watch from now on. ``version`` is the legacy one that is spoken, empty for the modern era."""
        self._task = asyncio.get_running_loop().create_task(self._watch(version))

    def heard(self) -> None:
        """It said something."""
        self._heard_at = clock.monotonic()
        self._gave_up = False

    def given_up(self) -> None:
        """A request got no answer in its time."""
        self._gave_up = True

    def is_due(self, now: float) -> bool:
        """Whether it is to be asked."""
        silent_s = now - self._heard_at
        return silent_s >= (HUNG_S if self._busy() else PERIOD_S) and (self._gave_up or not self._busy())

    async def _watch(self, version: str) -> None:
        failures = 0
        while failures < FAILURES:
            if not self.is_due(clock.monotonic()):
                failures = 0
                await asyncio.sleep(PERIOD_S)
            elif await self._answers(version):
                failures = 0
            else:
                failures += 1
        self._hung()

    async def _answers(self, version: str) -> bool:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._ask(self._question(version))
        except (TimeoutError, McpFailure):
            return False
        return True

    def _question(self, version: str) -> Message:
        """Any answer is a sign of life, a refusal too."""
        question: Message = {"jsonrpc": "2.0", "id": f"alive-{next(self._ids)}", "method": "ping", "params": {}}
        if not version:  # the modern era has no ping
            about = {META_VERSION: MODERN, META_CLIENT: OURSELVES, META_CAPABILITIES: {}}
            question |= {"method": "server/discover", "params": {"_meta": about}}
        return question

    async def close(self) -> None:
        """Watch no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

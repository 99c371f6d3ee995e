"""AutoGen: an ``AssistantAgent`` with a scripted model client, through its real loop of tool iterations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from outrider.testing.conformance.driver import Driver, Ran, Told, Tool, Turns


class AutoGenDriver(Driver):
    framework = "autogen"

    def install(self) -> None:
        from outrider_adapters import autogen

        autogen.install()

    def run(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        """A program without a loop of its own."""
        return asyncio.run(self.arun(tools, turns))

    async def arun(self, tools: Sequence[Tool], turns: Turns) -> Ran:
        from autogen_core import CancellationToken

        from outrider_adapters.autogen import Killed

        token = CancellationToken()
        running = asyncio.create_task(_agent(tools, turns).run(task="go", cancellation_token=token))
        try:
            result = await asyncio.shield(running)
        except Killed as killed:
            return Ran(killed=str(killed))
        except asyncio.CancelledError:
            token.cancel()  # AutoGen's own way: a task that is cancelled leaves its tools running
            await asyncio.wait({running})
            raise
        return _ran(turns, result)


def _agent(tools: Sequence[Tool], turns: Turns) -> Any:
    from tests.support.scripted_autogen import agent, asks

    replies, first = [], 1
    for turn in turns:
        replies.append(asks(*((ask.tool, dict(ask.args)) for ask in turn), first=first))
        first += len(turn)
    return agent("assistant", *replies, "done", tools=[_tool(tool) for tool in tools])


def _tool(tool: Tool) -> Any:
    from autogen_core.tools import FunctionTool

    from outrider_adapters import autogen

    made = FunctionTool(tool.function, description=tool.function.__doc__ or "", name=tool.name)
    return autogen.govern(made, name=tool.governed_as) if tool.governed_as else made


def _ran(turns: Turns, result: Any) -> Ran:
    """In the order of the model's asking; AutoGen keeps it."""
    from tests.support.scripted_autogen import told

    answers = {one.call_id: one for one in told(result)}
    asked = [f"c{number}" for number in range(1, 1 + sum(len(turn) for turn in turns))]
    return Ran([Told("failure" if answers[one].is_error else "result", answers[one].content) for one in asked])

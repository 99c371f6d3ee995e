"""Tool pins: is this tool of an MCP server still the one that was first seen? Before each attempt, because the server
may have told of a change meanwhile."""

from __future__ import annotations

from outrider.calls import Outcome
from outrider.flight import Flight
from outrider.pins import Pins
from outrider.stages import Next

STAGE = "tool_pins"


class ToolPins:
    """Asks only of MCP servers."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    async def __call__(self, flight: Flight, following: Next) -> Outcome:
        plan = flight.plan
        assert plan is not None
        refusal = self._pins.bar(flight, plan, STAGE) if plan.upstream.mcp is not None else None
        return refusal if refusal is not None else await following(flight)

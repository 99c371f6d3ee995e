"""The section ``agents``: who is expected, and what becomes of everybody else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from outrider.policy import plans
from outrider.policy.fields import Model, Pattern, PositiveDuration, Text, default, lasting, optional

_AGENTS = plans.AgentSettings()
Label = Annotated[str, Field(max_length=200)]


class ExpectedAgent(Model):
    """An agent, or several whose names begin alike, that may be here."""

    name: Pattern = Field(description="The agent's exact name, or a prefix with '*' at the end.")
    owner: Text = optional("Who answers for it. An owner that its credential names counts before this one.")
    labels: dict[Text, Label] = optional(
        "What people sort agents by; shown beside those of its credential.", max_length=32
    )


class AgentPause(Model):
    """How calls of a paused agent wait."""

    max_wait: PositiveDuration = lasting(
        _AGENTS.pause_max_wait_s, "How long a call waits for its paused agent to be resumed, before it is refused."
    )
    max_waiting: int = default(
        _AGENTS.pause_max_waiting, "How many calls of one paused agent wait; more are refused.", ge=0, le=1_000_000
    )


class Agents(Model):
    """Who is expected, and what becomes of everybody else."""

    expected: list[ExpectedAgent] = default(
        [], "The agents that may be here. Of several that match, the longest name counts.", max_length=10_000
    )
    undeclared: Literal["allow", "deny", "quarantine"] = default(
        _AGENTS.undeclared,
        "What becomes of an agent that is not expected: its calls pass, are refused, or (quarantine) pass only where "
        "the tool's effect is read. It is shown as undeclared in any case.",
    )
    require_owner: bool = default(
        _AGENTS.require_owner, "Refuse agents of which neither the credential nor `expected` names an owner."
    )
    drift: Literal["allow", "flag", "refuse"] = default(
        _AGENTS.drift,
        "When an in-process tool's schema or description is not the one first seen: nothing, show it, or refuse that "
        "tool until a person accepts it.",
    )
    pause: AgentPause = optional("How calls of a paused agent wait.")

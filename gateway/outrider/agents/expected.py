"""Whom the policy expects, and what it has against an agent as it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from outrider.calls import Agent
from outrider.errors import Code
from outrider.policy.patterns import PatternIndex
from outrider.policy.plans import AgentSettings, Expected


@dataclass(frozen=True, slots=True)
class Bar:
    """Something against a call: the code, and the sentence that its caller reads. ``reads_pass``: calls of tools with
    effect read are not meant."""

    code: Code
    detail: str
    reads_pass: bool = False


class Expectations:
    """The section ``agents`` of one policy, indexed."""

    __slots__ = ("_index", "settings")

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self._index: PatternIndex[Expected] = PatternIndex()
        for agent in settings.expected:
            self._index.add(agent.name, agent)

    def find(self, name: str) -> Expected | None:
        """The entry for this agent: of several the one with the longest name."""
        found = self._index.find(name)
        return found[-1] if found else None

    def declared(self, name: str) -> bool | None:
        """Whether the policy expects it; None where the policy expects nobody by name."""
        return self.find(name) is not None if self.settings.expected else None

    def owner(self, agent: Agent) -> str:
        """Who answers for it: whom its credential names, else whom the policy does."""
        expected = self.find(agent.name)
        return agent.owner or (expected.owner if expected is not None else "")

    def labels(self, agent: Agent) -> dict[str, str]:
        expected = self.find(agent.name)
        return {**(expected.labels if expected is not None else {}), **agent.labels}

    def quarantined(self, name: str) -> bool:
        return self.settings.undeclared == "quarantine" and self.declared(name) is False

    def bar(self, agent: Agent) -> Bar | None:
        """What the policy has against this agent, whichever tool it calls."""
        name = agent.name
        if self.settings.undeclared == "deny" and self.declared(name) is False:
            detail = (
                f"The policy does not expect an agent named '{name}', and undeclared agents are denied. A person can "
                "add it to agents.expected."
            )
            return Bar(Code.AGENT_UNDECLARED, detail)
        if self.settings.require_owner and not self.owner(agent):
            detail = (
                f"Nobody answers for agent '{name}', and the policy requires an owner. A person can name one in "
                "agents.expected, or give the agent a credential with an owner."
            )
            return Bar(Code.AGENT_UNDECLARED, detail)
        if self.quarantined(name):
            detail = (
                f"The policy does not expect an agent named '{name}', so it is in quarantine: it may only call tools "
                "that read. A person can add it to agents.expected."
            )
            return Bar(Code.AGENT_UNDECLARED, detail, reads_pass=True)
        return None


def drift_bar(agent: str, tool: str) -> Bar:
    """What is against a tool that has changed since it was first seen."""
    detail = (
        f"The schema or description of {tool} is not the one first seen of agent '{agent}'. It is refused until a "
        f"person has looked at it: outrider agents accept {agent} {tool}"
    )
    return Bar(Code.TOOL_DRIFTED, detail)

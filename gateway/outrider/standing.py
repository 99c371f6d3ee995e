"""What the policy has against a call's agent, or against the tool as that agent declares it. Asked when the call comes
and before each attempt: the policy may have changed, and a fallback is another tool."""

from __future__ import annotations

from outrider.agents import Agents
from outrider.agents.expected import Bar, drift_bar
from outrider.calls import Effect, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.flight import Flight
from outrider.observing import enforced
from outrider.policy.load import Policy


def policy_bar(flight: Flight, agents: Agents, newest: Policy, stage: str) -> Outcome | None:
    """The refusal, None where nothing is against it. Cheap where nothing is against the agent at all."""
    entry = flight.entry
    assert entry is not None
    if entry.clear is newest.agents:
        return None
    bar = _bar(flight, agents, newest)
    if bar is None:
        return None
    refusal = Outcome(OutcomeKind.NOT_EXECUTED, code=bar.code, detail=bar.detail, stage=stage)
    return enforced(flight, refusal, by=newest)


def _bar(flight: Flight, agents: Agents, newest: Policy) -> Bar | None:
    entry, call, settings = flight.entry, flight.call, newest.agents
    assert entry is not None and flight.plan is not None
    bar = agents.expectations(settings).bar(call.agent)
    if bar is not None and not (bar.reads_pass and flight.plan.effect is Effect.READ):
        return bar
    if settings.drift == "refuse":
        if call.tool in entry.drifted:
            return drift_bar(entry.name, call.tool)
        if entry.overflow and call.origin:
            return _NO_ROOM
    whole = bar is None and not entry.overflow and entry.switch is None
    if whole and not settings.require_owner and not (settings.drift == "refuse" and entry.drifted):
        entry.clear = settings
    return None


_NO_ROOM = Bar(
    Code.OVERLOADED,
    "More agents are known than limits.maxAgents, so it cannot be told whether this one's tools have drifted, and the "
    "policy refuses drift.",
)

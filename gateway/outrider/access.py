"""What the access rules say of a call, and the refusal that this means. Asked once for each tool of a call, and again
before each attempt when the policy changed meanwhile: denies always use the newest policy."""

from __future__ import annotations

from outrider import clock
from outrider.calls import Outcome, OutcomeKind
from outrider.errors import Code
from outrider.flight import Flight
from outrider.observing import enforced
from outrider.policy.load import Policy
from outrider.policy.patterns import matches
from outrider.policy.rules import Decision, Facts


def decide(flight: Flight, policy: Policy, tool: str) -> Decision:
    """What ``policy`` says of this call to ``tool`` (which is another one in a fallback)."""
    call = flight.call
    scope = call.principal.tools
    if scope and not any(matches(pattern, tool) for pattern in scope):
        only = ", ".join(scope[:8])
        return Decision("deny", reason=f"This agent's credential is scoped to {only}, which {tool} is not.")
    who = call.principal
    facts = Facts(tool, call.args, call.agent, call.run, call.session, who.name, clock.wall(), who.on_behalf_of)
    return policy.rules.decide(facts)


def newly_denied(flight: Flight, newest: Policy, tool: str, stage: str) -> Outcome | None:
    """The refusal of a call that was allowed, and that a newer policy denies. Cheap while the policy is the same.
    Whether it is enforced is the newer policy's word too."""
    if newest is flight.policy:
        return None
    decision = decide(flight, newest, tool)
    return (
        enforced(flight, refusal_of(decision, tool, stage), by=newest, tool=tool) if decision.effect == "deny" else None
    )


def refusal_of(decision: Decision, tool: str, stage: str) -> Outcome | None:
    """The refusal a decision means, None where it allows."""
    if decision.effect == "allow":
        return None
    code, detail = _sentence(decision, tool)
    return Outcome(OutcomeKind.NOT_EXECUTED, code=code, detail=detail, stage=stage, rule=decision.rule)


def _sentence(decision: Decision, tool: str) -> tuple[Code, str]:
    if decision.effect == "no_rule":
        return Code.NO_RULE, f"No rule of the policy allows {tool} for this agent."
    if decision.error:
        return Code.DENIED, f"The rule '{decision.rule}' could not be evaluated, which denies: {decision.error}"
    if decision.effect == "require_approval":
        return (
            Code.APPROVAL_UNAVAILABLE,
            f"The rule '{decision.rule}' asks a person first, and this version cannot ask; the call is refused.",
        )
    if decision.rule is None:  # the credential's own limits
        return Code.DENIED, decision.reason
    reason = decision.reason or "no reason given"
    return Code.DENIED, f"The rule '{decision.rule}' denies {tool}: {reason}"

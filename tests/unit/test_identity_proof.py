"""What an adapter's frames may say, against what its connection showed; scopes; the guard of the data plane."""

from __future__ import annotations

from typing import Any, cast

import pytest

from outrider.access import decide, refusal_of
from outrider.calls import Agent, Call, Principal
from outrider.errors import Code
from outrider.frames import Malformed
from outrider.identity.credential import Credential, Denial, shared
from outrider.proof import caller, check_resumption, named
from outrider.sessions import Session
from outrider.wire import Hello, Open


def of(*names: str, tools: tuple[str, ...] = ()) -> Credential:
    agents = {name: Agent(name, owner="ann", asserted=False) for name in names}
    return Credential(agents, Principal("token:1", tools=tools), "The token 1")


def hello(agent: str, key: str = "k" * 16) -> Hello:
    return Hello(1, agent, "python", "host-1", key)


@pytest.mark.parametrize("said", ["", "anonymous", "a"])
def test_a_process_that_was_told_no_name_has_its_credentials(said: str) -> None:
    """An adapter says "anonymous" where nobody told it; the welcome tells it."""
    assert named(hello(said), of("a", "b")).agent == "a"


def test_a_hello_under_another_name_is_refused() -> None:
    """For good: trying again would not help."""
    with pytest.raises(Malformed, match="is of agent 'a', and this calls as 'c'") as refused:
        named(hello("c"), of("a"))
    assert refused.value.code is Code.FORBIDDEN
    assert named(hello("anyone"), shared()).agent == "anyone"


def test_a_session_is_taken_up_again_by_its_own_agent_only() -> None:
    """Whoever learnt another's session key gets none of its answers."""
    session = Session(hello("a"), of("a"))
    check_resumption(None, of("b"))
    check_resumption(session, of("a", "c"))
    check_resumption(session, shared())
    with pytest.raises(Malformed, match="another agent's"):
        check_resumption(session, of("b"))


def test_a_call_on_a_session_is_of_who_was_proven() -> None:
    """Its own name, one more that the credential has, and no other; nobody once the credential is worth nothing."""
    credential = of("a", "b")
    session = Session(hello("a"), credential)
    for said, name in (("", "a"), ("a", "a"), ("b", "b")):
        agent = caller(session, Open("1", "local.x", agent=said))
        assert (agent.name, agent.owner, agent.asserted, agent.framework) == (name, "ann", False, "python")
    with pytest.raises(Malformed, match="this calls as 'c'") as refused:
        caller(session, Open("7", "local.x", agent="c"))
    assert (refused.value.code, refused.value.ref) == (Code.FORBIDDEN, "7")
    credential.denial = Denial("It was revoked.")
    with pytest.raises(Malformed, match=r"It was revoked\.") as refused:
        caller(session, Open("8", "local.x"))
    assert refused.value.code is Code.UNAUTHENTICATED


def test_the_principal_of_a_session_is_its_credentials() -> None:
    """With the shared token it is the channel; a later hello may show something else."""
    session = Session(hello("a"), shared())
    assert session.principal.name == "channel:host-1" and session.agent.asserted
    session.introduce(hello("a"), of("a"))
    assert session.principal.name == "token:1" and not session.agent.asserted


@pytest.mark.parametrize(("tool", "passes"), [("pay.get", True), ("pay.getter", False), ("up.x", True), ("p", False)])
def test_a_scope_refuses_what_is_outside_before_any_rule_is_asked(tool: str, passes: bool) -> None:
    """Inside it the rules have the word; here they allow."""

    class Allowing:
        def decide(self, facts: Any) -> Any:
            from outrider.policy.rules import Decision

            return Decision("allow", "all")

    call = Call("c", tool, {}, Agent("a"), of("a", tools=("pay.get", "up.*")).principal)
    flight, policy = cast(Any, type("F", (), {"call": call})), cast(Any, type("P", (), {"rules": Allowing()}))
    refusal = refusal_of(decide(flight, policy, tool), tool, "access")
    assert (refusal is None) is passes
    if refusal is not None:
        assert refusal.code is Code.DENIED
        assert refusal.detail == f"This agent's credential is scoped to pay.get, up.*, which {tool} is not."

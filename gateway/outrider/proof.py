"""Whether an adapter may be who it says: what its frames name, against what its connection showed. Pure."""

from __future__ import annotations

import msgspec

from outrider.calls import Agent
from outrider.errors import Code
from outrider.frames import Malformed
from outrider.identity.credential import UNNAMED, Credential
from outrider.sessions import Session
from outrider.wire import Hello, Open


def named(hello: Hello, credential: Credential) -> Hello:
    """The hello with the agent's name in it, where the process was not told one. Raises Malformed."""
    if credential.is_proven and hello.agent in UNNAMED:
        return msgspec.structs.replace(hello, agent=credential.agent.name)
    if credential.agent_named(hello.agent) is None:
        raise Malformed(credential.foreign(hello.agent), code=Code.FORBIDDEN)
    return hello


def check_resumption(session: Session | None, credential: Credential) -> None:
    """A session is taken up again by its own agent only: whoever learnt its key must not get its answers."""
    if session is None or credential.agent_named(session.agent.name) is not None:
        return
    raise Malformed("This session_key is another agent's. Make one of your own.", code=Code.FORBIDDEN)


def caller(session: Session, frame: Open) -> Agent:
    """Who calls. Raises Malformed: the session's credential is worth nothing any more, or the name is another's."""
    denial = session.credential.refusal()
    if denial is not None:
        raise Malformed(denial.detail, ref=frame.ref, code=denial.code)
    agent = session.agent_named(frame.agent)
    if agent is None:
        raise Malformed(session.credential.foreign(frame.agent), ref=frame.ref, code=Code.FORBIDDEN)
    return agent

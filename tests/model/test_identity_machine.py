"""Tokens, revocations, kills, a disk that comes and goes, and restarts: a token is good exactly when nobody revoked it
and nobody killed an agent that it names since it was issued."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from outrider.errors import Refused
from outrider.identity import keeper as keeper_module
from outrider.policy.patterns import matches
from tests.support.identity_kit import Ledger, a_kill, issued, keeper_on, kill, why_not

NAMES = ("a", "ab", "b")
PATTERNS = ("a", "ab", "a*", "b*", "*", "c")


@dataclass
class Known:
    """What the model knows of a token."""

    id: str
    text: str
    names: tuple[str, ...]
    ended: bool = False
    ended_on_disk: bool = False


@dataclass
class World:
    tokens: list[Known] = field(default_factory=list)
    kills: int = 0


class IdentityMachine(RuleBasedStateMachine):
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ledger = Ledger()
        self.keeper = self.do(self._start())
        self.world = World()

    async def _start(self) -> Any:
        return keeper_on(self.ledger)

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.loop.close()

    @precondition(lambda self: self.ledger.mode == "ok")
    @rule(target=tokens, names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
    def issue(self, names: list[str]) -> Known:
        token_id, text = self.do(issued(self.keeper, *names))
        known = Known(token_id, text, tuple(names))
        self.world.tokens.append(known)
        return known

    @precondition(lambda self: self.ledger.mode == "fail")
    @rule()
    def issue_without_a_disk(self) -> None:
        with pytest.raises(Refused):
            self.do(issued(self.keeper, "a"))

    @rule(token=tokens)
    def revoke(self, token: Known) -> None:
        held = self.do(self.keeper.revoke(token.id, "a test", "ann"))
        token.ended = True
        token.ended_on_disk = token.ended_on_disk or held.durable

    @rule(pattern=st.sampled_from(PATTERNS))
    def kill(self, pattern: str) -> None:
        self.world.kills += 1
        written = self.do(kill(self.keeper, self.ledger, a_kill(self.world.kills, f"agent:{pattern}")))
        for token in self.world.tokens:
            if any(matches(pattern, name) for name in token.names):
                token.ended = True
                token.ended_on_disk = token.ended_on_disk or written

    @rule(mode=st.sampled_from(["ok", "fail"]))
    def disk(self, mode: str) -> None:
        self.ledger.mode = mode

    @rule()
    def crash(self) -> None:
        """What was acknowledged as being on disk is there; nothing else is claimed."""
        self.keeper = self.do(self._start())
        for token in self.world.tokens:
            token.ended = token.ended_on_disk

    @invariant()
    def a_token_is_good_exactly_while_nobody_ended_it(self) -> None:
        found = {token.text: bool(why_not(self.keeper, token.text)) for token in self.world.tokens}
        assert found == {token.text: token.ended for token in self.world.tokens}


IdentityMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class TestIdentity(IdentityMachine.TestCase):  # type: ignore[misc,name-defined]
    """See the machine."""

    @pytest.fixture(autouse=True)
    def hurried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeper_module, "DURABLE_WAIT_S", 0.05)

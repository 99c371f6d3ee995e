"""What the tests of credentials share: a keeper over a ledger that can fail, with the real tables."""

from __future__ import annotations

from typing import Any, cast

from outrider.identity.credential import Credential, Denial
from outrider.identity.keeper import Keeper, Wanted
from outrider.kills import Kill, Scope
from tests.support.kill_kit import ScriptedLedger


class Ledger(ScriptedLedger):
    """One that says how it is, too."""

    @property
    def healthy(self) -> bool:
        return self.mode == "ok"


def keeper_on(ledger: Ledger) -> Keeper:
    """As a start finds it."""
    return Keeper.load(cast(Any, ledger), cast(Any, ledger))


async def issued(keeper: Keeper, *names: str, **more: Any) -> tuple[str, str]:
    """The id and the text of a new token."""
    held, text = await keeper.issue(Wanted(names[0], names[1:], **more), "ann")
    return held.token.id, text


def why_not(keeper: Keeper, text: str) -> str:
    """Why it is refused; empty where it is good."""
    found = keeper.find(text)
    if isinstance(found, Denial):
        return found.detail
    assert isinstance(found, Credential)
    return ""


def a_kill(number: int, scope: str, at: float = 1_800_000_000.0) -> Kill:
    return Kill(id=f"k{number}", target=Scope.parse(scope), reason="wild", by="ann", at=at, mono=0.0)


async def kill(keeper: Keeper, ledger: Ledger, made: Kill) -> bool:
    """As the board does it: its statements in one transaction, then in force whatever the disk says. Whether it was
    written."""
    from outrider.ledger.record import Event, EventType

    writing = ledger.append(Event(type=EventType.KILL_ENGAGED), durable=True, mutations=keeper.along(made))
    try:
        await writing
    except OSError:
        keeper.in_force(made)
        return False
    keeper.in_force(made)
    return True

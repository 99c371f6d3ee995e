"""Tokens and epochs without a sidecar: troubles of the disk, bounds, clocks, damaged rows."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from outrider import clock
from outrider.errors import Refused
from outrider.identity import epochs as epochs_module
from outrider.identity import keeper as keeper_module
from outrider.identity.epochs import Epochs
from outrider.identity.keeper import Wanted
from outrider.identity.tokens import id_in, mint
from outrider.kills import KillBoard
from tests.support.identity_kit import Ledger, a_kill, issued, keeper_on, kill, why_not
from tests.support.kill_kit import Wall


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


# ── the disk ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_cannot_be_written_is_not_issued(ledger: Ledger) -> None:
    """A token that a restart forgets would be a call refused for no reason."""
    keeper = keeper_on(ledger)
    ledger.mode = "fail"
    with pytest.raises(Refused, match="no token can be issued"):
        await keeper.issue(Wanted("a"), "ann")
    assert keeper.all() == []


@pytest.mark.parametrize("mode", ["fail", "raise", "hang"])
async def test_a_revocation_takes_effect_when_the_disk_does_not_answer(
    ledger: Ledger, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, is told to whoever must expel, and is written as soon as that is possible."""
    monkeypatch.setattr(keeper_module, "DURABLE_WAIT_S", 0.05)
    monkeypatch.setattr(keeper_module, "TEND_EVERY_S", 0.01)
    monkeypatch.setattr(keeper_module, "RETRY_S", 0.01)
    keeper = keeper_on(ledger)
    told: list[str] = []
    token_id, text = await issued(keeper, "a")
    keeper.on_revoked = lambda: told.append(why_not(keeper, text))
    ledger.mode = mode
    held = await keeper.revoke(token_id, "it leaked", "ann")
    assert not held.durable and len(told) == 1 and "was revoked: it leaked." in told[0]
    tending = asyncio.create_task(keeper.tend(lambda: None))
    await asyncio.sleep(0.05)
    assert why_not(keeper, text) and not held.durable
    ledger.mend()
    async with asyncio.timeout(10):
        while not held.durable:
            await asyncio.sleep(0.01)
    tending.cancel()
    assert why_not(keeper_on(ledger), text).startswith(f"The token {token_id} was revoked: it leaked.")


async def test_a_token_that_was_being_written_when_its_agent_was_killed_is_refused(ledger: Ledger) -> None:
    """A person issued it while another killed: the ledger says which came first, and memory says the same."""
    keeper = keeper_on(ledger)
    issuing = asyncio.create_task(keeper.issue(Wanted("a"), "ann"))
    await asyncio.sleep(0)
    assert await kill(keeper, ledger, a_kill(1, "agent:a"))
    _, text = await issuing
    assert "was revoked by the kill k1" in why_not(keeper, text)
    assert "was revoked by the kill k1" in why_not(keeper_on(ledger), text)


# ── clocks ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_expiry_needs_one_clock_only(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A permission is over when either says so, in this process and after a restart within the same boot."""
    wall = Wall()
    monkeypatch.setattr(clock, "wall", wall)
    monkeypatch.setattr(clock, "boot_id", lambda: "boot-1")
    keeper = keeper_on(ledger)
    _, text = await issued(keeper, "a", lasts_s=60.0)
    later = keeper_on(ledger)
    wall.now -= 10_000
    assert not why_not(keeper, text)
    began = time.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: began + 61)
    assert "has expired" in why_not(keeper, text) and "has expired" in why_not(later, text)
    assert "has expired" in why_not(keeper_on(ledger), text)
    monkeypatch.setattr(clock, "boot_id", lambda: "boot-2")  # its clock says nothing here: the wall clock's word counts
    assert not why_not(keeper_on(ledger), text)
    wall.now += 10_061
    assert "has expired" in why_not(keeper_on(ledger), text)


# ── bounds and damage ────────────────────────────────────────────────────────────────────────────────────────────


async def test_tokens_are_bounded_and_old_ones_make_room(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many valid ones; of those that are over the newest are kept for people to look at."""
    monkeypatch.setattr(keeper_module, "MAX_TOKENS", 3)
    monkeypatch.setattr(keeper_module, "KEPT_ENDED", 2)
    keeper = keeper_on(ledger)
    first = [await issued(keeper, f"a{number}") for number in range(3)]
    with pytest.raises(Refused, match="3 tokens are valid, which is the limit"):
        await keeper.issue(Wanted("b"), "ann")
    for token_id, _ in first:
        await keeper.revoke(token_id, "x", "ann")
    await issued(keeper, "c")
    assert [token["agent"] for token in keeper.all(ended=True)] == ["a1", "a2", "c"]
    assert keeper_on(ledger).all(ended=True) == keeper.all(ended=True)
    assert "never issued here, or is long gone" in why_not(keeper, first[0][1])


def test_what_an_id_is() -> None:
    """A text that merely looks like a token names none."""
    token_id, text = mint()
    assert id_in(text) == token_id and len(text) > 50
    for wrong in ("ort_", text[:16], text[:16] + "x", "ort_" + "g" * 12 + "_x", "ort_" + "٣" * 12 + "_x"):
        assert id_in(wrong) == ""


async def test_a_damaged_row_is_no_token_and_everybodys_epoch(ledger: Ledger) -> None:
    """Not knowing what was revoked revokes what there is, once; what is issued afterwards is good."""
    keeper = keeper_on(ledger)
    bad, good = await issued(keeper, "a"), await issued(keeper, "b")
    ledger.connection.execute("UPDATE tokens SET labels = '[]' WHERE id = ?", (bad[0],))
    restarted = keeper_on(ledger)
    assert "never issued here" in why_not(restarted, bad[1]) and not why_not(restarted, good[1])
    ledger.connection.execute("INSERT INTO epochs VALUES ('x', 'many', 1.0, 'c', 'r')")
    restarted = keeper_on(ledger)
    assert "was revoked by a doubt of *: a stored epoch cannot be read" in why_not(restarted, good[1])
    assert not why_not(restarted, (await issued(restarted, "b"))[1])


def test_epochs_are_bounded_and_the_oldest_is_widened(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    """Whoever was revoked stays revoked; what is older than that must be issued anew, never let in. The rows say the
    same as memory."""
    monkeypatch.setattr(epochs_module, "MAX_EPOCHS", 3)
    epochs = Epochs()
    for number in range(1, 7):
        for sql, parameters in epochs.raising(f"kill {number}", f"a{number}", float(number), "r"):
            ledger.connection.execute(sql, parameters)
        epochs.raised(f"kill {number}")
    again = Epochs()
    again.restore(ledger.read(epochs_module.SELECT))
    for one in (epochs, again):
        assert len(one.all()) <= 4 and one.number == 6
        for number in range(1, 7):
            newest = one.newest([f"a{number}"])
            assert newest is not None and newest.number >= number
    assert sorted(epoch.pattern for epoch in epochs.all()) == sorted(epoch.pattern for epoch in again.all())


# ── kills ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_of_several_agents_is_revoked_with_one_of_them(ledger: Ledger) -> None:
    """One process holds it, and that process was killed."""
    keeper = keeper_on(ledger)
    _, both = await issued(keeper, "boss", "clerk")
    _, other = await issued(keeper, "boss")
    await kill(keeper, ledger, a_kill(1, "agent:cl*"))
    assert "was revoked by the kill k1 of cl*: wild." in why_not(keeper, both) and not why_not(keeper, other)


async def test_a_kill_that_is_prolonged_is_no_new_epoch(ledger: Ledger) -> None:
    """Written again it is the same act; what was issued since stays good."""
    keeper = keeper_on(ledger)
    made = a_kill(1, "agent:a")
    await kill(keeper, ledger, made)
    _, text = await issued(keeper, "a")
    await kill(keeper, ledger, made)
    assert not why_not(keeper, text) and not why_not(keeper_on(ledger), text)


async def test_a_kill_that_was_lifted_elsewhere_before_it_was_heard_of_revokes_too(ledger: Ledger) -> None:
    """A sidecar that was away when its peers stopped an agent trusts that agent no more than they do."""
    keeper = keeper_on(ledger)
    board: Any = KillBoard(ledger, along=keeper, shared=True)  # type: ignore[arg-type]
    _, text = await issued(keeper, "a")
    lifted = a_kill(7, "agent:a")
    from dataclasses import replace

    from outrider.kills import Lift

    await board.remember((replace(lifted, lifted=Lift(lifted.at + 1, "bob", "mended")),))
    assert "was revoked by the kill k7 of a: wild." in why_not(keeper, text)
    assert why_not(keeper_on(ledger), text) and board.all() == ()


async def test_a_retired_agents_credentials_are_revoked(ledger: Ledger) -> None:
    """In the ledger with who and why; others are untouched."""
    keeper = keeper_on(ledger)
    _, text = await issued(keeper, "a")
    _, other = await issued(keeper, "b")
    await keeper.revoke_agent("a", "replaced", "ann")
    assert "was revoked by retirement" in why_not(keeper, text) and not why_not(keeper, other)
    assert why_not(keeper_on(ledger), text)
    assert [(event.type.value, event.reason) for event in ledger.events][-1] == ("credentials.revoked", "replaced")

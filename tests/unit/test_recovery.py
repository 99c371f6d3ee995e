"""After a crash: one end for each attempt and each call, whoever tells it, and no word from those who have none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider.calls import Agent, Call, Outcome, OutcomeKind
from outrider.errors import Code
from outrider.ledger.recovery import OpenAttempt, OpenCall
from outrider.ledger.writer import LedgerUnavailable
from outrider.recovery import History, Recovery
from outrider.settings import Address, Settings
from outrider.sidecar import Sidecar
from outrider.testing.script import reset, respond
from outrider.testing.upstream import ScriptedUpstream
from outrider.unresolved import Unresolved
from outrider.wire import Finished, FromGateway

OK = Outcome(OutcomeKind.OK, value="real")
CALL = Call("new", "local.pay", {"amount": 1}, Agent("a"), run="r")


class SlowLedger:
    """Takes a tenth of a second for each record; refuses the next ``failures``."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.failures = 0

    def append(self, event: Any, **_: Any) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        if self.failures:
            self.failures -= 1
            loop.call_later(0.1, future.set_exception, LedgerUnavailable("disk full"))
        else:
            self.types.append(str(event.type))
            loop.call_later(0.1, future.set_result, len(self.types))
        return future

    def ends(self) -> list[str]:
        return [kind for kind in self.types if kind.endswith("finished")]


class World:
    """One in-process call that a former incarnation left under way, and what is written of it now."""

    def __init__(self) -> None:
        self.ledger = SlowLedger()
        self.unresolved = Unresolved(lambda text: text.hex())
        self.late: list[tuple[str, int, Outcome]] = []
        self.recovery = Recovery(self.ledger, self.unresolved, lambda: 600.0)  # type: ignore[arg-type]
        self.recovery.settled_late = self.settled_late

    async def settled_late(self, call_id: str, n: int, outcome: Outcome) -> None:
        self.late.append((call_id, n, outcome))

    async def begin(self, history: History) -> None:
        started = {"upstream": "local", "tool": "local.pay", "agent": {"name": "a", "instance": "i"}, "run_id": "r"}
        open_attempts, open_calls = [OpenAttempt("c", 1, 2, started)], [OpenCall("c", 1, started)]
        assert await self.recovery.begin(open_attempts, open_calls, lambda _: history) == {("c", 1): "i"}


@pytest.mark.looptime
async def test_giving_up_and_the_truth_may_cross_and_leave_one_end() -> None:
    """The truth comes while "nobody claimed it" is being written: that one is the end, the truth settles it."""
    world = World()
    await world.begin(History(unsettled=frozenset({1})))
    world.recovery.gave_up("c", 1)
    await asyncio.sleep(0.05)
    await world.recovery.settled("c", 1, OK)
    await asyncio.sleep(1)
    assert world.ledger.ends() == ["attempt.finished", "call.finished"]
    assert world.late == [("c", 1, OK)]


@pytest.mark.looptime
async def test_an_end_that_was_written_by_half_is_completed_when_it_is_told_again() -> None:
    """The attempt's end is in the ledger and the call's was refused: told again, the call gets it, the attempt none."""
    world = World()
    await world.begin(History())
    asyncio.get_running_loop().call_later(0.05, setattr, world.ledger, "failures", 1)
    with pytest.raises(LedgerUnavailable):
        await world.recovery.settled("c", 1, OK)
    await world.recovery.settled("c", 1, OK)
    assert world.ledger.ends() == ["attempt.finished", "call.finished"] and world.late == []


@pytest.mark.looptime
async def test_while_an_effect_may_still_run_its_like_is_barred() -> None:
    """An agent that was restarted with the sidecar asks again at once: the function of before may be running."""
    world = World()
    await world.begin(History(like=world.unresolved.key_of(CALL)))
    assert world.unresolved.find(CALL) is not None
    telling = asyncio.ensure_future(world.recovery.settled("c", 1, OK))
    await asyncio.sleep(0)
    assert world.unresolved.find(CALL) is None  # its own process has the result
    await telling
    assert world.unresolved.find(CALL) is None


@pytest.mark.looptime
@pytest.mark.parametrize(("kind", "barred"), [(OutcomeKind.NOT_EXECUTED, False), (OutcomeKind.UNKNOWN, True)])
async def test_the_bar_stays_only_for_what_may_have_run(kind: OutcomeKind, barred: bool) -> None:
    """A proof that it never began lifts it; nobody's knowing does not."""
    world = World()
    await world.begin(History(like=world.unresolved.key_of(CALL)))
    await world.recovery.settled("c", 1, Outcome(kind))
    assert (world.unresolved.find(CALL) is not None) is barred


class Process:
    """An agent's process, as the driver of in-process tools sees it."""

    id = "s-1"
    instance = "i"

    def push(self, frame: FromGateway) -> bool:
        return True

    def ref_of(self, call_id: str) -> str | None:
        return None


async def test_a_process_has_no_word_on_what_went_over_the_network(tmp_path: Path) -> None:
    """Told of an HTTP call that "it never began", the sidecar keeps the bar on its like: it may have run."""
    (tmp_path / "policy").mkdir()
    async with ScriptedUpstream() as upstream:
        upstream.script("*", reset(), respond(json={}))
        policy = {
            "apiVersion": "outrider.dev/v1alpha1", "kind": "Policy", "metadata": {"name": "p"},
            "upstreams": {"up": {"http": {"url": upstream.url}}},
            "rules": [{"name": "all", "tools": ["*"], "then": "allow"}],
        }  # fmt: skip
        (tmp_path / "policy" / "policy.yaml").write_text(yaml.safe_dump(policy))
        free = Address("127.0.0.1", 0)
        sidecar = await Sidecar.start(Settings(tmp_path / "policy", tmp_path / "data", listen=free, control=free))
        try:
            first = await submitted(sidecar, "c1")
            sidecar._local.connected(Process())
            sidecar._local.finished(Process(), Finished("c1", 1, state="not_started"))
            await asyncio.gather(*sidecar._local._settling.values())
            again = await submitted(sidecar, "c2")
        finally:
            await sidecar.stop()
        assert first.kind is OutcomeKind.UNKNOWN and again.code is Code.PRIOR_OUTCOME_UNKNOWN
        assert upstream.count() == 1


async def submitted(sidecar: Sidecar, call_id: str) -> Outcome:
    flight = sidecar.services.supervisor.submit(Call(call_id, "up.pay", {"amount": 1}, Agent("a"), run="r"))
    assert flight.answer is not None
    return await flight.answer

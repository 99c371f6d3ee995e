"""What is played with the clerks under Outrider: the three duties, and one kill for all of them."""

from __future__ import annotations

import asyncio

from outrider.demo.clerks import duties
from outrider.demo.clerks.chorus import Chorus
from outrider.demo.clerks.compare import SCOPE, Comparison
from outrider.demo.clerks.duties import Duty
from outrider.demo.clerks.office import Prepared
from outrider.demo.measure import Ending, How
from outrider.demo.view import View
from outrider.demo.watch import Control, Watch

REASON = "reminders without end"
KILL_AFTER = 2
"""How many reminders each clerk has begun when a person stops them."""
KILL_WITHIN_S = 15.0
AFTERMATH_S = 0.8
"""How long it is watched that nothing begins any more."""


async def play(view: View, preparing: asyncio.Task[Prepared], watch: Watch, control: Control) -> Comparison:
    """The act, and what was seen in it."""
    view.act(
        "Other frameworks, the same policy",
        "One clerk of each, with the same in-process functions, governed by one line: `install()`.",
    )
    view.foot("waiting for the clerks; importing their frameworks takes a moment")
    prepared = await preparing
    watch.teller = Chorus()
    for duty in duties.COMPARED:
        view.question(duty.prompt, duty.fault)
        await prepared.office.do(duty)
        await watch.catch_up()
        _answers(view, prepared, duty)
    return await _kill(view, prepared, watch, control)


def _answers(view: View, prepared: Prepared, duty: Duty) -> None:
    """The clerks' last words, once where all say the same."""
    endings = [prepared.office.endings[clerk, duty.id] for clerk in prepared.office.clerks]
    good = all(ending.how is How.ANSWERED for ending in endings)
    if good and len({ending.text for ending in endings}) == 1:
        view.all_answered(f"all {len(endings)}: {endings[0].text}")
        return
    told = sum(ending.how is How.GAVE_UP for ending in endings)
    view.all_answered(f"{told} of {len(endings)} were told what happened, and say so", good=False)


async def _kill(view: View, prepared: Prepared, watch: Watch, control: Control) -> Comparison:
    office = prepared.office
    view.question(duties.REMINDERS.prompt, duties.REMINDERS.fault)
    reminding = asyncio.create_task(office.do(duties.REMINDERS))
    try:
        await watch.until(
            lambda: all(_begun(watch, clerk) >= KILL_AFTER for clerk in office.clerks),
            "reminders of every clerk",
            KILL_WITHIN_S,
        )
        view.command(f"outrider kill '{SCOPE}' --reason '{REASON}'")
        receipt = await control.post("/v1/kills", {"scope": SCOPE, "reason": REASON})
        await reminding
    finally:
        reminding.cancel()
    stopped = office.measure()
    await watch.catch_up()
    view.receipt(receipt)
    await asyncio.sleep(AFTERMATH_S)
    await watch.catch_up()
    comparison = Comparison(tuple(office.clerks), prepared.without, office.measure(), receipt, stopped)
    begun = comparison.reminders(comparison.governed)
    ended = sum(_ending(comparison, clerk).how is How.STOPPED for clerk in office.clerks)
    view.verdict(
        comparison.nothing_since,
        f"{ended} of {len(office.clerks)} runs were ended by one kill; {begun} reminders were begun, none since",
    )
    return comparison


def _begun(watch: Watch, clerk: str) -> int:
    starts = watch.of("attempt.started", tool=f"local.{duties.REMINDERS.tool}")
    return sum(record["agent"]["name"] == clerk for record in starts)


def _ending(comparison: Comparison, clerk: str) -> Ending:
    return comparison.governed.endings[clerk, duties.REMINDERS.id]

"""The acts with Outrider, each a few seconds long."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from outrider.demo import tasks
from outrider.demo.clerks import act
from outrider.demo.clerks.office import Prepared
from outrider.demo.measure import How, Pass, times
from outrider.demo.processes import Sidecar
from outrider.demo.stage import Stage
from outrider.demo.summary import Kill, Story
from outrider.demo.tasks import Task
from outrider.demo.watch import Control, Watch
from outrider.ledger.verify import Report, verify
from outrider.store import FILE

KILL_AFTER = 5
"""How many refunds are let through before a person stops it."""
AFTERMATH_S = 0.8
"""How long it is watched that nothing begins any more: the time of three refunds."""


async def play(
    stage: Stage,
    sidecar: Sidecar,
    control: Control,
    without: Pass,
    clerks: asyncio.Task[Prepared] | None,
    folder: Path,
) -> Story:
    """All acts with Outrider, and what was seen in them. ``clerks``: of the other frameworks, as soon as they are
    ready."""
    async with Watch(control, stage.view) as watch:
        await _faults(stage, watch)
        await _side_effects(stage, watch, control)
        await _dead_service(stage, watch)
        await _rule(stage, watch)
        kill = await _kill_switch(stage, watch, control)
        compared = await act.play(stage.view, clerks, watch, control) if clerks is not None else None
        await watch.catch_up()
    governed = await stage.measure()
    stage.view.act(
        "The ledger",
        "The sidecar ends. Its ledger is verified from the files alone; then a copy with one word changed.",
    )
    exit_code = await sidecar.end()
    report, tampered = await asyncio.to_thread(_verify_twice, sidecar.data, folder / "tampered")
    _show_ledger(stage, report, tampered)
    return Story(without, governed, watch.records, watch.breakers, kill, report, tampered, exit_code, compared)


async def _talk(stage: Stage, watch: Watch, task: Task) -> None:
    """A person asks, things happen, the agent answers."""
    stage.view.asked(task)
    ending = await stage.do(task)
    await watch.catch_up()
    stage.view.answered(task.agent, ending.text, good=ending.how is How.ANSWERED)


async def _faults(stage: Stage, watch: Watch) -> None:
    stage.view.act(
        "With Outrider: services that drop, throttle and hang",
        "The same program, started with `outrider run --agent desk -- …`, and one policy file.",
    )
    for task in (tasks.ORDER, tasks.SALE, tasks.REPORT, tasks.RATE):
        await _talk(stage, watch, task)


async def _side_effects(stage: Stage, watch: Watch, control: Control) -> None:
    stage.view.act(
        "Side effects",
        "Both services act, then drop the connection. Payments know idempotency keys, mail does not.",
    )
    await _talk(stage, watch, tasks.CHARGE)
    await _talk(stage, watch, tasks.MAIL)
    unsure = watch.of("call.finished", tool="mail.send", code="outcome_unknown")[0]
    sent = (await stage.measure()).executed("mail 17")
    body = {"as": "executed" if sent else "not_executed", "reason": f"the mail server's log: sent {times(sent)}"}
    await control.post(f"/v1/calls/{unsure['call_id']}/settle", body)
    await watch.catch_up()


async def _dead_service(stage: Stage, watch: Watch) -> None:
    stage.view.act("A dead service", f"It is asked {len(tasks.STOCK)} times, while it is dead and afterwards.")
    stage.view.asked(tasks.STOCK[0])
    await stage.do_stock()
    await watch.catch_up()
    answered = sum(stage.endings[task.id].how is How.ANSWERED for task in tasks.STOCK)
    stage.view.answered(tasks.DESK, f"{answered} of {len(tasks.STOCK)} questions answered")


async def _rule(stage: Stage, watch: Watch) -> None:
    stage.view.act("A rule", "A letter talks the model into calling an in-process function that it must not call.")
    await _talk(stage, watch, tasks.LETTER)


async def _kill_switch(stage: Stage, watch: Watch, control: Control) -> Kill:
    view, night = stage.view, stage.night
    view.act("A kill switch", "night-shift has gone wild and makes one refund after the other, in its own process.")
    view.asked(tasks.WILD)
    wild = asyncio.create_task(stage.do(tasks.WILD))
    await night.until(lambda: night.ran.count("refund") >= KILL_AFTER, f"the refund number {KILL_AFTER}")
    view.command("outrider kill agent:night-shift --reason 'refunds without end'")
    kill = Kill(await control.post("/v1/kills", {"scope": "agent:night-shift", "reason": "refunds without end"}))
    ending = await wild
    kill.refunds_when_stopped = night.ran.count("refund")
    await watch.catch_up()
    view.answered(tasks.NIGHT_SHIFT, ending.text, good=False)
    view.receipt(kill.receipt)
    await _talk(stage, watch, tasks.ORDER_LATER)
    await _talk(stage, watch, tasks.AGAIN)
    await asyncio.sleep(AFTERMATH_S)
    kill.refunds_later = night.ran.count("refund")
    view.verdict(
        kill.refunds_later <= kill.refunds_when_stopped,
        f"{kill.refunds_later} refunds of {tasks.REFUNDS} were begun, none since the kill",
    )
    return kill


# ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────────────


def _verify_twice(data: Path, copy: Path) -> tuple[Report, Report]:
    """The ledger as it is, and a copy with one word changed."""
    report = verify(data)
    shutil.copytree(data, copy)
    with closing(sqlite3.connect(copy / FILE)) as database, database:
        database.execute(
            "UPDATE ledger SET line = replace(line, 'payments.charge', 'payments.refund') WHERE seq = "
            "(SELECT min(seq) FROM ledger WHERE type = 'attempt.started' AND tool = 'payments.charge')"
        )
    return report, verify(copy)


def _show_ledger(stage: Stage, report: Report, tampered: Report) -> None:
    view = stage.view
    view.command("outrider ledger verify --data DATA")
    view.verdict(report.ok, f"{report.records} records, whole; head {report.head[:16]}…")
    view.command("outrider ledger verify --data COPY-WITH-ONE-WORD-CHANGED")
    bad = tampered.first_bad
    view.verdict(not tampered.ok, f"found: record {bad[0]}, {bad[1]}" if bad else "the change was not found")

"""The whole demonstration: the processes, the pass without Outrider, then the acts with it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from outrider import clock
from outrider.demo import acts, tasks
from outrider.demo.clerks.choice import Choice
from outrider.demo.clerks.office import prepared
from outrider.demo.measure import How, Pass, times
from outrider.demo.processes import Server, Sidecar
from outrider.demo.stage import Stage
from outrider.demo.summary import Story, check
from outrider.demo.view import View
from outrider.demo.watch import Control

POLICY = Path(__file__).parent / "policy"
STUCK_S = 4.0
"""Without a timeout a call to a service that hangs waits for ever; this is how long the demonstration watches it."""


async def tell(view: View, folder: Path, choice: Choice) -> Story:
    """Everything. Raises Unexpected when it cannot go on. Whatever happens, all processes have ended afterwards.

    The agents of the second pass start while the first one runs, because importing LangGraph takes seconds; so does
    what goes before the act of the other frameworks."""
    began = clock.monotonic()
    async with AsyncExitStack() as stack:
        view.foot("starting two tool servers")
        servers = [await stack.enter_async_context(Server(f"tool server {n}", folder)) for n in (1, 2)]
        await asyncio.gather(*(server.ready() for server in servers))
        view.foot("starting a sidecar and two agents; importing LangGraph takes a moment")
        sidecar = await stack.enter_async_context(Sidecar(folder, POLICY, servers[1].url))
        plain = await Stage.build(stack, view, folder, servers[0])
        await asyncio.gather(sidecar.ready(), plain.ready())
        governed = await Stage.build(stack, view, folder, servers[1], sidecar)
        clerks = None
        if choice.together:
            clerks = await stack.enter_async_context(prepared(folder, choice.playing, sidecar))
        without = await _without(plain)
        await plain.end()
        view.foot("waiting for the same two agents under Outrider")
        await governed.ready()
        control = await stack.enter_async_context(Control(sidecar.control_url, sidecar.data))
        story = await acts.play(governed, sidecar, control, without, clerks, folder)
    story.took_s = clock.monotonic() - began
    story.claims = check(story)
    return story


async def _without(stage: Stage) -> Pass:
    """All tasks beside each other, because nobody need follow them."""
    view = stage.view
    view.act(
        "Without Outrider",
        "Plain LangGraph, first, for comparison: the same agents, tasks and faults as in the acts below.",
    )
    view.foot("two agents at work without Outrider")
    await asyncio.gather(
        *(stage.do(task) for task in (tasks.ORDER, tasks.SALE, tasks.RATE, tasks.CHARGE, tasks.MAIL, tasks.LETTER)),
        stage.do(tasks.REPORT, STUCK_S),
        stage.do_stock(),
        stage.do(tasks.WILD),
    )
    measured = await stage.measure()
    _show(view, measured)
    return measured


def _show(view: View, measured: Pass) -> None:
    """The endings, and where an ending looks fine, what it did to the world."""
    crashed = sum(measured.endings[task.id].how is How.CRASHED for task in tasks.STOCK)
    told = (
        *((task, measured.endings[task.id].text) for task in (tasks.ORDER, tasks.SALE, tasks.REPORT, tasks.RATE)),
        (tasks.CHARGE, f"and the card was charged {times(measured.executed('charge 17'))}"),
        (tasks.MAIL, f"and the mail was sent {times(measured.executed('mail 17'))}"),
        (tasks.LETTER, f"and customers deleted: {measured.in_process('delete_customer')}"),
        (tasks.STOCK[0], f"{crashed} of {len(tasks.STOCK)} such questions crashed"),
        (tasks.WILD, f"after {measured.in_process('refund')} refunds; nothing could stop it but ending its process"),
    )
    for task, text in told:
        view.ending(task, measured.endings[task.id], text)

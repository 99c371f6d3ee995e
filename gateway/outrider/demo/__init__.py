"""The demonstration: ``outrider demo``. The one part of the gateway that starts agents of a framework.

tasks     what the agents are asked, and what their scripted model answers
upstream  the flaky tool server, a process         agent, model, tools   a LangGraph agent, a process
processes starts, hears and ends them              stage                 two agents and their server
story     the whole, and the pass without Outrider acts                  the pass with it
watch     follows the ledger and the breakers      narrator, view        what a person sees
measure   what came of the tasks                   summary               every claim checked; the comparison
telling   how an agent's process tells             clerks                the same functions in all frameworks, compared
"""

from __future__ import annotations

import asyncio
import importlib.util
import json as json_
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outrider.demo.clerks.choice import Choice
    from outrider.demo.summary import Story
    from outrider.demo.view import View

NEEDS = ("langgraph", "langchain")
INTERRUPTED = 130
TITLE = "Outrider, the demonstration"
ABOUT = (
    "The back office of a shop: {agents} with a scripted model, a flaky tool server, a sidecar. "
    "Each is a real process, all on this machine; no network, no key."
)


def main(json: bool = False, frameworks: str = "") -> int:
    """Run the demonstration. 0: everything happened as told; 1: something did not, or it cannot run; 130: interrupted.

    ``json``: the story goes to standard error, and the summary as one line of JSON to standard output. ``frameworks``:
    which ones take part beside LangGraph, with commas; empty: those that are installed. Raises CliError for one that
    cannot."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"The demonstration needs LangGraph, and this environment has no {' and no '.join(missing)}.\n"
            "Install it beside Outrider: pip install 'outrider[demo]', or from a clone: pip install -e '.[demo]'\n"
        )
        return 1
    from outrider.demo.clerks.choice import choose
    from outrider.demo.view import View

    choice = choose(frameworks)
    with View(to_stderr=json) as view:
        return _perform(view, json, choice)


def _perform(view: View, json: bool, choice: Choice) -> int:
    from outrider.demo import summary
    from outrider.demo.processes import Unexpected

    view.title(TITLE, ABOUT.format(agents=_agents(choice)))
    try:
        story = _run(view, choice)
    except Unexpected as fault:
        view.failed(f"The demonstration could not go on. {fault}")
        return 1
    except asyncio.CancelledError:
        view.failed("Interrupted; everything that was started has been ended.")
        return INTERRUPTED
    view.finale(story)
    view.hint(choice.hint)
    if json:
        told = {**summary.as_dict(story), "frameworks_left_out": dict(choice.left_out)}
        sys.stdout.write(json_.dumps(told) + "\n")
    return 0 if all(claim.true for claim in story.claims) else 1


def _agents(choice: Choice) -> str:
    """Who plays."""
    from outrider.demo.clerks.choice import TITLES

    *others, last = (TITLES[name] for name in choice.playing)
    return f"agents of {', '.join(others)} and {last}" if others else "two LangGraph agents"


def _run(view: View, choice: Choice) -> Story:
    """In a folder that is gone afterwards. Raises Unexpected, and CancelledError when interrupted."""
    with tempfile.TemporaryDirectory(prefix="outrider-demo-") as folder, asyncio.Runner() as runner:
        return runner.run(_interruptible(view, Path(folder), choice))


async def _interruptible(view: View, folder: Path, choice: Choice) -> Story:
    """The first end from outside ends the processes too, in order; an impatient second one does not disturb that."""
    from outrider.demo.story import tell

    task = asyncio.current_task()
    assert task is not None
    stops = iter((task.cancel,))

    def stop() -> None:
        next(stops, lambda: False)()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return await tell(view, folder, choice)

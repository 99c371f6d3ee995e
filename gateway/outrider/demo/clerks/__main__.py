"""The clerks of one framework, as a process: ``python -m outrider.demo.clerks FRAMEWORK``.

The framework and nothing else, but for one line that governs it where there is a sidecar; the agents' names are those
that they have in their framework. Tasks come as lines of JSON on standard input, ``CLERK/DUTY``, and what happens is
told on standard output; the end of the input ends the process.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Callable

from outrider.demo import telling
from outrider.demo.clerks.duties import DUTIES, GAVE_UP
from outrider.demo.clerks.functions import Functions
from outrider.demo.telling import tell

Work = Callable[..., str]


def run(work: Work, task: str, functions: Functions) -> None:
    """One duty of one clerk, and how it ended: answered, gave_up, or raised."""
    clerk, _, duty = task.partition("/")
    try:
        answer = work(clerk, DUTIES[duty], functions)
    except Exception as error:
        tell("end", task=task, how="raised", error=type(error).__name__, text=str(error))
        return
    tell("end", task=task, how="gave_up" if answer.startswith(GAVE_UP) else "answered", text=answer)


def main() -> None:
    """Until standard input ends; then at once, whatever still runs: there is nobody left to be told."""
    telling.alone()
    framework = sys.argv[1]
    clerks: dict[str, Work] = importlib.import_module(f"outrider.demo.clerks.{framework}").CLERKS
    if "OUTRIDER_URL" in os.environ:
        importlib.import_module(f"outrider_adapters.{framework}").install()
    functions = {clerk: Functions(clerk) for clerk in clerks}
    tell("ready")
    for line in sys.stdin:
        task = json.loads(line)["task"]
        clerk = task.partition("/")[0]
        threading.Thread(target=run, args=(clerks[clerk], task, functions[clerk]), daemon=True).start()
    os._exit(0)


if __name__ == "__main__":
    main()

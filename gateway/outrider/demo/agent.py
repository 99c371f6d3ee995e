"""An agent of the demonstration, as a process: ``python -m outrider.demo.agent NAME``.

Plain LangGraph and nothing else. Under Outrider the very same program is started with ``outrider run --agent NAME --``
in front of it. Tasks come as lines of JSON on standard input, what happens is told on standard output; the end of
the input ends the process.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from langchain.agents import create_agent

from outrider.demo.model import GAVE_UP, ScriptedModel
from outrider.demo.tasks import DESK, NIGHT_SHIFT, TASKS, Task
from outrider.demo.telling import tell
from outrider.demo.tools import desk_tools, night_tools

TOOLS = {DESK: desk_tools, NIGHT_SHIFT: night_tools}
MAX_STEPS = 1000


def work(agent: Any, task: Task) -> None:
    """One run of the agent, and how it ended: answered, gave_up, or raised."""
    try:
        state = agent.invoke({"messages": [("user", task.prompt)]}, {"recursion_limit": MAX_STEPS})
    except Exception as error:
        tell("end", task=task.id, how="raised", error=type(error).__name__, text=str(error))
        return
    answer = state["messages"][-1].text
    how = "gave_up" if answer.startswith(GAVE_UP) else "answered"
    tell("end", task=task.id, how=how, text=answer)


def main() -> None:
    """Runs until standard input ends. A task has its own thread, so that one that hangs does not hold up the next."""
    name = sys.argv[1]
    agent = create_agent(ScriptedModel(), TOOLS[name](), name=name)
    tell("ready")
    for line in sys.stdin:
        task = TASKS[json.loads(line)["task"]]
        threading.Thread(target=work, args=(agent, task), daemon=True).start()


if __name__ == "__main__":
    main()

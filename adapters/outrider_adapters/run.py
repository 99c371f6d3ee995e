"""``outrider run --agent NAME -- python agent.py``: start a program governed, without a line of code in it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from outrider.errors import Misconfigured
from outrider_adapters import environment

BOOTSTRAP = Path(__file__).resolve().parent / "bootstrap"
IGNORING = frozenset("IES")
"""Python's own flags that make it ignore PYTHONPATH or leave sitecustomize out."""


def run(argv: Sequence[str], agent: str, env: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process by the program; it keeps the process id, the terminal and every signal.

    Args:
        argv: the program and its arguments.
        agent: the agent's name; empty takes OUTRIDER_AGENT, and without that the token must be the agent's own.
        env: the environment, by default this process's own: OUTRIDER_URL, OUTRIDER_TOKEN and so on.

    Raises:
        Misconfigured: no program, a program that is not there, settings that are missing or wrong, or a Python told
            to ignore its environment, which could not be governed. Before anything is started.
    """
    given = dict(os.environ if env is None else env)
    program = _program(argv, given)
    surroundings = environment.read(given, agent=agent)
    if not (surroundings.agent or surroundings.names_itself):
        raise Misconfigured("the agent has no name. Write: outrider run --agent NAME -- python agent.py")
    _check_python_flags(argv)
    if surroundings.agent:
        given["OUTRIDER_AGENT"] = given["OUTRIDER_RUN_AGENT"] = surroundings.agent
    given["OUTRIDER_URL"] = surroundings.url
    before = given.get("PYTHONPATH", "")
    given["PYTHONPATH"] = f"{BOOTSTRAP}{os.pathsep}{before}" if before else str(BOOTSTRAP)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program, list(argv), given)  # noqa: S606 (no shell is wanted)


def _program(argv: Sequence[str], env: Mapping[str, str]) -> str:
    if not argv:
        raise Misconfigured("no program to run. Write: outrider run --agent NAME -- python agent.py")
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        raise Misconfigured(
            f"'{argv[0]}' is not a program on PATH. Write: outrider run --agent NAME -- python agent.py"
        )
    return program


def _check_python_flags(argv: Sequence[str]) -> None:
    """``python -I agent.py`` would run ungoverned, silently."""
    if not Path(argv[0]).name.startswith("python"):
        return
    for argument in argv[1:]:
        if not argument.startswith("-") or argument.startswith("--") or argument in {"-c", "-m", "-"}:
            return
        bad = IGNORING & set(argument[1:])
        if bad and argument[1] not in "WX":
            raise Misconfigured(
                f"Python is started with -{min(bad)}, so it would ignore the environment by which it is governed. "
                "Leave that flag out, or call outrider_adapters.langgraph.install() in the program."
            )

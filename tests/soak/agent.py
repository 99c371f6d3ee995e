"""The agents of one framework: ``python -m tests.soak.agent MODULE CLASS FOLDER SEED``.

The driver of the conformance suite builds and runs them. Threads go from run to run until the file ``FOLDER/stop``
appears; then each ends its run, and the process says what it saw. Functions write what they did into
``FOLDER/effects``, before anything can go wrong.
"""

from __future__ import annotations

import contextvars
import importlib
import itertools
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from outrider.testing.conformance.driver import Ask, Driver, Tool
from tests.soak.settings import LOCAL, REMOTE

THREADS = 3
MAX_TURNS = 4


class Office:
    """What the functions of all agents of this process share."""

    def __init__(self, folder: Path) -> None:
        self._effects = os.open(folder / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tools(self) -> list[Tool]:
        local = [Tool(name, getattr(self, name)) for name in LOCAL]
        return [*local, *(Tool(name, getattr(self, name), governed_as=f"remote.{name}") for name in REMOTE)]

    def _took_effect(self, text: str) -> None:
        os.write(self._effects, f"{text}\n".encode())

    def read_note(self, text: str = "") -> str:
        """Reads a note."""
        return f"note {text}"

    def flaky_read(self, text: str = "") -> str:
        """Reads a note over a bad line."""
        if random.random() < 0.3:
            raise ConnectionResetError("the line broke")
        return f"note {text}"

    def slow_read(self, text: str = "") -> str:
        """Reads a note, sometimes too late."""
        time.sleep(random.choice((0.0, 0.01, 0.05, 0.4)))
        return f"note {text}"

    def write_note(self, text: str = "") -> str:
        """Writes a note."""
        self._took_effect(text)
        time.sleep(random.choice((0.0, 0.0, 0.02)))
        return f"written {text}"

    def failing_write(self, text: str = "") -> str:
        """Writes a note, and fails after it or before."""
        if random.random() < 0.2:
            raise ConnectionRefusedError("nothing was written")
        self._took_effect(text)
        if random.random() < 0.5:
            raise ConnectionResetError("it was written, and the answer is lost")
        return f"written {text}"

    def read_price(self, text: str = "") -> str:
        """Asks for a price."""
        raise AssertionError("a remote tool ran here")

    def write_order(self, text: str = "") -> str:
        """Orders."""
        raise AssertionError("a remote tool ran here")


class Agents:
    """Runs, one after the other, on some threads."""

    def __init__(self, driver: Driver, folder: Path, seed: int) -> None:
        self._driver = driver
        self._stop = folder / "stop"
        self._tools = Office(folder).tools()
        self._seed = seed
        self._numbers = itertools.count()
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []

    def work(self, thread: int) -> None:
        dice = random.Random(f"{self._seed}/{thread}")
        while not self._stop.exists():
            try:
                # as a server runs each request: CrewAI leaves an event scope behind in the context of a run that a kill
                # ended, and takes no more than 100
                contextvars.copy_context().run(self._run, dice)
            except Exception:
                self.faults.append(traceback.format_exc())
                time.sleep(0.2)

    def _run(self, dice: random.Random) -> None:
        ran = self._driver.run(self._tools, [self._turn(dice) for _ in range(dice.randint(1, MAX_TURNS))])
        self.seen["runs"] += 1
        self.seen["runs killed"] += bool(ran.killed)
        for told in ran.told:
            self.seen[told.kind] += 1
        if ran.killed:
            time.sleep(0.1)  # an agent that was stopped is started again, but not in a tight loop

    def _turn(self, dice: random.Random) -> Sequence[Ask]:
        count = 1 if self._driver.framework == "crewai" else dice.choice((1, 1, 2))
        return [self._ask(dice) for _ in range(count)]

    def _ask(self, dice: random.Random) -> Ask:
        """Every call has a text of its own: that is how its effects are counted."""
        return Ask(dice.choice((*LOCAL, *REMOTE)), {"text": f"{os.getpid()}-{self._seed}-{next(self._numbers)}"})


def main() -> None:
    module, name, folder, seed = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    driver: Driver = getattr(importlib.import_module(module), name)()
    driver.install()
    agents = Agents(driver, folder, seed)
    threads = [threading.Thread(target=agents.work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    print("agents ready", flush=True)
    for thread in threads:
        thread.join()
    report = {"framework": driver.framework, "seen": agents.seen, "faults": agents.faults[:5]}
    (folder / f"report-{os.getpid()}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()

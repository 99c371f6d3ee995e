"""``python -m tests.soak --minutes 5``: agents of all frameworks, faults, kills, restarts, and then the reckoning.

At the end nothing may have leaked (tasks, threads, sockets, slots, memory), every call has one end, no side effect
happened twice, and the ledger verifies. Exit 1 where one of these does not hold; every broken promise is a sentence.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.soak import verdict
from tests.soak.readings import Reading, read
from tests.soak.settings import SUSPECT_S
from tests.soak.troubles import choose
from tests.soak.world import DRIVERS, Stuck, World, until

MILD_PART = 0.4
"""The last part of the time, in which the sidecar is not restarted: what leaks must be seen in one process."""
WARM_PART = 0.3
"""Of that: after it the sidecar has seen everything once."""
SETTLE_S = 40.0
LEAST_S = 20.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long agents work (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of the troubles and of what the agents ask for")
    parser.add_argument(
        "--frameworks",
        nargs="+",
        choices=[*DRIVERS],
        default=[*DRIVERS],
        metavar="NAME",
        help=f"of {', '.join(DRIVERS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found there")
    return parser.parse_args()


class Soak:
    """One run. ``found`` is what it has to say."""

    def __init__(self, world: World, seconds: float) -> None:
        self._world = world
        self._seconds = max(LEAST_S, seconds)
        self._readings: dict[str, Reading] = {}
        self.troubles: Counter[str] = Counter()

    def run(self) -> dict[str, Any]:
        world = self._world
        world.sidecar.start()
        self._readings["fresh"] = read(world)
        for framework in world.frameworks:
            world.start_agents(framework)
        world.await_agents()
        self._trouble(self._seconds * (1 - MILD_PART), mild=False)
        world.await_agents()
        self._trouble(self._seconds * MILD_PART * WARM_PART, mild=True)
        self._readings["warm"] = read(world)
        self._trouble(self._seconds * MILD_PART * (1 - WARM_PART), mild=True)
        reports = world.end_agents()
        self._await_rest()
        self._readings["end"] = read(world)
        world.sidecar.terminate()
        return self._judged(reports)

    def _trouble(self, seconds: float, *, mild: bool) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            trouble = choose(self._world, mild=mild)
            self.troubles[trouble.__name__] += 1
            trouble(self._world)

    def _await_rest(self) -> None:
        """What was cut off has its time to be settled; then everything must be back."""
        time.sleep(SUSPECT_S)
        fresh = self._readings["fresh"]

        def rested() -> bool:
            now = read(self._world)
            return not (now.calls or now.processes or now.held) and now.tasks <= fresh.tasks

        try:
            until(rested, SETTLE_S, "rest")
        except Stuck:
            return  # the reckoning says what is left

    def _judged(self, reports: list[dict[str, Any]]) -> dict[str, Any]:
        fresh, warm, end = (self._readings[name] for name in ("fresh", "warm", "end"))
        broken, counts, calls = verdict.of_ledger(self._world.sidecar.data)
        effects = self._world.effects()
        broken += verdict.of_readings(fresh, warm, end)
        broken += verdict.of_effects(effects, calls)
        broken += [f"an agent of {one['framework']} raised: {fault}" for one in reports for fault in one["faults"]]
        return {
            "ok": not broken,
            "broken": broken,
            "troubles": dict(self.troubles),
            "ledger": counts,
            "effects": len(effects),
            "agents": [{"framework": one["framework"], **one["seen"]} for one in reports],
            "readings": {name: reading.as_dict() for name, reading in self._readings.items()},
        }


def show(found: dict[str, Any]) -> None:
    """For people."""
    for name in ("troubles", "ledger"):
        print(f"{name}: " + ", ".join(f"{word} {count}" for word, count in sorted(found[name].items())))
    print(f"side effects: {found['effects']}")
    for one in found["agents"]:
        print("  " + ", ".join(f"{word} {count}" for word, count in one.items()))
    for name, reading in found["readings"].items():
        print(f"{name:>6}: " + ", ".join(f"{word} {value:g}" for word, value in reading.items()))
    for sentence in found["broken"][:50]:
        print(f"BROKEN: {sentence}")
    print("nothing leaked, nothing happened twice, every call has one end" if found["ok"] else "the soak failed")


def main() -> int:
    options = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that processes are ended on the way out
    with World(options.frameworks, options.seed) as world:
        soak = Soak(world, options.minutes * 60)
        try:
            found = soak.run()
        except Exception:
            print(f"--- the sidecar's log\n{world.sidecar.log}", file=sys.stderr)
            raise
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())

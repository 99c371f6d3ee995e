"""``python -m tests.bench``: how fast Outrider is, as ratios to what else does a part of its job, in one run.

Client, sidecar and upstream are processes of their own. It says what it found and exits 0, targets met or not: a
benchmark is not a test. Exit 1: it could not measure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.bench.cases import CASES, run
from tests.bench.figures import FULL, QUICK
from tests.bench.processes import Broken
from tests.bench.report import as_json, machine, show


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a minute at most; shows that the bench works")
    parser.add_argument("--only", metavar="NAME", action="append", choices=[*CASES], help=f"one of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds for each comparison")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything there; - for the output")
    parser.add_argument("--data", metavar="DIR", type=Path, help="where data folders are made (default: the system's)")
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    if sys.platform != "linux":
        print("The bench reads /proc, so it runs on Linux only.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that processes are ended on the way out
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = effort.with_rounds(options.rounds)
    base = options.data or Path(tempfile.gettempdir())
    on = machine(base)
    talk = Console(stderr=True)
    try:
        findings = run(
            options.only or [*CASES], effort, base, lambda name: talk.print(f"measuring {name} …", style="dim")
        )
    except Broken as error:
        print(f"The bench could not measure: {error}", file=sys.stderr)
        return 1
    on["load_average_after"] = round(os.getloadavg()[0], 2)
    everything = json.dumps(as_json(on, findings, options.quick), indent=1)
    if options.json and str(options.json) != "-":
        options.json.write_text(everything + "\n")
    if str(options.json) == "-":
        print(everything)
    else:
        show(Console(), on, findings, options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())

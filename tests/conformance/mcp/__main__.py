"""``python -m tests.conformance.mcp``: the official MCP conformance suite through a real sidecar, as a table.

Node and the suite are fetched once into a folder beside the temporary files, or into what ``OUTRIDER_MCP_SUITE`` names.
Exit code 0: everything passes that has to; 1: something does not; 2: nothing could be run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from rich.console import Console
from rich.table import Table

from tests.conformance.mcp.environments import Unavailable
from tests.conformance.mcp.gates import BASELINE, RUNS, Run, failed, gates, sidecar_before_fixture
from tests.conformance.mcp.suite import Result, Suite


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.mcp", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--gate", action="append", choices=["A", "B", "C"], help="only this one; may be repeated")
    parser.add_argument("--scenario", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--output", action="store_true", help="also print what the suite said of what failed")
    return parser.parse_args()


async def _run(suite: Suite, runs: list[Run], talk: Console) -> list[tuple[Run, Result]]:
    found: list[tuple[Run, Result]] = []
    with sidecar_before_fixture() as sidecar:
        async with gates(suite, sidecar) as ready:
            for run in runs:
                talk.print(f"{run} …", style="dim")
                found.append((run, await ready.run(run)))
    return found


def _table(found: list[tuple[Run, Result]]) -> Table:
    table = Table(title="MCP conformance, through a real sidecar", title_justify="left")
    for name in ("gate", "version", "scenario", "scenarios", "checks", ""):
        table.add_column(name, justify="right" if name in ("scenarios", "checks") else "left")
    for run, result in found:
        wrong = failed(run, result)
        checks = [counts for name, counts in result.scenarios.items() if not name.startswith(tuple(BASELINE))]
        passed, all_ = sum(good for good, _ in checks), sum(good + bad for good, bad in checks)
        word = f"[bold red]failed: {', '.join(wrong)}[/]" if wrong else "[green]passed[/]"
        table.add_row(run.gate, run.version, run.scenario, str(len(checks)), f"{passed}/{all_}", word)
    return table


def main() -> int:
    options = _arguments()
    runs = [
        run
        for run in RUNS
        if run.gate in (options.gate or "ABC") and (not options.scenario or run.scenario in options.scenario)
    ]
    if not runs:
        known = ", ".join(sorted({run.scenario for run in RUNS}))
        print(f"No such run. The scenarios are: {known}.", file=sys.stderr)
        return 2
    talk = Console(stderr=True)
    try:
        suite = Suite.get()
        found = asyncio.run(_run(suite, runs, talk))
    except Unavailable as why:
        print(f"The official suite cannot be had, or does not end: {why}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(found))
    for begins, reason in BASELINE.items():
        console.print(f"  {begins}*: {reason}", markup=False)
    bad = [(run, result) for run, result in found if failed(run, result)]
    for run, result in bad if options.output else ():
        console.print(f"── {run}\n{result.output[-6000:]}", markup=False, highlight=False)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

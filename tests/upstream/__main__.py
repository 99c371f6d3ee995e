"""``python -m tests.upstream langgraph|langchain|crewai|autogen``: a framework's own tests, without the adapter and
through it. Exit 1: a test ends otherwise, or the gateway saw too little. Exit 2: what is needed could not be had, and
nothing is known.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.upstream.compare import Verdict
from tests.upstream.rounds import RoundBroken, through_adapter, without_adapter
from tests.upstream.suites import SUITES, Suite
from tests.upstream.workshop import Unavailable, Workshop

WHY_LINES = 12
HEADINGS = ("suite", "tests", "failing", "calls", "bodies", "beside", "seconds", "verdict")
"""``failing`` and ``seconds``: without the adapter / through it. ``bodies`` of tools ran inside a governed call,
``beside`` outside of all."""


def judge(suite: Suite, workshop: Workshop) -> Verdict:
    """Fetch, run twice, compare. Raises Unavailable and RoundBroken."""
    sdist = workshop.sdist(suite)
    python = workshop.environment(suite)
    with tempfile.TemporaryDirectory(prefix=f"{suite.package}-", dir=workshop.scratch) as name:
        folder = Path(name)
        plain = workshop.unpack(suite, sdist, folder / "without")
        without = without_adapter(suite, python, plain)
        governed = workshop.unpack(suite, sdist, folder / "through")
        through = through_adapter(suite, python, governed, folder / "data")
    return Verdict(suite, workshop.version(suite), without, through)


def show(console: Console, verdicts: Sequence[Verdict]) -> None:
    """The table for people, and every difference with its reason."""
    title = "The frameworks' own tests, without the adapter / through it"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in HEADINGS:
        left = heading in ("suite", "verdict")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for one in verdicts:
        seconds = f"{one.without.seconds:.0f} / {one.through.seconds:.0f}"
        bodies = (sum(one.through.governed.values()), sum(one.through.direct.values()))
        failing = f"{len(one.without.failing)} / {len(one.through.failing)}"
        numbers = (len(one.without.tests), failing, one.through.seen.calls, *bodies)
        table.add_row(
            f"{one.suite.package} {one.version}",
            *map(str, numbers),
            seconds,
            "faults" if one.faults else "identical",
        )
    console.print(table)
    for one in verdicts:
        for fault in one.faults:
            console.print(f"{one.suite.package}: {fault}", style="red", markup=False)
        for difference in one.differences:
            console.print(f"\n{difference.test}: {difference.without} → {difference.through}", markup=False)
            for line in difference.why.splitlines()[-WHY_LINES:]:
                console.print(f"    {line}", markup=False, style="dim")


@contextmanager
def _scratch(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="outrider-upstream-") as name:
        yield Path(name)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=(__doc__ or "").replace("``", ""))
    parser.add_argument("framework", nargs="+", choices=[*SUITES], help="whose tests")
    parser.add_argument(
        "--scratch", metavar="DIR", type=Path, help="keep what was fetched here (default: nothing kept)"
    )
    parser.add_argument("--json", action="store_true", help="for programs: JSON instead of a table")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = _arguments(words)
    told = Console(stderr=True)
    verdicts: list[Verdict] = []
    try:
        with _scratch(options.scratch) as scratch:
            for suite in (suite for name in options.framework for suite in SUITES[name]):
                told.print(f"running {suite.package}, twice …", style="dim")
                verdicts.append(judge(suite, Workshop(scratch)))
    except Unavailable as error:
        print(f"Nothing is known: {error}", file=sys.stderr)
        return 2
    except RoundBroken as error:
        print(f"A suite broke: {error}", file=sys.stderr)
        return 1
    if options.json:
        on = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "python": platform.python_version()}
        print(json.dumps({**on, "suites": [one.as_json() for one in verdicts]}, indent=1))
    else:
        show(Console(), verdicts)
    return 1 if any(one.faults for one in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())

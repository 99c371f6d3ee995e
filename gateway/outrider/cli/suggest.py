"""``outrider suggest``: a starting policy out of what the ledger saw."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.cli.fault import CliError
from outrider.cli.ledger import caught_up, moment
from outrider.cli.options import Data
from outrider.cli.place import data_folder
from outrider.cli.shown import warn
from outrider.cli.starting import fresh, write

if TYPE_CHECKING:
    from outrider.suggest.written import Suggestion


def register(app: typer.Typer) -> None:
    app.command()(suggest)


def suggest(
    data: Data = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="7d or 12h (ago), or a time in RFC 3339; without it: all.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write DIR/policy.yaml; without it: to stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file when it is there.")] = False,
) -> None:
    """Write a starting policy from the ledger of a data folder: the agents and tools that were seen, with guesses of
    effects, timeouts and limits, each with its reason and marked REVIEW, and for each agent a rule that allows what it
    was seen to call. What the policy in force says is carried over."""
    from outrider.suggest.written import suggestion

    target = _target(out, force) if out is not None else None
    found = suggestion(caught_up(data_folder(data)), _since(since))
    if target is None:
        print(found.text, end="")
    else:
        write(target, found.text)
    _tell(found, target)


def _since(text: str) -> float | None:
    days = re.fullmatch(r"([0-9]{1,3})d", text)
    return moment("since", f"{int(days[1]) * 24}h" if days else text)


def _target(out: Path, force: bool) -> Path:
    path = out / "policy.yaml"
    others = sorted(found.name for found in out.glob("*.y*ml") if found != path) if out.is_dir() else []
    if others:
        raise CliError(f"{out} already holds a policy: {', '.join(others[:3])}.", "name another folder.")
    return fresh(path, force)


def _tell(found: Suggestion, target: Path | None) -> None:
    """Beside the text, on stderr. Exit code 1 where ``check`` would refuse it whatever the environment."""
    from outrider.policy.load import SECRETS_MISSING

    missing = [fault for fault in found.faults if fault.code in SECRETS_MISSING]
    errors = [fault for fault in found.faults if fault.severity == "error" and fault not in missing]
    where = f"Wrote {target}. " if target is not None else ""
    warn(
        f"{where}From {found.calls} calls of {found.agents} agents to {found.tools} tools: "
        f"{found.text.count('# REVIEW')} guesses to review, {len(errors)} error(s), "
        f"{len(found.faults) - len(errors) - len(missing)} warning(s)."
    )
    for what, count in found.left_out.items():
        warn(f"Left out, because there are too many: {count} {what}.")
    for fault in missing:
        warn(f"Not here, and needed where it is served: {fault.message}")
    for fault in errors:
        warn(f"error: {fault}")
    if errors:
        raise typer.Exit(1)
    if target is not None:
        warn(f"Next: read it, then outrider check --policy {target.parent}")

"""``outrider init``, ``check`` and ``policy schema``: write a policy, find its faults, help an editor with it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from outrider.cli.fault import CliError
from outrider.cli.options import Json
from outrider.cli.place import DEFAULT_POLICY
from outrider.cli.shown import as_json, say

FILE = "policy.yaml"
PolicyDir = Annotated[
    Path, typer.Option("--policy", envvar="OUTRIDER_POLICY", metavar="DIR", help="The folder of policy files.")
]


def register(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(check)
    group = typer.Typer(help="Help with policy files.", no_args_is_help=True)
    group.command()(schema)
    app.add_typer(group, name="policy")


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write it.")] = DEFAULT_POLICY,
    force: Annotated[bool, typer.Option("--force", help="Replace the file when it is there.")] = False,
    observe: Annotated[
        bool, typer.Option("--observe", help="For the first day: it records what it would refuse, and refuses nothing.")
    ] = False,
) -> None:
    """Write a commented policy to start from."""
    from importlib.resources import files

    text = files("outrider.policy").joinpath("default.yaml").read_text(encoding="utf-8")
    text = _observing(text) if observe else text
    path = folder / FILE
    others = sorted(found.name for found in folder.glob("*.y*ml") if found != path) if folder.is_dir() else []
    if others:
        raise CliError(f"{folder} already holds a policy: {', '.join(others[:3])}.", "name another folder.")
    if path.exists() and not force:
        raise CliError(f"{path} is there already.", "use --force to replace it, or name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}.", "name another folder.") from None
    say(f"Wrote {path}. Next: outrider check --policy {folder}, then outrider serve --policy {folder}")


_FIRST_DAY = """\
# What this policy would refuse is recorded, and passes; kill switches act. Once some traffic was seen:
#   outrider suggest --out NEW      writes a policy from it; read it, check it, serve it
mode: observe
"""
_PATIENT = "timeouts: {total: 20m, perTry: 5m, connect: 2s}    # so long that how long things take can be seen"


def _observing(text: str) -> str:
    """The same policy for the first day."""
    kind, timeouts = "kind: Policy\n", "timeouts: {total: 2m, perTry: 30s, connect: 2s}"
    assert kind in text and timeouts in text, "the shipped policy has both"
    return text.replace(kind, kind + _FIRST_DAY, 1).replace(timeouts, _PATIENT, 1)


def check(policy: PolicyDir = DEFAULT_POLICY, json: Json = False) -> None:
    """Find every fault of a policy, with its line and how to mend it. Exit code 1 on an error."""
    from outrider.policy.load import check as find_faults

    found, faults = find_faults(policy)
    if json:
        as_json(
            {
                "ok": found is not None,
                "name": None if found is None else found.name,
                "digest": None if found is None else found.digest,
                "faults": [asdict(fault) for fault in faults],
            }
        )
    else:
        for fault in faults:
            say(f"{fault.severity}: {fault}")
        errors = sum(fault.severity == "error" for fault in faults)
        good = "" if found is None else f" Policy '{found.name}' is good."
        say(f"{errors} error(s), {len(faults) - errors} warning(s).{good}")
    raise typer.Exit(0 if found is not None else 1)


def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    from outrider.policy.schema import json_schema

    as_json(json_schema())

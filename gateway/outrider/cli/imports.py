"""``outrider import``: a starting policy from what a service says of itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.fault import CliError
from outrider.cli.shown import warn
from outrider.cli.starting import fresh, write

if TYPE_CHECKING:
    from outrider.importing.tools import Imported

Name = Annotated[
    str, typer.Option("--name", metavar="NAME", help="The upstream's name. Without it: what the service calls itself.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Write DIR/NAME.yaml; without it: to stdout.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file when it is there.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Write a starting policy from what a service says of itself.", no_args_is_help=True)
    group.command("mcp", context_settings={"allow_interspersed_args": False})(mcp)
    group.command("openapi")(openapi)
    app.add_typer(group, name="import")


def mcp(
    target: Annotated[
        list[str], typer.Argument(metavar="URL|COMMAND…", help="The server's endpoint, or its program and arguments.")
    ],
    name: Name = "",
    out: Out = None,
    force: Force = False,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="Of a URL; secrets as {env:NAME}.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Of a command; secrets as {env:NAME}.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, max=600, help="How long the server may take.")
    ] = 60.0,
) -> None:
    """Ask an MCP server for its tools, and write a policy for it: each tool with a guess of its effect and the reason,
    marked REVIEW. What reads is allowed, what may change something is denied until a person has looked at it. Options
    stand before the URL or the command; a command is started, asked, and ended."""
    import asyncio
    import logging

    from outrider.importing import mcp as importing

    _checked(name)
    section: dict[str, Any] = {"command": target} | _where(target)
    if target[0].lower().startswith(("http://", "https://")):
        if len(target) > 1:
            raise CliError(f"'{target[1]}' stands behind the URL.", "write options before it.", exit_code=2)
        section = {"url": target[0]}
    pairs = {"headers": _pairs("--header", header), "env": _pairs("--env", env)}
    section |= {key: value for key, value in pairs.items() if value}
    logging.getLogger("outrider.mcp").addHandler(logging.NullHandler())  # what matters of it is in the error
    found = asyncio.run(importing.imported(name, section, _folder(out), timeout))
    _give(found, " ".join(target), out, force)


def openapi(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="OpenAPI 3, YAML or JSON; - is stdin.")],
    name: Name = "",
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="Where the service is. Without it: the document's first server.")
    ] = "",
    out: Out = None,
    force: Force = False,
) -> None:
    """Write a policy for the operations of an OpenAPI document: each with the request that it becomes and a guess of
    its effect, marked REVIEW. What reads is allowed, what may change something is denied until a person has looked at
    it. Credentials become headers with {env:NAME}."""
    from outrider.importing.document import MAX_JSON_BYTES, read
    from outrider.importing.openapi import imported

    _checked(name)
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as stream:
            raw = stream.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}.", "name a file, or - for stdin.") from None
    _give(imported(read(raw, str(file)), name, url), file.name, out, force)


def _checked(name: str) -> None:
    from outrider.importing.tools import is_upstream

    if name and not is_upstream(name):
        fix = "begin with a letter, then letters, digits, '-' and '_'; not local."
        raise CliError(f"'{name[:80]}' cannot be the name of an upstream.", fix, exit_code=2)


def _where(command: list[str]) -> dict[str, str]:
    """A command that names files from here is run from here; else it runs in the policy's folder."""
    from_here = any(os.sep in word and not Path(word).is_absolute() and Path(word).exists() for word in command)
    return {"cwd": str(Path.cwd())} if from_here else {}


def _folder(out: Path | None) -> Path:
    """Where relative paths start: the policy's folder, where it is there already."""
    return out if out is not None and out.is_dir() else Path()


def _pairs(option: str, said: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in said or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CliError(f"{option} needs NAME=VALUE.", f"write {option} NAME=VALUE.", exit_code=2)
        found[key] = value
    return found


def _give(found: Imported, source: str, out: Path | None, force: bool) -> None:
    from outrider.importing.written import written

    target = fresh(out / f"{found.name}.yaml", force) if out is not None else None
    text = written(found, source, _folder(out))
    if target is None:
        print(text.text, end="")
    else:
        write(target, text.text)
    errors = [fault for fault in text.faults if fault.severity == "error"]
    warn(
        (f"Wrote {target}. " if target is not None else "")
        + f"{len(found.tools)} tools of the upstream {found.name}: {text.text.count('# REVIEW')} guesses to review, "
        f"{len(found.notes)} remark(s), {len(errors)} error(s)."
    )
    for what, count in sorted(found.left_out.items()):
        warn(f"Left out: {count} {what}.")
    for variable in text.needs:
        if not os.environ.get(variable):
            warn(f"Not here, and needed where it is served: the environment variable {variable}.")
    for fault in errors:
        warn(f"error: {fault}")
    if errors:
        raise typer.Exit(1)
    if target is not None:
        warn(f"Next: read it, then outrider check --policy {target.parent}")

"""All commands, in the order of ``outrider --help``."""

from __future__ import annotations

import typer

from outrider import __version__
from outrider.cli import (
    agents,
    calls,
    demo,
    explain,
    fleet,
    imports,
    kills,
    ledger,
    policy,
    runs,
    serve,
    suggest,
    tokens,
    upstreams,
)
from outrider.cli.fault import CliError
from outrider.errors import Misconfigured

app = typer.Typer(
    name="outrider",
    help="A sidecar that governs AI agents' tool calls.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"outrider {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """A sidecar that governs AI agents' tool calls: timeouts, safe retries, breakers, kill switches, audit trail."""


for group in (
    serve,
    policy,
    suggest,
    imports,
    explain,
    calls,
    kills,
    runs,
    agents,
    tokens,
    fleet,
    upstreams,
    ledger,
    demo,
):
    group.register(app)

FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("probe", add_help_option=False, context_settings=FORWARDED)
def _probe(context: typer.Context) -> None:
    """Ask a sidecar whether it is ready or alive; for exec probes."""
    from outrider.cli import probe

    raise typer.Exit(probe.main(context.args))


@app.command("run", add_help_option=False, context_settings=FORWARDED)
def _run(context: typer.Context) -> None:
    """Run an agent's program with its framework governed, with no line of code."""
    from outrider.cli import run

    raise typer.Exit(run.main(context.args))


def run_app(words: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        app(words, prog_name="outrider")
    except Misconfigured as wrong:
        raise CliError("\n".join(str(fault) for fault in wrong.faults)) from None
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0
